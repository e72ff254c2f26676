"""Choose lambda_j, the weight of the volume while connector j is trained.

Letters: M modes, J connectors, j a connector, counted from 0.
"""

import math

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.network.fresh import fresh_vector
from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.metrics.simplex.complexes import Complex
from phasegrid.metrics.simplex.volume import (
    kinds_of,
    log_volume,
    log_volumes_of,
    total_log_volume,
)
from phasegrid.metrics.simplex.wiring import Simplexes, around

LEAST = 1e-8
"""The smallest lambda_j of a schedule (the published code)."""

ADDED = 1e-4
"""What the published code adds to a squared volume before its log."""


def connector_lambdas(
    model: nn.Module,
    simplexes: Simplexes,
    num_modes: int,
    settings: SimplexArgs,
    rng: torch.Generator,
) -> list[float]:
    """Return lambda_j for each connector of a complex of networks like `model`; only a schedule
    that is not ``constant`` draws from `rng`.

    Raises:
        MetricError: if the length of the list is not the number of connectors, or a schedule meets
            a layer that cannot be initialised anew.
    """
    given, num = settings.volume_lambda, settings.connectors
    if not isinstance(given, (int, float)):
        if len(given) != num or settings.volume_schedule != "constant":
            raise MetricError(
                f"simplex: volume_lambda lists {len(given)} values for {num} connectors and the"
                f" schedule {settings.volume_schedule}; give one number, or one for each connector"
                " with volume_schedule: constant"
            )
        return [float(value) for value in given]
    if settings.volume_schedule == "constant":
        return [float(given)] * num
    num_fresh = num_modes + num
    asked = (
        f"simplex with volume_schedule: {settings.volume_schedule}; use volume_schedule: constant"
    )
    fresh = torch.stack([fresh_vector(model, rng, asked) for _ in range(num_fresh)])
    if settings.volume_schedule == "paper":
        return [_of_paper(given, fresh, around(simplexes, num_modes + j)) for j in range(num)]
    return [_of_code(given, fresh, j, num_modes) for j in range(num)]


def _of_paper(given: float, fresh: Tensor, simplexes: Simplexes) -> float:
    """Return max(lambda / log V(K), 1e-8) with K made of fresh networks."""
    complex_ = Complex(fresh, simplexes)
    log_volumes = log_volumes_of(complex_)
    kinds = kinds_of(complex_.dimensions, log_volumes.device)
    return _over(given, total_log_volume(log_volumes, kinds))


def _of_code(given: float, fresh: Tensor, connector: int, num_modes: int) -> float:
    """Return max(lambda / log(V^2 + 1e-4), 1e-8) with V of one simplex of fresh networks: around
    one mode as many as the simplex of this connector has; between modes one more, and 0 for the
    first connector.
    """
    if connector == 0 and num_modes > 1:
        return 0.0
    num = connector + (2 if num_modes == 1 else 3)
    logs = torch.tensor([2 * log_volume(fresh[:num]), math.log(ADDED)], dtype=torch.float64)
    return _over(given, float(logs.logsumexp(dim=0)))


def _over(given: float, log: float) -> float:
    return max(given / log, LEAST) if log > 0 else LEAST
