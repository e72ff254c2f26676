"""SPRO: train the connectors of a simplicial complex (Benton et al. 2021, section 3.2, eq. 1).

theta_j minimises (1/H) sum_h L(phi_h) - lambda_j log V(K), phi_h drawn from the complex K = {(w_i,
theta_0..theta_j)}; all other vertices are fixed. With phi_h = sum_v a_hv vertex_v the gradient of
the data term is (1/H) sum_h a_hj grad L(phi_h): the points are mixed in place into one network, and
each loss is multiplied by a_hj / H, so that autograd adds up the gradients. The gradient of the
volume has a closed form (`volume`). Letters: M modes, J connectors, P parameters, H samples a
batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.network.joining import NOTHING, Rest
from phasegrid.metrics.network.points import finite_or_none, train_mode_without_draws
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.volume import (
    FixedFaces,
    MovingVertex,
    fix_faces,
    log_volume_gradient,
    move_vertex,
    volume_shares,
)
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.network_state import outputs_of
from phasegrid.tasks.batches import cut
from phasegrid.tasks.scoring import CLASSIFICATION, Scoring
from phasegrid.train.optimizers import sgd_step
from phasegrid.train.recipe import Schedule
from phasegrid.train.schedules import factors_of

SCHEDULE = Schedule("cosine")
"""The learning rate is lr (1 + cos(pi e / E)) / 2 in epoch e of E, counted from 0."""


@dataclass(frozen=True, slots=True)
class Complex:
    """`num_modes` trained networks joined by connectors: `vertices` (M + J, P), modes first."""

    vertices: Tensor
    num_modes: int

    @property
    def modes(self) -> Tensor:
        """The modes w_i, (M, P)."""
        return self.vertices[: self.num_modes]

    @property
    def connectors(self) -> Tensor:
        """The connectors theta_j, (J, P)."""
        return self.vertices[self.num_modes :]

    def simplex(self, index: int) -> Tensor:
        """Return the vertices (J + 1, P) of simplex `index`: its mode and all connectors."""
        return torch.cat([self.modes[index : index + 1], self.connectors])


def grow(complex_: Complex, jitter: float, rng: torch.Generator) -> Complex:
    """Return the complex with one more connector, a small step away from the mean of the vertices.

    The published code starts at the mean of all vertices. There the volume is zero from the second
    connector on, so the new point is moved by `jitter` times the rms edge in a random direction.
    """
    vertices = complex_.vertices
    center = vertices.mean(dim=0)
    spread = torch.linalg.vector_norm(vertices - center, dim=1).double().square().sum()
    rms_edge = float((2 * spread / (len(vertices) - 1)).sqrt())
    draw = torch.randn(vertices.shape[1], generator=rng, device=rng.device, dtype=torch.float64)
    step = (jitter * rms_edge / torch.linalg.vector_norm(draw)) * draw
    return Complex(
        torch.cat([vertices, (center + step.to(vertices)).unsqueeze(0)]), complex_.num_modes
    )


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
) -> float | None:
    """Train the last vertex of `complex_` in place and return the mean data term of the last epoch.

    SGD with momentum as in torch; the learning rate of epoch e of E is lr (1 + cos(pi e / E)) / 2,
    e from 0. All H points of a batch see the same examples. The loss of a batch is the mean over
    its scored labels; the loss of an epoch weights batches by these labels. `rest` gives the
    tensors that do not train. If the vertex becomes NaN or infinite, training stops at the end of
    that epoch and returns None.
    """
    theta = complex_.vertices[-1]
    momentum = torch.zeros_like(theta)
    faces = _faces_if_needed(complex_, volume_lambda, settings)
    operations = scoring.operations
    slices = cut(len(inputs), settings.batch_size)
    total = torch.zeros((), dtype=torch.float64, device=theta.device)
    train_mode_without_draws(flat.module, inputs[:2])
    for factor in factors_of(SCHEDULE, settings.epochs, 1):
        order = torch.randperm(len(inputs), generator=rng, device=rng.device).to(inputs.device)
        total.zero_()
        for batch in slices:
            chosen = order[batch]
            some, target = operations.trim(inputs[chosen], labels[chosen])
            moving = None if faces is None else move_vertex(faces, theta)
            coefficients = _draw(complex_, moving, settings, rng)
            loss, grad = data_gradient(flat, complex_, coefficients, some, target, rest, scoring)
            total += operations.num_scored(target) * loss
            if settings.weight_decay:
                grad.add_(theta, alpha=settings.weight_decay)
            if moving is not None and volume_lambda:
                grad.sub_((volume_lambda * log_volume_gradient(moving)).to(theta))
            sgd_step(theta, grad, momentum, settings.lr, factor, settings.momentum)
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
) -> tuple[Tensor, Tensor]:
    """Return (1/H) sum_h L(phi_h), detached, and its gradient (P,) for the last vertex;
    `coefficients` (H, M + J) give the phi_h.
    """
    coefficients = coefficients.to(complex_.vertices)
    points = coefficients @ complex_.vertices
    scales = coefficients[:, -1] / len(coefficients)
    mean = torch.zeros((), dtype=points.dtype, device=points.device)
    flat.zero_grad()
    for point, row, scale in zip(points, coefficients, scales, strict=True):
        flat.assign(point)
        rest.place(flat.module, row)
        loss = scoring.mean(outputs_of(flat.module, inputs), inputs, labels)
        loss.backward(scale)  # type: ignore[no-untyped-call]  # torch does not annotate it
        mean += loss.detach() / len(coefficients)
    return mean, flat.gradient()[0]


def _faces_if_needed(
    complex_: Complex, volume_lambda: float, settings: SimplexArgs
) -> FixedFaces | None:
    """Return the fixed faces if the loss or the drawing of points needs volumes."""
    if volume_lambda == 0 and settings.sampling == "simplex":
        return None
    return fix_faces(complex_.modes, complex_.connectors[:-1])


def _draw(
    complex_: Complex, moving: MovingVertex | None, settings: SimplexArgs, rng: torch.Generator
) -> Tensor:
    if moving is None or settings.sampling == "simplex":
        shares = torch.full((complex_.num_modes,), 1 / complex_.num_modes, dtype=torch.float64)
    else:
        shares = volume_shares(moving.log_volumes)
    return sample_coefficients(shares, len(complex_.connectors), settings.samples, rng)
