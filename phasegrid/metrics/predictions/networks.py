"""The networks behind what a measurement or a training left: points of a curve or of a complex, or
drawn from moments of weights.

Letters: J networks, V vertices.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.connectivity.left import read_curve
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.gaussian import SCALE, gaussian_of, sampled_networks
from phasegrid.metrics.network.left import Refresh, networks_at
from phasegrid.metrics.simplex.left import read_complex


def networks_behind(
    models: Sequence[nn.Module],
    source: Source,
    num: int,
    refresh: Refresh,
    data: Dataset,
    rng: torch.Generator,
    metric: str,
    scale: float = SCALE,
) -> tuple[Iterator[nn.Module], Mapping[str, Tensor]]:
    """Return the `num` networks that `metric` takes of a source about `models`; and where they are,
    in float64: on a curve ``t`` (J,), equally spaced, ends included; on a complex the
    ``coefficients`` (J, V) of its vertices, uniform on it.

    Raises:
        MetricError: if the source does not hold what its name says.
    """
    if source.name == "moments":
        gaussian = gaussian_of(source.tensors, metric)
        drawn = sampled_networks(gaussian, num, scale, models[0], data, refresh, rng)
        return drawn, {}
    if source.name == "complex":
        complex_ = read_complex(models, [source], metric)
        at = complex_.coefficients(num, rng)
        made = networks_at(complex_, at, models[0], data, refresh, rng)
        return made, {"coefficients": at}
    curve = read_curve(models, [source], metric)
    t = torch.linspace(0, 1, num, dtype=torch.float64)
    return networks_at(curve, curve.coefficients(t), models[0], data, refresh, rng), {"t": t}
