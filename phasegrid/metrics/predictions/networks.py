"""The networks behind what a measurement or a training left: points of a curve, or drawn from
moments of weights.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.left import read_curve
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.gaussian import gaussian_of, sampled_networks
from phasegrid.metrics.network.left import networks_at


class Settings(Protocol):
    """The arguments that say which networks are taken."""

    @property
    def points(self) -> int: ...
    @property
    def refresh_examples(self) -> int | None: ...
    @property
    def scale(self) -> float: ...


def networks_behind(
    models: Sequence[nn.Module],
    source: Source,
    settings: Settings,
    data: Dataset,
    rng: torch.Generator,
    metric: str,
) -> tuple[Iterator[nn.Module], Tensor | None]:
    """Return the networks that `metric` takes of a source about `models`; and, on a curve, where
    they are, (T,).

    Raises:
        MetricError: if the source does not hold what its name says.
    """
    num, refresh = settings.points, settings.refresh_examples
    if source.name == "moments":
        gaussian = gaussian_of(source.tensors, metric)
        drawn = sampled_networks(gaussian, num, settings.scale, models[0], data, refresh, rng)
        return drawn, None
    curve = read_curve(models, [source], metric)
    t = torch.linspace(0, 1, num, dtype=torch.float64)
    return networks_at(curve, curve.coefficients(t), models[0], data, refresh, rng), t
