"""Train the bends of a curve (Garipov et al. 2018, section 3.1, eq. 3) without a second
architecture.

The loss is E_{t ~ U(0,1)} [L(gamma(t)) + (wd/2) |gamma(t)|^2] with one t a batch. gamma(t) = sum_j
B_j(t) vertex_j is mixed in place into the live parameters of one network. The gradient of bend j is
B_j(t) (g + wd gamma(t)), g the network's gradient at gamma(t). So any number of bends costs one
rank-one update.
"""

from typing import Literal

import torch
from torch import Tensor

from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.curves import place_points
from phasegrid.metrics.network.joining import NOTHING, Rest
from phasegrid.metrics.network.points import finite_or_none, train_mode_without_draws
from phasegrid.models.flat import FlatNetwork
from phasegrid.tasks.batches import cut
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring
from phasegrid.train.optimizers import sgd_step_of_points
from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of

Curve = Literal["bezier", "polychain"]


SCHEDULE = Schedule("pieces", pieces=((0.5, 1.0), (0.9, 0.01)))
"""Factor 1 until one half, then linear to 0.01 at 90% (published code of Garipov et al. 2018): of
50 epochs, 25 are constant, and from epoch 45 on the factor is 1%.
"""


def learning_rates(settings: ConnectivityArgs, num_batches: int) -> list[list[float]]:
    """Return the learning rate of every update, epoch by epoch, for epochs of `num_batches`
    updates.

    Without `updates` it is constant within an epoch. With `updates` the last epoch is cut short,
    and the rate follows the fraction of updates done, so it does not depend on the number of
    updates per epoch.

    >>> learning_rates(ConnectivityArgs(epochs=2, lr=1.0), 3)
    [[1.0, 1.0, 1.0], [0.01, 0.01, 0.01]]
    >>> learning_rates(ConnectivityArgs(updates=4, lr=1.0), 2)[0]
    [1.0, 1.0]
    >>> learning_rates(ConnectivityArgs(updates=2, lr=1.0), 3)
    [[1.0, 0.01]]
    """
    if settings.updates is None:
        by_epoch = factors_of(SCHEDULE, settings.epochs, 1)
        return [[settings.lr * factor] * num_batches for factor in by_epoch]
    rates = [settings.lr * f for f in factors_of(SCHEDULE, settings.updates, num_batches)]
    return [rates[start : start + num_batches] for start in range(0, len(rates), num_batches)]


def train_bends(
    flat: FlatNetwork,
    vertices: Tensor,
    inputs: Tensor,
    labels: Tensor,
    settings: ConnectivityArgs,
    rng: torch.Generator,
    rest: Rest = NOTHING,
    scoring: Scoring = CLASSIFICATION,
) -> float | None:
    """Train the inner rows of `vertices` (V, P) in place and return the mean regularised loss of
    the last epoch.

    SGD with momentum as in torch (no dampening). Batches are cut from a fresh permutation each
    epoch (running text is read in order), without augmentation; a last batch of one example joins
    the one before it. The loss of a batch is the mean over its scored labels; the loss of the last
    epoch, which `updates` may have cut short, weights batches by these labels. `rest` gives the
    tensors that do not train. If a bend becomes NaN or infinite, training stops at the end of that
    epoch and returns None.
    """
    bends = vertices[1:-1]
    momenta = torch.zeros_like(bends)
    operations = scoring.operations
    slices = cut(len(inputs), settings.batch_size)
    rates = learning_rates(settings, len(slices))
    total, seen = torch.zeros((), dtype=torch.float64, device=vertices.device), 0
    train_mode_without_draws(flat.module, inputs[:2])
    for epoch, rates_of_epoch in enumerate(rates, start=1):
        order = operations.order(len(inputs), slices, rng).to(inputs.device)
        t = torch.rand(len(slices), generator=rng, device=rng.device, dtype=torch.float64)
        points = place_points(settings.curve, t.cpu(), vertices)
        read = Reader(operations, flat.module, flat.module)
        for step, lr in enumerate(rates_of_epoch):
            point = points.at(step, vertices)
            flat.assign(point)
            rest.place(flat.module, points.coefficients[step])
            chosen = order[slices[step]]
            some, target = operations.trim(inputs[chosen], labels[chosen])
            loss, grad = _differentiate(flat, read, some, target, scoring)
            read.turn()
            grad.add_(point, alpha=settings.weight_decay)
            shares = points.coefficients[step, 1:-1]
            sgd_step_of_points(bends, shares, grad, momenta, lr, settings.momentum)
            if epoch == len(rates):
                num, square = operations.num_scored(target), point.dot(point)
                total += num * (loss + 0.5 * settings.weight_decay * square)
                seen += num
        if not bool(bends.isfinite().all()):
            return None
    return finite_or_none(float(total) / seen)


def _differentiate(
    flat: FlatNetwork, read: Reader, inputs: Tensor, labels: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch, detached, and its gradient (P,)."""
    flat.zero_grad()
    loss = scoring.mean(read(inputs), inputs, labels)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return loss.detach(), flat.gradient()[0]
