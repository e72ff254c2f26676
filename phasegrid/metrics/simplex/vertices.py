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
    return _unknown(asked, "c", "connectors", complex_args["connectors"])


def unknown_mode(asked: Iterable[str], num: int) -> str | None:
    """Say which mode a complex of `num` networks will not have."""
    return _unknown(asked, "w", "modes", num)


def edges_among(
    places: Collection[int], simplexes: Iterable[Sequence[int]]
) -> list[tuple[int, int]]:
    """Return the edges of a complex between some of its vertices.

    >>> edges_among([0, 1, 2], [[0, 2], [1, 2]])
    [(0, 2), (1, 2)]
    """
    joined = {edge for simplex in simplexes for edge in combinations(sorted(simplex), 2)}
    return [edge for edge in combinations(sorted(places), 2) if edge in joined]


def _unknown(asked: Iterable[str], letter: str, what: str, num: int) -> str | None:
    for name in asked:
        if name[0] == letter and int(name[1:]) >= num:
            known = f"{letter}0" if num == 1 else f"{letter}0 to {letter}{num - 1}"
            return f"found {name}, but the complex has {what}: {num}; allowed: {known}"
    return None
