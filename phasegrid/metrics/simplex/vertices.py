"""The names of the vertices of a complex: w0, w1, ... for modes, c0, c1, ... for connectors."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any

from pydantic import Field

from phasegrid.errors import MetricError

Vertex = Annotated[str, Field(pattern=r"^[wc](0|[1-9][0-9]*)$")]


def places_of(asked: Iterable[str], names: Sequence[str], metric: str) -> list[int]:
    """Return the places of some vertices among all `names` of a complex.

    Raises:
        MetricError: if the complex has no such vertex.
    """
    found = []
    for name in asked:
        if name not in names:
            raise MetricError(
                f"{metric}: found the vertex {name}, which the complex does not have; allowed:"
                f" {', '.join(names)}"
            )
        found.append(names.index(name))
    return found


def unknown_connector(asked: Iterable[str], complex_args: Mapping[str, Any]) -> str | None:
    """Say which connector a complex that is measured with these arguments will not have. How many
    modes it will have depends on the cell.
    """
    num = complex_args["connectors"]
    for name in asked:
        if name[0] == "c" and int(name[1:]) >= num:
            known = "c0" if num == 1 else f"c0 to c{num - 1}"
            return f"found {name}, but the complex has connectors: {num}; allowed: {known}"
    return None


def edges_among(
    places: Collection[int], simplexes: Iterable[Sequence[int]]
) -> list[tuple[int, int]]:
    """Return the edges of a complex between some of its vertices.

    >>> edges_among([0, 1, 2], [[0, 2], [1, 2]])
    [(0, 2), (1, 2)]
    """
    joined = {edge for simplex in simplexes for edge in combinations(sorted(simplex), 2)}
    return [edge for edge in combinations(sorted(places), 2) if edge in joined]
