"""Evaluate a network at a point of weight space that no training has visited.

The BatchNorm statistics of a checkpoint do not fit another point, so they are estimated anew there
(Garipov et al. 2018, published code). The ends of a curve are treated in the same way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.augmenting import flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.augmentation import Augment
from phasegrid.metrics.network.passes import Passes
from phasegrid.models.evaluation import Evaluation
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.image_layouts import layer_out
from phasegrid.models.network_state import drawing_layers
from phasegrid.models.weights import has_batch_norm

Numbers = list[float | None]  # None if a number does not exist
Row = dict[str, float | int | Numbers | None]


@dataclass(frozen=True, slots=True)
class PointEvaluation:
    """The results of a point on the whole training and test sets, in eval mode with refreshed
    BatchNorm statistics.
    """

    train: Evaluation
    test: Evaluation


@dataclass(frozen=True, slots=True)
class Evaluator:
    """The data for measurements at points, and the examples that refresh BatchNorm (None: no
    BatchNorm).
    """

    data: Dataset
    refresh_inputs: Tensor | None
    batch_size: int

    def measure(self, passes: Passes) -> PointEvaluation:
        """Measure a network at its present weights; BatchNorm statistics are overwritten."""
        if self.refresh_inputs is not None:
            passes.refresh(self.refresh_inputs, self.batch_size)
        data = self.data
        return PointEvaluation(
            passes.evaluate(data.train_inputs, data.train_labels),
            passes.evaluate(data.test_inputs, data.test_labels),
        )


def live_network(model: nn.Module) -> FlatNetwork:
    """Return a copy of `model` whose weights can be set, and a function that converts images to a
    suitable layout.
    """
    flat = FlatNetwork.of(model)
    lay_out = layer_out(model)
    flat.module.register_forward_pre_hook(lambda _, args: tuple(map(lay_out, args)))
    return flat


def make_evaluator(
    module: nn.Module,
    data: Dataset,
    examples: int | None,
    batch_size: int,
    rng: torch.Generator,
    augment: Augment = "none",
) -> Evaluator:
    """Draw the training inputs for BatchNorm: `examples` of them, or all (None), in random order,
    without replacement; then how each is augmented, once for all points.

    The order matters if a set is sorted by class. Nothing is drawn for a network without BatchNorm.
    """
    if not has_batch_norm(module):
        return Evaluator(data, None, batch_size)
    order = torch.randperm(len(data.train_inputs), generator=rng, device=rng.device)[:examples]
    inputs = data.train_inputs[order.to(data.train_inputs.device)]
    if augment == "flip_crop":
        inputs = flip_crop(inputs, rng, data.padding)
    return Evaluator(data, inputs, batch_size)


def train_mode_without_draws(module: nn.Module, example: Tensor) -> None:
    """Put `module` into train mode (BatchNorm uses batch statistics), except layers that draw
    random numbers (dropout), which stay in eval mode.

    These are found by running a copy on `example` (a few inputs), because attention, recurrent
    layers and functions draw too.
    """
    drawing = drawing_layers(module, example)
    module.train()
    for name in drawing:
        module.get_submodule(name).training = False


def finite_or_none(value: float) -> float | None:
    """Return `value`, or None if it is not finite: a missing number is null."""
    return value if math.isfinite(value) else None


def losses_and_errors(evaluations: Sequence[Evaluation]) -> tuple[Numbers, Numbers]:
    """Return losses and errors; null if the loss is not finite, because the argmax of NaN is not a
    prediction.
    """
    losses = [finite_or_none(e.loss) for e in evaluations]
    errors = [
        None if loss is None else e.error_percent
        for loss, e in zip(losses, evaluations, strict=True)
    ]
    return losses, errors


def numbers_at(measured: Sequence[PointEvaluation]) -> dict[str, Numbers]:
    """Return what is measured at some points, by the names of columns; null where it is not
    finite.
    """
    found: dict[str, Numbers] = {}
    for part in ("train", "test"):
        losses, errors = losses_and_errors([getattr(point, part) for point in measured])
        found |= {f"{part}_loss": losses, f"{part}_error_percent": errors}
    return found
