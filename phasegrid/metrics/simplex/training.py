"""SPRO: train the connectors of simplicial complexes (Benton et al. 2021, section 3.2, eq. 1).

theta_j minimises (1/H) sum_h L(phi_h) - lambda_j log V(K), phi_h drawn from the complex; all other
vertices are fixed. With phi_h = sum_v a_hv vertex_v the gradient of the data term is (1/H) sum_h
a_hj grad L(phi_h). The gradient of the volume has a closed form (`moving`).

Complexes of one wiring train together, and all H points of each are one pass through a stack of
networks (`phasegrid.models.flat`): a batched product mixes their weights, and each loss is
multiplied by a_hj / H. Complexes never mix: each has its own draws, batches, points and volumes. A
network that is not stacked takes the points of one complex in turn.

Letters: K complexes, V vertices of each, S simplexes of at most n vertices, P parameters, H points
a batch, N training examples, B examples of a batch, U updates of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.datasets.augmenting import FlipCropDraws
from phasegrid.metrics.network.examples import Examples, no_crops
from phasegrid.metrics.network.joining import NOTHING, Rest
from phasegrid.metrics.network.points import finite_or_none, train_mode_without_draws
from phasegrid.metrics.network.recording import Recorded, records_on
from phasegrid.metrics.network.turns import Work
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import members_of
from phasegrid.metrics.simplex.descent import Descent
from phasegrid.metrics.simplex.moving import fix_faces, log_volume_gradient, move
from phasegrid.metrics.simplex.poisoned import arranged, marks
from phasegrid.metrics.simplex.sampling import draw_points, generator_on, place_points
from phasegrid.metrics.simplex.wiring import Simplexes
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.network_state import outputs_of
from phasegrid.models.weights import batch_norm_modules
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch, cut
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring
from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of

SCHEDULE = Schedule("cosine")
"""The learning rate is lr (1 + cos(pi e / E)) / 2 in epoch e of E, counted from 0."""


@dataclass(frozen=True, slots=True)
class Live:
    """The networks into which points are mixed: a stack of K H, or one for a single complex, whose
    untrained tensors are mixed from `rest`.
    """

    flat: FlatNetwork
    scoring: Scoring = CLASSIFICATION
    rest: Rest = NOTHING

    def differentiate(
        self, vertices: Tensor, coefficients: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return (1/H) sum_h L(phi_h) of each complex, detached, (K,), and its gradient (K, P) for
        the last of the `vertices` (K, V, P); `coefficients` (K, H, V) give the phi_h, and all
        points of a complex see its part of the `batch`, (K, B, ...).
        """
        coefficients = coefficients.to(vertices)
        points = torch.bmm(coefficients, vertices)
        scales = coefficients[:, :, -1] / coefficients.shape[1]
        self.flat.zero_grad()
        if self.flat.strategy == "loop":
            return self._in_turn(points[0], coefficients[0], scales[0], batch)
        return self._together(points, scales, batch)

    def _in_turn(
        self, points: Tensor, coefficients: Tensor, scales: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        mean, module = points.new_zeros(1), self.flat.module
        inputs, labels = batch.inputs[0], batch.labels[0]
        for point, row, scale in zip(points, coefficients, scales, strict=True):
            self.flat.assign(point)
            self.rest.place(self.flat, row)
            loss = self.scoring.mean(outputs_of(module, inputs), inputs, labels, batch.extra)
            loss.backward(scale)  # type: ignore[no-untyped-call]  # torch does not annotate it
            mean += loss.detach() / len(points)
        return mean, self.flat.gradient()

    def _together(self, points: Tensor, scales: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        count, num = points.shape[:2]
        self.flat.assign(points.flatten(0, 1))
        batch = Batch(
            batch.inputs.repeat_interleave(num, dim=0),
            batch.labels.repeat_interleave(num, dim=0),
            {name: own.repeat_interleave(num, dim=0) for name, own in batch.extra.items()},
        )
        losses = self.scoring.objective(self.flat.forward(batch.inputs), batch)
        size = losses.shape[1]
        losses.backward((scales.reshape(-1, 1) / size).expand_as(losses))  # type: ignore[no-untyped-call]
        means = losses.detach().view(count, num * size).mean(dim=1)
        return means, self.flat.gradient().view(count, num, -1).sum(dim=1)


def train_last_vertices(
    live: Live,
    vertices: Tensor,
    simplexes: Simplexes,
    examples: Examples,
    volume_lambdas: Sequence[float],
    settings: SimplexArgs,
    rngs: Sequence[torch.Generator],
) -> Work[list[float | None]]:
    """Train the last of the `vertices` (K, V, P) of each complex in place and return the mean data
    term of each one's last epoch; yield after every update.

    All complexes have the same `simplexes`, of which each has the last vertex, and share the
    `examples`. Each draws from its own generator what it draws alone: for every epoch a permutation
    of the examples, over which those set aside are spread evenly, then the points of all updates,
    then how each example is augmented. SGD with momentum as in torch; the learning rate of epoch e
    of E is lr (1 + cos(pi e / E)) / 2, e from 0. The loss of a batch is the mean over its scored
    labels; the loss of an epoch weights batches by these labels. If a vertex is or becomes NaN or
    infinite, its loss is None; the others go on. Training stops at the end of an epoch, or does not
    begin, if none is left. On a GPU examples and points are drawn there, by a generator that is
    seeded from each of the `rngs`; nothing waits for the device within an epoch.
    """
    theta, module = vertices[:, -1], live.flat.module
    sound: list[bool] = theta.isfinite().all(dim=1).tolist()
    if not any(sound):  # beside vertices that have diverged
        return [None] * len(sound)
    if live.flat.strategy == "loop":
        train_mode_without_draws(module, examples.inputs[:2])
        for layer in batch_norm_modules(module) if settings.batch_norm == "saved" else ():
            layer.eval()
    training = _Training(live, vertices, simplexes, examples, volume_lambdas, settings)
    draws = [generator_on(theta.device, rng) for rng in rngs]
    total, seen = theta.new_zeros(len(theta), dtype=torch.float64), 0
    for epoch, factor in enumerate(factors_of(SCHEDULE, settings.epochs, 1), start=1):
        training.begin_epoch(draws, factor * settings.lr)
        for step in range(len(training.slices)):
            losses = training.update(step)
            if epoch == settings.epochs:
                num = training.num_scored(step)
                total += num * losses
                seen += num
            yield
        sound = theta.isfinite().all(dim=1).tolist()
        if not any(sound):
            break
    means = zip(sound, total.tolist(), strict=True)
    return [finite_or_none(value / seen) if is_sound else None for is_sound, value in means]


class _Training:
    """The updates of the last vertices. What changes from update to update lies in tensors that
    stay where they are: the order of the examples and how each is augmented (K, N), the draws of
    the points of an epoch, the learning rate, the shares of the simplexes (K, S) and the gradient
    of the volume (K, P), both at the present vertex. So on a GPU an update is one recorded graph
    for every number of examples.
    """

    def __init__(
        self,
        live: Live,
        vertices: Tensor,
        simplexes: Simplexes,
        examples: Examples,
        volume_lambdas: Sequence[float],
        settings: SimplexArgs,
    ) -> None:
        self._live, self._vertices, self._examples = live, vertices, examples
        self._settings = settings
        self.slices = cut(len(examples.inputs), settings.batch_size)
        count, steps, num = len(vertices), len(self.slices), settings.samples
        device = vertices.device
        self._members = members_of(simplexes).to(device)
        self._order = torch.arange(len(examples.inputs), device=device).repeat(count, 1)
        self._crops = None if settings.augment == "none" else no_crops(self._order)
        self._choices = vertices.new_zeros(steps, count, num, dtype=torch.float64)
        self._places = self._choices.new_zeros(steps, count, num, self._members.shape[1])
        self._descent = Descent(settings, vertices[:, -1])
        self._shares = self._choices.new_full((count, len(simplexes)), 1 / len(simplexes))
        self._ascent = torch.zeros_like(vertices[:, -1])
        self._pulls = any(volume_lambdas)
        self._lambdas = self._choices.new_tensor(volume_lambdas).unsqueeze(1)
        follows = self._pulls or settings.sampling == "volume"
        self._faces = fix_faces(vertices, simplexes) if follows else None
        self._steps = torch.arange(steps, device=device).unsqueeze(1)
        self._updates: dict[int, Recorded] = {}
        self._records = TASKS[live.scoring.task].one_shape and records_on(device)
        self._follow()

    def begin_epoch(self, draws: Sequence[torch.Generator], lr: float) -> None:
        """Draw the order of an epoch's examples, all its points, and its augmentation."""
        self._descent.begin_epoch(lr)
        for place, rng in enumerate(draws):
            order = torch.randperm(self._order.shape[1], generator=rng, device=rng.device)
            self._order[place].copy_(arranged(order, self._examples.num_aside))
            shape = len(self.slices), self._settings.samples
            choices, places = draw_points(shape, self._members.shape[1], rng)
            self._choices[:, place].copy_(choices)
            self._places[:, place].copy_(places)
            crops = self._examples.draw(self._settings.augment, rng)
            for table, own in zip(self._crops or (), crops or (), strict=True):
                table[place].copy_(own)

    def update(self, step: int) -> Tensor:
        """Make an update; return the mean losses (K,) of the points before it."""
        batch = self.slices[step]
        if not self._records:
            return self._update(self._batch(batch), self._choices[step], self._places[step])
        size = batch.stop - batch.start
        if size not in self._updates:
            self._updates[size] = Recorded(self._repeat, self._order.device, size)
        return self._updates[size](self._steps[step])

    def num_scored(self, step: int) -> int:
        """Return the number of scored labels of an update's batch of each complex."""
        labels = self._examples.labels[self._order[0, self.slices[step]]]
        return self._live.scoring.operations.num_scored(labels)

    def _repeat(self, size: int, step: Tensor) -> Tensor:
        """Make update `step` (1,) of an epoch, with `size` examples."""
        first = step * self._settings.batch_size
        batch = self._batch(first + torch.arange(size, device=step.device))
        drawn = (table.index_select(0, step)[0] for table in (self._choices, self._places))
        return self._update(batch, *drawn)

    def _update(self, batch: Batch, choices: Tensor, places: Tensor) -> Tensor:
        """Make an update by a batch (K, B, ...), at the points drawn by `choices` (K, H) and
        `places` (K, H, n).
        """
        vertices, settings = self._vertices, self._settings
        theta = vertices[:, -1]
        points = place_points(self._shares, self._members, choices, places, vertices.shape[1])
        losses, grads = self._live.differentiate(vertices, points, batch)
        if settings.weight_decay:
            grads.add_(theta, alpha=settings.weight_decay)
        if self._pulls:
            grads.sub_(self._ascent)
        self._descent.update(theta, grads)
        self._follow()
        return losses

    def _batch(self, places: slice | Tensor) -> Batch:
        """Return the examples, augmented, at `places` of the epoch of each complex."""
        examples, chosen = self._examples, self._order[:, places]
        count, every = len(chosen), chosen.flatten()
        crops = self._crops and FlipCropDraws(*(own[:, places].flatten() for own in self._crops))
        images = examples.augmented(examples.inputs.index_select(0, every), crops)
        labels = examples.labels.index_select(0, every)
        inputs, labels = self._live.scoring.operations.trim(images, labels)
        return Batch(
            inputs.view(count, -1, *inputs.shape[1:]),
            labels.view(count, -1, *labels.shape[1:]),
            marks(chosen, self._order.shape[1], examples.num_aside),
        )

    def _follow(self) -> None:
        """Note the shares of the simplexes and the gradient of the volume at the present vertex."""
        if self._faces is None:
            return
        moved = move(self._faces, self._vertices[:, -1])
        if self._settings.sampling == "volume":
            self._shares.copy_(moved.shares)
        if self._pulls:
            self._ascent.copy_(self._lambdas * log_volume_gradient(self._faces, moved))
