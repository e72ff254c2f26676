"""SWAG's Gaussian over weights, and the networks drawn from it (Maddox et al. 2019, section 3).

From the moments that a training collected (`phasegrid.train.taking`): mean m, mean square q, and
the last K deviations d_1, ..., d_K, the columns of D. A sample is (their equation 1, scale 1/2)

    w = m + sqrt(scale) (sqrt(max(q - m^2, 0)) z_1 + D z_2 / sqrt(K - 1)),

z_1 ~ N(0, I_P), z_2 ~ N(0, I_K). So w has the mean m and, in expectation, the covariance
scale (diag(q - m^2) + D D^T / (K - 1)).

Letters: P numbers (the trained parameters of a network), K deviations.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.network.left import Refresh, left_evaluator
from phasegrid.metrics.network.points import live_network
from phasegrid.models.weights import refresh_batch_norm

SCALE = 0.5
"""The factor of the covariance in equation 1."""

REFRESH_BATCH = 500
"""The size of the batches that refresh BatchNorm."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Its `mean` (P,) and `variance` (P,) in float64, and `deviations` (K, P)."""

    mean: Tensor
    variance: Tensor
    deviations: Tensor

    def sample(self, scale: float, rng: torch.Generator) -> Tensor:
        """Draw a point (P,), in float64; `rng` is on the CPU."""
        z1 = torch.randn(len(self.mean), generator=rng, dtype=torch.float64).to(self.mean)
        rank = len(self.deviations)
        z2 = torch.randn(rank, generator=rng, dtype=torch.float64).to(self.mean)
        low_rank = (z2.to(self.deviations) @ self.deviations).double() / math.sqrt(rank - 1)
        drawn: Tensor = self.mean + math.sqrt(scale) * (self.variance.sqrt() * z1 + low_rank)
        return drawn


def gaussian_of(moments: Mapping[str, Tensor], metric: str) -> Gaussian:
    """Return the Gaussian of collected moments, for `metric`.

    Raises:
        MetricError: if the tensors are none, or weights were taken fewer than twice.
    """
    if not {"mean", "square", "deviations"} <= moments.keys():
        raise MetricError(f"{metric}: found {sorted(moments)}; allowed: the moments of SWAG")
    mean, square, deviations = (moments[name] for name in ("mean", "square", "deviations"))
    if len(deviations) < 2:
        raise MetricError(
            f"{metric}: SWAG's covariance needs weights that were collected at least twice, and a"
            f" rank of at least 2; found {len(deviations)} deviation; collect more often"
        )
    return Gaussian(mean.double(), (square - mean.square()).clamp(min=0).double(), deviations)


def sampled_networks(
    gaussian: Gaussian,
    num: int,
    scale: float,
    model: nn.Module,
    data: Dataset,
    refresh: Refresh,
    rng: torch.Generator,
) -> Iterator[nn.Module]:
    """Yield `num` networks drawn from a Gaussian, made like `model`, which has the tensors that do
    not train. BatchNorm statistics are recomputed from examples that `rng` draws first.
    """
    evaluator = left_evaluator({"batch_size": REFRESH_BATCH}, model, data, refresh, rng)
    for _ in range(num):
        flat = live_network(model)
        flat.assign(gaussian.sample(scale, rng).to(flat.weights.dtype))
        if evaluator.refresh_inputs is not None:
            refresh_batch_norm(flat.module, evaluator.refresh_inputs, REFRESH_BATCH)
        yield flat.module
