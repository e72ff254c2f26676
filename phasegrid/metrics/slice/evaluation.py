"""Evaluate the loss at many points of a line or a plane of weights; forward passes only.

A point is one axpy into the live flat weights. Then BatchNorm is folded into the convolutions in
place, once per point. Images are laid out channels last and pass in batches that stay in a core's
cache. Nothing is built again from point to point, and if no label can be padding, nothing waits for
the device before the last point. In float32 on a CPU the sums and ReLUs after convolutions are
fused with them (`phasegrid.metrics.network.pointwise`). On one CPU thread, ResNet18 of width 8,
1,000 images of 32x32 in float32, BatchNorm as saved: this is 2.4 times as fast as loading a state
dict for every point and passing all images at once, and 1.5 times as fast as the same with batches
of 128, from 1.3 to 1.8 in single rounds on a busy machine (tests/benchmarks/bench_slices.py).

Memory: a second copy of the examples (channels last), D + 5 vectors of P numbers (weights, room for
a gradient, centre, row, point, directions), the folded weights, and the activations of one batch:
`phasegrid.tasks.operations.evaluation_batch` examples, or up to 500 to refresh BatchNorm. Letters:
P trainable parameters, D directions (1 or 2), A and B points on the axes, S sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.keys import stream_seed
from phasegrid.metrics.network.folding import FoldedConvolution, fold_batch_norm
from phasegrid.metrics.network.pointwise import fuse_pointwise
from phasegrid.metrics.network.recording import Recorded
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.image_layouts import layer_out
from phasegrid.models.network_state import kept_buffers, outputs_of
from phasegrid.models.weights import has_batch_norm, refresh_batch_norm
from phasegrid.tasks import TASKS
from phasegrid.tasks.scoring import Scores, Scoring


@dataclass(frozen=True, slots=True)
class Examples:
    """A set prepared for evaluation: batches of inputs and labels on the device, their scoring, and
    the number of scored labels.
    """

    batches: tuple[tuple[Tensor, Tensor], ...]
    scoring: Scoring
    num_scored: int


class MovingNetwork:
    """A copy of a network in eval mode whose weights move: `flat.assign`, then `settle`, then
    `measure`.

    `settle` estimates BatchNorm statistics from `refresh_inputs` (M, ...); with None they stay as
    saved. With ``bf16`` the passes run under autocast. The given model is not changed.
    """

    def __init__(
        self,
        model: nn.Module,
        refresh_inputs: Tensor | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.flat = FlatNetwork.of(model)
        self.flat.module.eval()
        self._layer_out = layer_out(self.flat.module)
        self._network = fold_batch_norm(self.flat.module)
        self._folds = _keep_folds(self._network)
        if precision == "fp32":
            self._network = fuse_pointwise(self._network, _KeptFold)
        device = self.flat.weights.device
        self._fold = Recorded(self._update_folds, device)
        self._sums: dict[Scoring, Recorded] = {}
        self._bf16 = precision == "bf16"
        self._refresh_inputs = None if refresh_inputs is None else self.lay_out(refresh_inputs)

    def lay_out(self, inputs: Tensor) -> Tensor:
        """Cast floating `inputs` (N, ...) to the dtype of the weights, and images to the layout
        that suits the network.
        """
        if inputs.is_floating_point():
            inputs = inputs.to(self.flat.weights.dtype)
        return self._layer_out(inputs)

    def settle(self) -> None:
        """Update what depends on the weights: refreshed BatchNorm statistics and folded
        convolutions.
        """
        if self._refresh_inputs is not None:
            with self._autocast():
                refresh_batch_norm(self.flat.module, self._refresh_inputs)
        self._fold(self.flat.weights[:1])

    def measure(self, examples: Examples) -> Tensor:
        """Return (2,) float64, on the device: the summed loss, and the number of labels whose logit
        is the largest.

        Logits are cast to float64 before the loss. Exact to rounding in the precision of the pass.

        Raises:
            MetricError: if the outputs do not have the shape of the labels and one more.
        """
        total = torch.zeros(2, dtype=torch.float64, device=self.flat.weights.device)
        sums = self._sums_by(examples.scoring)
        with kept_buffers(self.flat.module), torch.inference_mode():
            for inputs, labels in examples.batches:
                total += sums(inputs, labels)
        return total

    def each(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return the loss of every scored label, and whether its logit is the largest, both (N,) in
        float64 on the CPU; as `measure`.
        """
        found = list[Tensor]()
        with kept_buffers(self.flat.module), torch.inference_mode():
            for inputs, labels in examples.batches:
                scores = self._scores(examples.scoring, inputs, labels)
                found.append(torch.stack([scores.losses.double(), scores.correct.double()]))
        losses, correct = torch.cat(found, dim=1).cpu()
        return losses, correct

    def _sums_by(self, scoring: Scoring) -> Callable[[Tensor, Tensor], Tensor]:
        if not TASKS[scoring.task].one_shape:
            return partial(self._score, scoring)
        if scoring not in self._sums:
            self._sums[scoring] = Recorded(self._score, self.flat.weights.device, scoring)
        return self._sums[scoring]

    def _scores(self, scoring: Scoring, inputs: Tensor, labels: Tensor) -> Scores:
        with self._autocast():
            logits = outputs_of(self._network, self._layer_out(inputs))
        if fault := scoring.fault(logits, labels):
            raise MetricError(f"slice: {fault}")
        return scoring.score(logits, inputs, labels)

    def _score(self, scoring: Scoring, inputs: Tensor, labels: Tensor) -> Tensor:
        found = self._scores(scoring, inputs, labels)
        return torch.stack([found.losses.sum(), found.correct.sum().double()])

    def _update_folds(self, any_tensor: Tensor) -> Tensor:
        for fold in self._folds:
            fold.update()
        return any_tensor

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.flat.weights.device.type, dtype=torch.bfloat16, enabled=self._bf16
        )


def draw_some(inputs: Tensor, labels: Tensor, num: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `num` examples of a set without replacement (all for None, or if there are fewer); the
    same seed draws the same ones.
    """
    if num is None:
        return inputs, labels
    chosen = _some(len(labels), num, seed, "examples").to(labels.device)
    return inputs[chosen], labels[chosen]


def refresh_inputs(model: nn.Module, data: Dataset, num: int | None, seed: int) -> Tensor | None:
    """Draw `num` training inputs (None: all) that refresh BatchNorm; None without BatchNorm."""
    inputs = data.train_inputs
    if not has_batch_norm(model):
        return None
    chosen = _some(len(inputs), len(inputs) if num is None else num, seed, "refresh")
    return inputs[chosen.to(inputs.device)]


def make_examples(
    network: MovingNetwork, inputs: Tensor, labels: Tensor, scoring: Scoring
) -> Examples:
    """Cut inputs (N, ...) and their labels into batches laid out for `network`."""
    inputs = network.lay_out(inputs)
    batches = tuple(scoring.batches(inputs, labels, network.flat.weights.dtype.itemsize))
    return Examples(batches, scoring, scoring.operations.num_scored(labels))


def measure_slice(
    network: MovingNetwork,
    directions: Tensor,
    axis: Sequence[float],
    sets: Sequence[Examples],
    axis_2: Sequence[float] | None = None,
) -> Tensor:
    """Measure each set at w + a d_1 + b d_2 for all a of `axis` and b of `axis_2` (None: of `axis`
    too), with the present weights w and `directions` (D, P).

    Returns the mean loss and the error in percent, (S, B, A, 2), B = 1 for a line, as
    `measure_points`.
    """
    second = axis if axis_2 is None else axis_2
    other = second if len(directions) == 2 else (0.0,)
    found = measure_points(network, directions, [(a, b) for b in other for a in axis], sets)
    return found.view(len(sets), len(other), len(axis), 2)


def measure_points(
    network: MovingNetwork,
    directions: Tensor,
    points: Sequence[tuple[float, float]],
    sets: Sequence[Examples],
) -> Tensor:
    """Measure each set at w + a d_1 + b d_2 for K `points` (a, b), with the present weights w and
    `directions` (D, P); b of a line is not used.

    Returns the mean loss and the error in percent, (S, K, 2) float64 on the CPU. If the network's
    outputs are not finite, the loss is NaN or infinite. Afterwards the weights are w again. Points
    with one b after another share w + b d_2.
    """
    flat = network.flat
    centre = flat.rows()[0]
    size = (len(sets), len(points), 2)
    found = torch.empty(size, dtype=torch.float64, device=centre.device)
    row, last = centre, None
    with torch.inference_mode():
        for k, (a, b) in enumerate(points):
            if len(directions) == 2 and b != last:
                row, last = torch.add(centre, directions[-1], alpha=b), b
            flat.assign(torch.add(row, directions[0], alpha=a))
            network.settle()
            for s, examples in enumerate(sets):
                found[s, k] = network.measure(examples)
        flat.assign(centre)
        network.settle()
    num = torch.tensor([examples.num_scored for examples in sets], dtype=torch.float64)
    means = found.cpu() / num.view(-1, 1, 1)
    return torch.stack([means[..., 0], 100 * (1 - means[..., 1])], dim=-1)


def _some(total: int, num: int, seed: int, stream: str) -> Tensor:
    rng = torch.Generator().manual_seed(stream_seed(seed, stream))
    return torch.randperm(total, generator=rng)[:num]


class _KeptFold(nn.Module):
    """A convolution into which `update`, but no pass, folds the BatchNorm layer after it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, folded: FoldedConvolution) -> None:
        super().__init__()
        self.folded = folded
        weight = folded.conv.weight.detach()
        self.weight = torch.empty_like(weight)
        self.bias = weight.new_empty(len(weight))
        self.update()

    @property
    def convolution(self) -> nn.Module:
        """The convolution itself."""
        return self.folded.conv

    def update(self) -> None:
        """Fold with the present weights and statistics."""
        with torch.no_grad():
            weight, bias = self.folded.fold()
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of convolution and BatchNorm for `x`."""
        y: Tensor = self.folded.conv._conv_forward(x, self.weight, self.bias)
        return y


def _keep_folds(network: nn.Module) -> list[_KeptFold]:
    """Replace the folded convolutions of `network`, in place, by ones that store their folded
    weights; return these.
    """
    kept = []
    for name, layer in list(network.named_modules()):
        if isinstance(layer, FoldedConvolution):
            kept.append(_KeptFold(layer))
            network.set_submodule(name, kept[-1])
    return kept
