"""Train the bends of several curves as one stack of networks (`phasegrid.models.flat`).

The updates are those of `phasegrid.metrics.connectivity.training`, for M curves at once: the points
gamma_m(t_m) are mixed into one matrix of live weights by a batched product, one grouped forward and
backward pass gives their gradients, and the momenta take a batched rank-one update. Curves never
mix: each has its own ends, t, permutations and loss.

Letters: M curves, V vertices and n = V - 2 bends of each, P parameters, N training examples, B
examples of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.augmenting import FlipCropDraws
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.collecting import BendMoments
from phasegrid.metrics.connectivity.curves import vertex_weights
from phasegrid.metrics.connectivity.training import learning_rates
from phasegrid.metrics.network.examples import Examples
from phasegrid.metrics.network.points import finite_or_none
from phasegrid.metrics.network.stacking import live_stack
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import Blueprint
from phasegrid.tasks.batches import Batch, cut
from phasegrid.tasks.losses import Loss, cross_entropy
from phasegrid.train.optimizers import sgd_step_of_points
from phasegrid.train.precision import autocast_of, tensor_float_32, without_bf16

MAX_CURVES = 16
"""The most curves in one stack: 10, 20 and 40 gained the same (perceptrons of width 16 and 64), and
each curve needs memory.
"""


@dataclass(frozen=True, slots=True)
class _Stack:
    """Curves in training: their indices among all curves, vertices (M, V, P), momenta (M, n, P),
    the points (M, P) of their last update, and their live networks.
    """

    places: list[int]
    vertices: Tensor
    momenta: Tensor
    points: Tensor
    live: FlatNetwork


@dataclass(frozen=True, slots=True)
class _Draws:
    """An epoch of S batches: its `slices`, the drawn `orders` (M, N) of the curves, and the
    coefficients (S, M, V) of their points; and, if they are augmented, the `crops` (M, N).
    """

    slices: list[slice]
    orders: Tensor
    coefficients: Tensor
    crops: FlipCropDraws | None


def train_bends_together(
    blueprint: Blueprint,
    modules: Sequence[nn.Module],
    vertices: Sequence[Tensor],
    examples: Examples,
    settings: ConnectivityArgs,
    rngs: Sequence[torch.Generator],
    objective: Loss = cross_entropy,
    moments: Sequence[BendMoments] = (),
) -> list[float | None]:
    """Train the inner rows of each of the `vertices` (V, P) in place, as `train_bends` would do
    curve by curve.

    Return the mean regularised loss of each curve's last epoch. `modules` holds one network of
    `blueprint` for each curve; all share the examples. Each generator makes the same draws as for
    its curve alone, and the numbers agree with those of the curve alone to rounding, which grows
    over many updates. A curve with a bend that became NaN or infinite leaves the stack at the end
    of that epoch: its loss is None, and the others go on.
    """
    slices = cut(len(examples.inputs), settings.batch_size)
    rates = learning_rates(settings, len(slices))
    losses: list[float | None] = [None] * len(modules)
    stack = _begin(blueprint, modules, vertices)
    for epoch, rates_of_epoch in enumerate(rates, start=1):
        draws = _draw(stack, rngs, slices, settings, examples)
        total, seen = stack.points.new_zeros(len(stack.places), dtype=torch.float64), 0
        for num, loss in _updates(stack, draws, examples, rates_of_epoch, settings, objective):
            if epoch == len(rates):
                square = stack.points.square().sum(1)
                total += num * (loss + 0.5 * settings.weight_decay * square)
                seen += num
        sound = stack.vertices[:, 1:-1].isfinite().flatten(1).all(1).tolist()
        for row, place in enumerate(stack.places if moments else ()):
            if sound[row]:
                moments[place].take(epoch, stack.vertices[row, 1:-1])
        if epoch == len(rates):
            for place, is_sound, value in zip(stack.places, sound, total.tolist(), strict=True):
                losses[place] = finite_or_none(value / seen) if is_sound else None
        elif not all(sound):
            _hand_back(stack, vertices)
            if not any(sound):
                return losses
            stack = _kept(stack, sound, blueprint, modules)
    _hand_back(stack, vertices)
    return losses


def _begin(
    blueprint: Blueprint, modules: Sequence[nn.Module], vertices: Sequence[Tensor]
) -> _Stack:
    stacked = torch.stack(list(vertices))
    momenta = torch.zeros_like(stacked[:, 1:-1])
    points = torch.empty_like(stacked[:, 0])
    live = live_stack(blueprint, modules)
    return _Stack(list(range(len(modules))), stacked, momenta, points, live)


def _kept(
    stack: _Stack, keep: Sequence[bool], blueprint: Blueprint, modules: Sequence[nn.Module]
) -> _Stack:
    """Return a stack of the curves to `keep`, in their present state."""
    rows = [row for row, kept in enumerate(keep) if kept]
    places = [stack.places[row] for row in rows]
    live = live_stack(blueprint, [modules[place] for place in places])
    return _Stack(places, stack.vertices[rows], stack.momenta[rows], stack.points[rows], live)


def _hand_back(stack: _Stack, vertices: Sequence[Tensor]) -> None:
    """Copy the trained curves of a stack into the given vertices."""
    for place, trained in zip(stack.places, stack.vertices, strict=True):
        vertices[place].copy_(trained)


def _draw(
    stack: _Stack,
    rngs: Sequence[torch.Generator],
    slices: list[slice],
    settings: ConnectivityArgs,
    examples: Examples,
) -> _Draws:
    """Draw an epoch as `train_bends` does: for each curve a permutation of the examples, then t for
    every batch, then how each example is augmented.
    """
    orders, weights, crops = [], [], []
    for rng in (rngs[place] for place in stack.places):
        orders.append(torch.randperm(len(examples.inputs), generator=rng, device=rng.device))
        t = torch.rand(len(slices), generator=rng, device=rng.device, dtype=torch.float64)
        weights.append(vertex_weights(settings.curve, settings.bends, t.cpu()))
        crops.append(examples.draw(settings.augment, rng) or ())
    coefficients = torch.stack(weights, dim=1).to(stack.vertices)
    device = examples.inputs.device
    tables = [torch.stack(kind).to(device) for kind in zip(*crops, strict=True)]
    drawn = FlipCropDraws(*tables) if tables else None
    return _Draws(slices, torch.stack(orders).to(device), coefficients, drawn)


def _updates(
    stack: _Stack,
    draws: _Draws,
    examples: Examples,
    rates: Sequence[float],
    settings: ConnectivityArgs,
    objective: Loss,
) -> Iterator[tuple[int, Tensor]]:
    """Make the updates of an epoch, one for each of the `rates`; yield B and the mean losses (M,)
    of each.
    """
    for step, lr in enumerate(rates):
        part = draws.slices[step]
        chosen, crops = draws.orders[:, part], draws.crops
        mine = crops and FlipCropDraws(*(table[:, part].flatten() for table in crops))
        every = examples.augmented(_gather(examples.inputs, chosen), mine)
        inputs = every.view(*chosen.shape, *every.shape[1:])
        batch = Batch(inputs, _gather(examples.labels, chosen).view(chosen.shape))
        yield (
            chosen.shape[1],
            _update(stack, draws.coefficients[step], batch, objective, lr, settings),
        )


def _gather(values: Tensor, chosen: Tensor) -> Tensor:
    """Return ``values[chosen].flatten(0, 1)``, chosen (M, B), by copying rows, which was measured
    three times as fast on a CPU.
    """
    return values.index_select(0, chosen.flatten())


def _update(
    stack: _Stack,
    coefficients: Tensor,
    batch: Batch,
    objective: Loss,
    lr: float,
    settings: ConnectivityArgs,
) -> Tensor:
    """Make one update of every bend and return the mean losses (M,) at the points before it.

    `coefficients` (M, V). Each loss is the mean over its curve's own batch, so the backward pass
    starts from the sum of the losses: 1/B for every example.
    """
    live, size = stack.live, batch.labels.shape[1]
    torch.bmm(coefficients.unsqueeze(1), stack.vertices, out=stack.points.unsqueeze(1))
    live.assign(stack.points)
    live.zero_grad()
    with tensor_float_32(settings.precision == "tf32"):
        with autocast_of(settings.precision, batch.inputs.device)():
            outputs = live.forward(batch.inputs)
        losses = objective(without_bf16(outputs), batch)
        losses.backward(torch.full_like(losses, 1 / size))  # type: ignore[no-untyped-call]
    grads = live.gradient()
    grads.add_(stack.points, alpha=settings.weight_decay)
    bends, shares = stack.vertices[:, 1:-1], coefficients[:, 1:-1]
    sgd_step_of_points(bends, shares, grads, stack.momenta, lr, settings.momentum)
    return losses.detach().mean(1)
