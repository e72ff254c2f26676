"""Train the bends of a curve (Garipov et al. 2018, section 3.1, eq. 3) without a second
architecture.

The loss is E_{t ~ U(0,1)} [L(gamma(t)) + (wd/2) |gamma(t)|^2] with one t a batch. gamma(t) = sum_j
B_j(t) vertex_j is mixed in place into the live parameters of one network. The gradient of bend j is
B_j(t) (g + wd gamma(t)), g the network's gradient at gamma(t). So any number of bends costs one
rank-one update.
"""

import torch
from torch import Tensor

from phasegrid.datasets.augmenting import FlipCropDraws
from phasegrid.metrics.connectivity import ConnectivityArgs
from phasegrid.metrics.connectivity.collecting import BendMoments
from phasegrid.metrics.connectivity.curves import place_points
from phasegrid.metrics.network.examples import Examples, no_crops
from phasegrid.metrics.network.joining import NOTHING, Rest
from phasegrid.metrics.network.points import finite_or_none, train_mode_without_draws
from phasegrid.metrics.network.recording import Recorded, records_on
from phasegrid.metrics.network.turns import Work
from phasegrid.models.flat import FlatNetwork
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import cut
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring
from phasegrid.train.optimizers import sgd_step_of_points
from phasegrid.train.precision import autocast_of, tensor_float_32, without_bf16
from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of

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
    examples: Examples,
    settings: ConnectivityArgs,
    rng: torch.Generator,
    rest: Rest = NOTHING,
    scoring: Scoring = CLASSIFICATION,
    moments: BendMoments | None = None,
) -> Work[float | None]:
    """Train the inner rows of `vertices` (V, P) in place and return the mean regularised loss of
    the last epoch; yield after every update, so that several curves can train in turn.

    SGD with momentum as in torch (no dampening). Batches are cut from a fresh permutation each
    epoch (running text is read in order), and augmented as the settings say; a last batch of one
    example joins the one before it. The loss of a batch is the mean over its scored labels; the
    loss of the last epoch, which `updates` may have cut short, weights batches by these labels.
    `rest` gives the tensors that do not train. `moments` take the bends after each epoch. If a bend
    becomes NaN or infinite, training stops at the end of that epoch and returns None. Nothing waits
    for the device within an epoch.
    """
    slices = cut(len(examples.inputs), settings.batch_size)
    rates = learning_rates(settings, len(slices))
    total, seen = torch.zeros((), dtype=torch.float64, device=vertices.device), 0
    train_mode_without_draws(flat.module, examples.inputs[:2])
    training = _Training(flat, vertices, examples, settings, rest, scoring, slices)
    for epoch, rates_of_epoch in enumerate(rates, start=1):
        training.begin_epoch(rng, rates_of_epoch)
        for step in range(len(rates_of_epoch)):
            found = training.update(step, epoch == len(rates))
            if epoch == len(rates) and found is not None:
                (loss, square), num = found, training.num_scored(step)
                total += num * (loss + 0.5 * settings.weight_decay * square)
                seen += num
            yield
        if not bool(vertices[1:-1].isfinite().all()):
            return None
        if moments is not None:
            moments.take(epoch, vertices[1:-1])
    return finite_or_none(float(total) / seen)


class _Training:
    """The updates of a curve. All that changes from update to update lies in tables on the device,
    which are filled for every epoch: the order of the examples (N,), how each is augmented (N,),
    the coefficients of the points (S, V), the learning rates (S,). So on a GPU an update is one
    recorded graph for every number of examples and every span of vertices.
    """

    def __init__(
        self,
        flat: FlatNetwork,
        vertices: Tensor,
        examples: Examples,
        settings: ConnectivityArgs,
        rest: Rest,
        scoring: Scoring,
        slices: list[slice],
    ) -> None:
        self._flat, self._vertices, self._examples = flat, vertices, examples
        self._settings, self._rest, self._scoring = settings, rest, scoring
        self._slices, self._spans = slices, (slice(0, 0),) * len(slices)
        device = vertices.device
        self._order = torch.arange(len(examples.inputs), device=examples.inputs.device)
        self._crops = None if settings.augment == "none" else no_crops(self._order)
        self._coefficients = vertices.new_zeros(len(slices), len(vertices))
        self._rates = vertices.new_zeros(len(slices))
        self._steps = torch.arange(len(slices), device=device).unsqueeze(1)
        self._momenta = torch.zeros_like(vertices[1:-1])
        self._read = Reader(scoring.operations, flat.module, flat.module)
        self._records = TASKS[scoring.task].one_shape and records_on(device)
        self._updates: dict[tuple[int, int, int], Recorded] = {}

    def begin_epoch(self, rng: torch.Generator, rates: list[float]) -> None:
        """Draw the order of an epoch's examples, its points, and its augmentation."""
        operations, settings = self._scoring.operations, self._settings
        drawn = operations.order(len(self._order), self._slices, rng)
        self._order.copy_(drawn)
        t = torch.rand(len(self._slices), generator=rng, device=rng.device, dtype=torch.float64)
        points = place_points(settings.curve, t.cpu(), self._vertices)
        self._coefficients.copy_(points.coefficients)
        self._spans = points.spans
        self._rates[: len(rates)].copy_(torch.tensor(rates, dtype=torch.float64))
        drawn_crops = self._examples.draw(settings.augment, rng)
        for table, own in zip(self._crops or (), drawn_crops or (), strict=True):
            table.copy_(own)
        self._read = Reader(operations, self._flat.module, self._flat.module)

    def update(self, step: int, is_last: bool) -> Tensor | None:
        """Make an update; in the last epoch return the loss of its batch and the square of its
        point, (2,).
        """
        span, batch = self._spans[step], self._slices[step]
        if self._records:
            key = span.start, span.stop, batch.stop - batch.start
            if key not in self._updates:
                self._updates[key] = Recorded(self._repeat, self._vertices.device, span, key[-1])
            return self._updates[key](self._steps[step])
        shares, lr = self._coefficients[step], self._rates[step]
        loss, point = self._update(span, shares, batch, lr)
        return torch.stack([loss, point.dot(point)]) if is_last else None

    def _repeat(self, span: slice, size: int, step: Tensor) -> Tensor:
        """Make update `step` (1,) with `size` examples from the tables."""
        first = step * self._settings.batch_size
        places = first + torch.arange(size, device=step.device)
        shares, lr = self._coefficients.index_select(0, step)[0], self._rates.index_select(0, step)
        loss, point = self._update(span, shares, places, lr)
        return torch.stack([loss, point.dot(point)])

    def num_scored(self, step: int) -> int:
        """Return the number of scored labels of an update's batch."""
        chosen = self._order[self._slices[step]]
        return self._scoring.operations.num_scored(self._examples.labels[chosen])

    def _update(
        self, span: slice, shares: Tensor, places: slice | Tensor, lr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Make an update by the examples at `places` of the epoch, at a point with `shares` (V,) of
        the vertices, of which it uses a `span`. Return the loss and the point (P,).
        """
        flat, settings = self._flat, self._settings
        point = torch.mv(self._vertices[span].t(), shares[span])
        flat.assign(point)
        self._rest.place(flat, shares)
        loss, grad = self._differentiate(*self._batch(places))
        grad.add_(point, alpha=settings.weight_decay)
        bends = self._vertices[1:-1]
        sgd_step_of_points(bends, shares[1:-1], grad, self._momenta, lr, settings.momentum)
        return loss, point

    def _batch(self, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs, augmented, and the labels at `places` of the epoch."""
        chosen, examples = self._order[places], self._examples
        inputs, labels = examples.inputs[chosen], examples.labels[chosen]
        crops = self._crops and FlipCropDraws(*(table[places] for table in self._crops))
        return self._scoring.operations.trim(examples.augmented(inputs, crops), labels)

    def _differentiate(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, detached, and its gradient (P,)."""
        self._flat.zero_grad()
        precision = self._settings.precision
        with tensor_float_32(precision == "tf32"):
            with autocast_of(precision, inputs.device)():
                outputs = self._read(inputs)
            loss = self._scoring.mean(without_bf16(outputs), inputs, labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self._read.turn()
        return loss.detach(), self._flat.gradient()[0]
