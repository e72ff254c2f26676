"""SPRO: train the connectors of a simplicial complex (Benton et al. 2021, section 3.2, eq. 1).

theta_j minimises (1/H) sum_h L(phi_h) - lambda_j log V(K), phi_h drawn from the complex K of the
simplexes that contain theta_j, without the vertices that come later; all other vertices are fixed.
With phi_h = sum_v a_hv vertex_v the gradient of the data term is (1/H) sum_h a_hj grad L(phi_h):
the points are mixed in place into one network, and each loss is multiplied by a_hj / H, so that
autograd adds up the gradients. The gradient of the volume has a closed form (`volume`). Letters: V
vertices, P parameters, S simplexes, H samples a batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from phasegrid.metrics.network.joining import NOTHING, Rest
from phasegrid.metrics.network.points import finite_or_none, train_mode_without_draws
from phasegrid.metrics.network.recording import Recorded, records_on
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.descent import Descent
from phasegrid.metrics.simplex.poisoned import arranged, marks
from phasegrid.metrics.simplex.sampling import generator_on, sample_coefficients
from phasegrid.metrics.simplex.volume import (
    FixedFaces,
    fix_faces,
    log_volume_gradient,
    move_vertex,
)
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.network_state import outputs_of
from phasegrid.models.weights import batch_norm_modules
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import cut
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring
from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of

SCHEDULE = Schedule("cosine")
"""The learning rate is lr (1 + cos(pi e / E)) / 2 in epoch e of E, counted from 0."""


def train_last_connector(
    flat: FlatNetwork,
    complex_: Complex,
    inputs: Tensor,
    labels: Tensor,
    volume_lambda: float,
    settings: SimplexArgs,
    rng: torch.Generator,
    rest: Rest = NOTHING,
    scoring: Scoring = CLASSIFICATION,
    num_aside: int = 0,
) -> float | None:
    """Train the last vertex of `complex_`, which all its simplexes contain, in place; return the
    mean data term of the last epoch.

    SGD with momentum as in torch; the learning rate of epoch e of E is lr (1 + cos(pi e / E)) / 2,
    e from 0. The last `num_aside` examples are set aside, and are spread evenly over every epoch.
    All H points of a batch see the same examples. The loss of a batch is the mean over its scored
    labels; the loss of an epoch weights batches by these labels. `rest` gives the tensors that do
    not train. If the vertex becomes NaN or infinite, training stops at the end of
    that epoch and returns None. On a GPU examples and points are drawn there, by a generator that
    is seeded from `rng`; nothing waits for the device within an epoch.
    """
    theta, operations = complex_.vertices[-1], scoring.operations
    faces = _faces_if_needed(complex_, volume_lambda, settings)
    slices = cut(len(inputs), settings.batch_size)
    total = torch.zeros((), dtype=torch.float64, device=theta.device)
    train_mode_without_draws(flat.module, inputs[:2])
    for layer in batch_norm_modules(flat.module) if settings.batch_norm == "saved" else ():
        layer.eval()
    training = _Training(
        flat, complex_, faces, (inputs, labels), volume_lambda, settings, rest, scoring, num_aside
    )
    draws = generator_on(theta.device, rng)
    for factor in factors_of(SCHEDULE, settings.epochs, 1):
        training.begin_epoch(draws, factor * settings.lr)
        total.zero_()
        for step, batch in enumerate(slices):
            loss = training.update(step, batch.stop - batch.start, draws)
            total += training.num_scored(batch) * loss
        if not bool(theta.isfinite().all()):
            return None
    return finite_or_none(float(total) / operations.num_scored(labels))


def data_gradient(
    flat: FlatNetwork,
    complex_: Complex,
    coefficients: Tensor,
    inputs: Tensor,
    labels: Tensor,
    rest: Rest = NOTHING,
    scoring: Scoring = CLASSIFICATION,
    extra: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (1/H) sum_h L(phi_h), detached, and its gradient (P,) for the last vertex;
    `coefficients` (H, V) give the phi_h, `extra` what the loss reads of the batch beside.
    """
    coefficients = coefficients.to(complex_.vertices)
    points = coefficients @ complex_.vertices
    scales = coefficients[:, -1] / len(coefficients)
    mean = torch.zeros((), dtype=points.dtype, device=points.device)
    flat.zero_grad()
    for point, row, scale in zip(points, coefficients, scales, strict=True):
        flat.assign(point)
        rest.place(flat.module, row)
        loss = scoring.mean(outputs_of(flat.module, inputs), inputs, labels, extra)
        loss.backward(scale)  # type: ignore[no-untyped-call]  # torch does not annotate it
        mean += loss.detach() / len(coefficients)
    return mean, flat.gradient()[0]


class _Training:
    """The updates of a connector. What changes from update to update lies in tensors that stay
    where they are: the order of the examples (N,), the learning rate, the drawn points (H, V),
    the simplexes' shares (S,), and the gradient of the volume (P,), both at the present vertex. So
    on a GPU an update is one recorded graph for every number of examples; only the draws are not in
    it.
    """

    def __init__(
        self,
        flat: FlatNetwork,
        complex_: Complex,
        faces: FixedFaces | None,
        examples: tuple[Tensor, Tensor],
        volume_lambda: float,
        settings: SimplexArgs,
        rest: Rest,
        scoring: Scoring,
        num_aside: int,
    ) -> None:
        self._flat, self._complex, self._faces = flat, complex_, faces
        self._examples, self._lambda = examples, volume_lambda
        self._settings, self._rest, self._scoring = settings, rest, scoring
        self._num_aside = num_aside
        vertices, num = complex_.vertices, len(complex_.simplexes)
        self._members = complex_.members
        self._descent = Descent(settings, vertices[-1])
        self._order = torch.arange(len(examples[0]), device=examples[0].device)
        self._points = vertices.new_zeros(settings.samples, len(vertices))
        self._shares = vertices.new_full((num,), 1 / num, dtype=torch.float64)
        self._ascent = torch.zeros_like(vertices[-1])
        self._steps = torch.arange(len(examples[0]), device=vertices.device).unsqueeze(1)
        self._updates: dict[int, Recorded] = {}
        self._records = TASKS[scoring.task].one_shape and records_on(vertices.device)
        self._move()

    def begin_epoch(self, draws: torch.Generator, lr: float) -> None:
        """Draw the order of an epoch's examples."""
        order = torch.randperm(len(self._order), generator=draws, device=draws.device)
        self._order.copy_(arranged(order, self._num_aside))
        self._descent.begin_epoch(lr)

    def update(self, step: int, size: int, draws: torch.Generator) -> Tensor:
        """Make an update with `size` examples; return the mean loss of its points."""
        drawn = sample_coefficients(
            self._shares, self._members, len(self._complex.vertices), len(self._points), draws
        )
        self._points.copy_(drawn)
        if not self._records:
            first = step * self._settings.batch_size
            return self._update(self._order[first : first + size])
        if size not in self._updates:
            self._updates[size] = Recorded(self._repeat, self._order.device, size)
        return self._updates[size](self._steps[step])

    def num_scored(self, batch: slice) -> int:
        """Return the number of scored labels of a batch."""
        return self._scoring.operations.num_scored(self._examples[1][self._order[batch]])

    def _repeat(self, size: int, step: Tensor) -> Tensor:
        """Make update `step` (1,) of an epoch, with `size` examples."""
        first = step * self._settings.batch_size
        places = first + torch.arange(size, device=step.device)
        return self._update(self._order.index_select(0, places))

    def _update(self, chosen: Tensor) -> Tensor:
        """Make an update by the `chosen` examples."""
        theta, settings = self._complex.vertices[-1], self._settings
        batch = (values[chosen] for values in self._examples)
        loss, grad = data_gradient(
            self._flat,
            self._complex,
            self._points,
            *self._scoring.operations.trim(*batch),
            self._rest,
            self._scoring,
            marks(chosen, len(self._order), self._num_aside),
        )
        if settings.weight_decay:
            grad.add_(theta, alpha=settings.weight_decay)
        if self._lambda:
            grad.sub_(self._ascent)
        self._descent.update(theta, grad)
        self._move()
        return loss

    def _move(self) -> None:
        """Note the shares of the simplexes and the gradient of the volume at the present vertex."""
        if self._faces is None:
            return
        moving = move_vertex(self._faces, self._complex.vertices[-1])
        if self._settings.sampling == "volume":
            self._shares.copy_(moving.shares)
        if self._lambda:
            self._ascent.copy_(self._lambda * log_volume_gradient(moving))


def _faces_if_needed(
    complex_: Complex, volume_lambda: float, settings: SimplexArgs
) -> FixedFaces | None:
    """Return the fixed faces if the loss or the drawing of points needs volumes."""
    if volume_lambda == 0 and settings.sampling == "simplex":
        return None
    last = len(complex_.vertices) - 1
    faces = tuple(tuple(v for v in one if v != last) for one in complex_.simplexes)
    return fix_faces(complex_.vertices[:-1], faces)
