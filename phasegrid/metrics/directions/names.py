"""The names of directions through the weights of a network: ``gaussian_0``, ``gradient``, ``to_1``.

A name is a kind, or a kind and a number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phasegrid.declare import Finding
from phasegrid.texts import counted, suggest

PLAIN = ("gradient", "weights", "w_peak", "vvv_basin")
"""The kinds of which there is one direction."""

NUMBERED = {
    "gaussian": 0,
    "to": 1,
    "positive": 1,
    "negative": 1,
    "component": 1,
    "aligned": 1,
}
"""The kinds of which there are several, with the first number of each."""

OF_NETWORKS = ("to", "component")
"""The kinds of which there is one direction less than the job has networks."""

_NAME = re.compile(r"([a-z]+)_(0|[1-9][0-9]*)")


def parsed(name: str) -> tuple[str, int] | None:
    """Return the kind of a direction and its number (0 for a plain one); None for no direction.

    >>> parsed("to_2"), parsed("gradient"), parsed("to_0")
    (('to', 2), ('gradient', 0), None)
    """
    if name in PLAIN:
        return name, 0
    found = _NAME.fullmatch(name)
    if found is None or int(found[2]) < NUMBERED.get(found[1], int(found[2]) + 1):
        return None
    return found[1], int(found[2])


def numbers_of(names: Iterable[str], kind: str) -> list[int]:
    """Return the numbers of the directions of a kind among `names`, in their order."""
    every = [parsed(name) for name in names]
    return [found[1] for found in every if found is not None and found[0] == kind]


def names_mistake(names: Sequence[str], field: str) -> Finding | None:
    """Find a name in `field` that is no direction, or that is there twice."""
    allowed = [*PLAIN, *(f"{kind}_{first}" for kind, first in NUMBERED.items())]
    for place, name in enumerate(names):
        if parsed(name) is None:
            known = f"{', '.join(PLAIN)}, and numbered " + ", ".join(
                f"{kind}_{first}, {kind}_{first + 1}, ..." for kind, first in NUMBERED.items()
            )
            return f"{field}.{place}", f"found {name!r}; allowed: {known}" + suggest(name, allowed)
        if name in names[:place]:
            return f"{field}.{place}", f"found {name} twice; name each direction once"
    return None


def networks_needed(names: Sequence[str], num: int, field: str) -> Finding | None:
    """Find a direction in `field` that needs more than `num` networks."""
    for place, name in enumerate(names):
        found = parsed(name)
        if found is not None and found[0] in OF_NETWORKS and found[1] >= num:
            message = (
                f"found {name}, which needs {counted(found[1] + 1, 'network')}, but a job has"
                f" {counted(num, 'network')}; write networks, or over: trajectory with at, or"
                " over: cell"
            )
            return f"{field}.{place}", message
    return None


def unknown_direction(names: Sequence[str], source: Mapping[str, Any]) -> str | None:
    """Say which of the `names` directions that are measured with the arguments `source` will not
    have; None if they have all.
    """
    known = tuple(source["along"])
    unknown = next((name for name in names if name not in known), None)
    if unknown is None:
        return None
    return f"found {unknown}, but the directions are along: [{', '.join(known)}]; add it there"
