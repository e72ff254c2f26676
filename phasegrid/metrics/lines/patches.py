"""Second-order approximations of the loss at points of a line (Xu et al. 2024, section 3.2).

At t_p the loss is L(t) ~ L(t_p) + b (t - t_p) + a (t - t_p)^2 / 2, with b = d . g and a = d . H d,
g and H the gradient and the Hessian at theta + t_p d. BatchNorm has the statistics of that point,
so along a line with refreshed ones the approximation leaves out that these change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.metrics.hessian.operator import HessianOperator, with_right_products
from phasegrid.metrics.slice.evaluation import Examples, MovingNetwork
from phasegrid.models.network_state import copy_network


@dataclass(frozen=True, slots=True)
class Patches:
    """Where they are, the loss there, first and second derivative, and how far they are off at
    their ends.
    """

    t: list[float]
    loss: list[float]
    slope: list[float]
    curvature: list[float]
    error: list[float]


def measure_patches(
    network: MovingNetwork,
    direction: Tensor,
    at: Sequence[float],
    examples: tuple[Tensor, Tensor],
    prepared: Examples,
    radius: float,
    rng: torch.Generator,
) -> Patches:
    """Approximate the loss at theta + t d, theta the present weights, for t in `at`, on `examples`
    (inputs and labels, `prepared` for evaluation too); errors are those at t - `radius` and t +
    `radius`. Leaves the network somewhere on the line.
    """
    centre, patches = network.flat.rows()[0], Patches([], [], [], [], [])
    inputs, labels = examples
    for t in at:
        _move(network, centre, direction, t)
        loss = _loss(network, prepared)
        slope, curvature = with_right_products(
            copy_network(network.flat.module),  # the operator may change its layout
            network.lay_out(inputs),
            labels,
            rng,
            lambda H: _derivatives(H, direction),
            prepared.scoring,
        )
        errors = []
        for step in (-radius, radius):
            _move(network, centre, direction, t + step)
            approximated = loss + slope * step + curvature * step**2 / 2
            errors.append(abs(_loss(network, prepared) - approximated))
        for values, value in zip(
            (patches.t, patches.loss, patches.slope, patches.curvature, patches.error),
            (t, loss, slope, curvature, max(errors)),
            strict=True,
        ):
            values.append(value)
    _move(network, centre, direction, 0.0)
    return patches


def _derivatives(H: HessianOperator, direction: Tensor) -> tuple[float, float]:
    """Return d . g and d . H d of a direction (P,)."""
    along = direction.to(H.parameters[0].dtype)
    slope, product = H.gradient().double() @ along.double(), along.double() @ H(along).double()
    return float(slope), float(product)


def _move(network: MovingNetwork, centre: Tensor, direction: Tensor, t: float) -> None:
    network.flat.assign(torch.add(centre, direction, alpha=t))
    network.settle()


def _loss(network: MovingNetwork, examples: Examples) -> float:
    return float(network.measure(examples)[0]) / examples.num_scored
