"""A complex that `simplex` or `espro` has stored as an artifact, and points on it.

Letters: V vertices (modes in the order of the networks, then connectors), P parameters, S
simplexes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.curves import stack_vertices
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.joining import Rest, place_point, rest_of_complex
from phasegrid.metrics.simplex.complexes import Complex, members_of, simplexes_in
from phasegrid.metrics.simplex.sampling import sample_coefficients
from phasegrid.metrics.simplex.volume import kinds_of, log_volumes_of, volume_shares
from phasegrid.metrics.simplex.wiring import Simplexes, vertex_names
from phasegrid.models.flat import FlatNetwork


@dataclass(frozen=True, slots=True)
class LeftComplex:
    """The `vertices` (V, P) of a complex and their `names` (w0, ..., c0, ...), the `simplexes`, the
    tensors that do not train, and the arguments of the measurement that stored it.
    """

    vertices: Tensor
    names: tuple[str, ...]
    simplexes: Simplexes
    rest: Rest
    args: Mapping[str, Any]

    @property
    def log_volumes(self) -> Tensor:
        """The log-volume of each simplex, (S,) in float64, computed anew each time."""
        return log_volumes_of(Complex(self.vertices, self.simplexes))

    def coefficients(self, num: int, rng: torch.Generator) -> Tensor:
        """Draw `num` points as weights (num, V) of the vertices, in float64 on the CPU: uniform on
        the complex, or with equal shares of the simplexes if it was trained so.
        """
        shares = torch.full((len(self.simplexes),), 1 / len(self.simplexes), dtype=torch.float64)
        if self.args.get("sampling", "volume") == "volume":
            dimensions = [len(simplex) - 1 for simplex in self.simplexes]
            shares = volume_shares(self.log_volumes, kinds_of(dimensions, shares.device))
        members = members_of(self.simplexes)
        return sample_coefficients(shares, members, len(self.vertices), num, rng).cpu()

    def place(self, flat: FlatNetwork, coefficients: Tensor) -> None:
        """Set a network to the mix of the vertices with `coefficients` (V,) (`place_point`)."""
        place_point(flat, self.vertices, self.rest, coefficients)


def read_complex(
    models: Sequence[nn.Module], sources: Sequence[Source], metric: str
) -> LeftComplex:
    """Return the stored complex through `models` that `metric` reads.

    Raises:
        MetricError: if there is not one complex, or it does not join these models.
    """
    if not models or len(sources) != 1:
        raise MetricError(
            f"{metric} reads one complex through its modes; got {len(sources)} and"
            f" {len(models)} models"
        )
    connectors, members = (sources[0].tensors.get(name) for name in ("connectors", "simplexes"))
    modes = stack_vertices(models)
    if connectors is None or members is None or connectors.shape[1:] != modes.shape[1:]:
        raise MetricError(
            f"{metric}: the artifact of {sources[0].metric} does not hold a complex of networks"
            f" with {modes.shape[1]:,} parameters"
        )
    names = vertex_names(len(models), len(connectors))
    simplexes = simplexes_in(members)
    if max(map(max, simplexes)) >= len(names):
        raise MetricError(
            f"{metric}: the complex of {sources[0].metric} has vertex {max(map(max, simplexes))},"
            f" but its modes and connectors are {len(names)}"
        )
    saved = sources[0].args.get("batch_norm") == "saved"
    rest = rest_of_complex(models, len(connectors), with_statistics=saved)
    vertices = torch.cat([modes, connectors.to(modes)])
    return LeftComplex(vertices, names, simplexes, rest, sources[0].args)
