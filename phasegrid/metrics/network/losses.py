"""The mean loss of a network on fixed examples, and its gradient, at any weights.

The running statistics of BatchNorm stay those of the network: only its weights move. Letters: N
examples, P trainable parameters, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.hessian.preparing import as_parameters, draw_examples, prepare
from phasegrid.metrics.network.folding import fold_if_same
from phasegrid.metrics.network.precision import full_precision
from phasegrid.metrics.on_examples import GRADIENT_BATCH, BatchNormPolicy
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.image_layouts import layer_out
from phasegrid.models.network_state import kept_buffers, outputs_of
from phasegrid.models.weights import has_batch_norm, num_parameters, uses_batch_statistics
from phasegrid.tasks.batches import cut
from phasegrid.tasks.scoring import Scoring

Some: TypeAlias = "slice | Tensor"
"""Selects examples."""

SAMPLED = 8
"""Examples on which folded BatchNorm is compared with its layers."""


class OnExamples(Protocol):
    """Arguments of a metric of one network on some training examples."""

    @property
    def examples(self) -> int:
        """How many are drawn (all, if there are fewer)."""

    @property
    def example_seed(self) -> int:
        """The seed with which they are drawn."""

    @property
    def batch_norm(self) -> BatchNormPolicy:
        """What BatchNorm does."""


def prepared(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    settings: OnExamples,
    metric: str,
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a copy of the one model under the BatchNorm policy, and the examples with their
    labels.

    Raises:
        MetricError: if there is not one model, or nothing in it is trainable.
    """
    if len(models) != 1:
        raise MetricError(f"{metric} is measured on one model, got {len(models)}")
    if num_parameters(models[0]) == 0:
        raise MetricError(f"{metric}: {type(models[0]).__name__} has no trainable parameter")
    module = prepare(models[0], settings.batch_norm, data.train_inputs, rng)
    inputs, labels = draw_examples(data, settings.examples, settings.example_seed)
    return module, as_parameters(inputs, module), labels


def policy_of(module: nn.Module, settings: OnExamples) -> str | None:
    """Return the BatchNorm policy used; None for a network without BatchNorm."""
    return settings.batch_norm if has_batch_norm(module) else None


class MovingLoss:
    """The mean loss over scored labels of `inputs` (N, ...) and `labels`, as a function of the
    weights (P,), with `weights` those of `module`.

    `module` is used in its present mode, which decides what BatchNorm does, and not changed. The
    loss is taken in float64 from the logits, all else in the dtype of the weights without TF32.
    With `normalize_logits` the logits f (C,) of an example are f / sqrt(mean_c (f_c - mean f)^2)
    (Andriushchenko et al. 2023). Examples pass in batches of `GRADIENT_BATCH`; all
    together where a normalisation uses the statistics of the batch.

    Raises:
        MetricError: by the name of `metric`, if the outputs have another shape than the labels and
            one more, of classes, or the loss at `weights` is not finite.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Tensor,
        labels: Tensor,
        scoring: Scoring,
        metric: str,
        normalize_logits: bool = False,
    ) -> None:
        self._flat = FlatNetwork.of(module)
        self._scoring, self._metric = scoring, metric
        self._inputs, self._labels = layer_out(module)(inputs), labels
        self._network = fold_if_same(self._flat.module, self._inputs[:SAMPLED])
        self._normalizes = normalize_logits
        self._parameters = [p for p in self._flat.module.parameters() if p.requires_grad]
        self._together = uses_batch_statistics(module)
        self.weights = self._flat.rows()[0]
        self.all = slice(0, len(labels))
        self.at_weights = self.value(self.weights, self.all)
        if self.at_weights - self.at_weights != 0:
            raise MetricError(
                f"{metric}: the loss is {self.at_weights} on {len(labels)} examples; these are not"
                f" the weights of a successful training. Was it recorded as diverged?"
            )

    def value(self, weights: Tensor, some: Some) -> float:
        """Return the mean loss of `some` examples at `weights` (P,)."""
        self._flat.assign(weights)
        with full_precision(weights.device), kept_buffers(self._flat.module), torch.no_grad():
            return sum(float(loss) for loss in self._losses(some))

    def gradient(self, weights: Tensor, some: Some) -> tuple[float, Tensor]:
        """Return the mean loss of `some` examples at `weights` (P,), and its gradient (P,)."""
        self._flat.assign(weights)
        total, gradient = 0.0, torch.zeros_like(weights)
        with full_precision(weights.device), kept_buffers(self._flat.module), torch.enable_grad():
            for loss in self._losses(some):
                parts = torch.autograd.grad(
                    loss, self._parameters, allow_unused=True, materialize_grads=True
                )
                gradient += torch.cat([part.reshape(-1) for part in parts])
                total += float(loss.detach())
        return total, gradient

    def batches(self, size: int | None) -> list[slice]:
        """Cut the examples into batches of `size` (None: one of all)."""
        num = len(self._labels)
        return [slice(i, min(i + (size or num), num)) for i in range(0, num, size or num)]

    def _losses(self, some: Some) -> Iterator[Tensor]:
        """Yield the terms of the mean loss of `some` examples, batch by batch."""
        operations = self._scoring.operations
        inputs, labels = self._inputs[some], self._labels[some]
        num = operations.num_scored(labels)
        size = len(labels) if self._together else GRADIENT_BATCH
        for batch in cut(len(labels), size):
            x, y = operations.trim(inputs[batch], labels[batch])
            outputs = outputs_of(self._network, x)
            if fault := self._scoring.fault(outputs, y):
                raise MetricError(f"{self._metric}: {fault}")
            if self._normalizes:
                outputs = outputs / outputs.std(dim=-1, keepdim=True, correction=0)
            yield self._scoring.total(outputs, x, y) / num
