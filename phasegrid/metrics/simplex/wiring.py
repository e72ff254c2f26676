"""Say which vertices each simplex of a complex has, by number and by name.

Vertices are numbered modes first: w0 .. w(M-1), then connectors c0 .. c(J-1), which the papers call
theta. A wiring is ``shared``, simplex i = (w_i, c_0 .. c_(J-1)) (Benton et al. 2021, section 3.2),
or a list of simplexes, each a list of names.

Letters: M modes, J connectors, S simplexes.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from phasegrid.declare import Finding
from phasegrid.texts import counted

Wiring: TypeAlias = Literal["shared"] | tuple[tuple[str, ...], ...]
"""As a sweep writes it."""

Simplexes: TypeAlias = tuple[tuple[int, ...], ...]
"""The numbers of the vertices of each simplex, in ascending order."""


def vertex_names(num_modes: int, num_connectors: int) -> tuple[str, ...]:
    """Return the names of the vertices in their order.

    >>> vertex_names(2, 1)
    ('w0', 'w1', 'c0')
    """
    modes = (f"w{i}" for i in range(num_modes))
    return (*modes, *(f"c{j}" for j in range(num_connectors)))


def shared(num_modes: int, num_connectors: int) -> Simplexes:
    """Return the simplexes that share all connectors, one for each mode.

    >>> shared(2, 2)
    ((0, 2, 3), (1, 2, 3))
    """
    connectors = range(num_modes, num_modes + num_connectors)
    return tuple((mode, *connectors) for mode in range(num_modes))


def simplexes_of(wiring: Wiring, num_modes: int, num_connectors: int) -> Simplexes:
    """Return the simplexes of a wiring without mistakes.

    >>> simplexes_of((("w0", "c0"), ("c0", "w1")), 2, 1)
    ((0, 2), (1, 2))
    """
    if wiring == "shared":
        return shared(num_modes, num_connectors)
    number = {name: i for i, name in enumerate(vertex_names(num_modes, num_connectors))}
    return tuple(tuple(sorted(number[name] for name in simplex)) for simplex in wiring)


def up_to(simplexes: Simplexes, num_vertices: int) -> Simplexes:
    """Return the complex of the first `num_vertices` vertices: each simplex without the later ones,
    but no point and no face of another.

    >>> up_to(((0, 2, 3), (1, 2, 4)), 4)
    ((0, 2, 3), (1, 2))
    """
    begun = [tuple(v for v in simplex if v < num_vertices) for simplex in simplexes]
    whole = [simplex for simplex in dict.fromkeys(begun) if len(simplex) > 1]
    return tuple(one for one in whole if not any({*one} < {*other} for other in whole))


def around(simplexes: Simplexes, vertex: int) -> Simplexes:
    """Return the complex in which `vertex` is trained: the simplexes that contain it, without the
    vertices that come after it.

    >>> around(((0, 2, 3), (1, 2), (1, 3)), 2)
    ((0, 2), (1, 2))
    """
    return up_to(tuple(one for one in simplexes if vertex in one), vertex + 1)


def wiring_mistake(wiring: Wiring, num_connectors: int) -> Finding | None:
    """Say what is wrong with a wiring, whatever the number of modes; the place of a mistake is a
    path such as ``wiring.2``.
    """
    if wiring == "shared":
        return None
    seen: dict[frozenset[str], int] = {}
    for index, simplex in enumerate(wiring):
        place, own = f"wiring.{index}", frozenset(simplex)
        wrong = next((name for name in simplex if not re.fullmatch(r"[wc](0|[1-9]\d*)", name)), "")
        if wrong:
            return place, f"found {wrong!r}; vertices are w0, w1, ... (modes) and c0, c1, ..."
        late = next((n for n in simplex if n[0] == "c" and int(n[1:]) >= num_connectors), "")
        if late:
            return place, f"found {late}, but {_there_are('connector', 'c', num_connectors)}"
        if len(own) < len(simplex):
            return place, f"found {_words(simplex)}, which names a vertex twice; each once"
        if len(own) < 2:
            return place, f"found {_words(simplex)}; a simplex has at least two vertices"
        if own in seen:
            return place, f"found {_words(simplex)}, which is simplex {seen[own]} too; each once"
        whole = next((i for i, other in enumerate(wiring) if own < {*other}), None)
        if whole is not None:
            return place, f"found {_words(simplex)}, a face of simplex {whole}; leave it out"
        seen[own] = index
    return _connector_mistake(wiring, num_connectors) or _apart(wiring)


def modes_mistake(wiring: Wiring, num_modes: int) -> Finding | None:
    """Say what is wrong with a wiring for this number of modes."""
    if wiring == "shared":
        return None
    for index, simplex in enumerate(wiring):
        wrong = next((n for n in simplex if n[0] == "w" and int(n[1:]) >= num_modes), "")
        if wrong:
            return f"wiring.{index}", f"found {wrong}, but {_there_are('mode', 'w', num_modes)}"
    unused = [f"w{i}" for i in range(num_modes) if not any(f"w{i}" in one for one in wiring)]
    if unused:
        return "wiring", f"no simplex has {', '.join(unused)}; every mode belongs to one"
    return None


def _connector_mistake(wiring: Sequence[Sequence[str]], num_connectors: int) -> Finding | None:
    """Find a connector of no simplex, or one that begins without any vertex before it."""
    names = [f"c{j}" for j in range(num_connectors)]
    unused = [name for name in names if not any(name in simplex for simplex in wiring)]
    if unused:
        found = f"no simplex has {', '.join(unused)}"
        return "wiring", f"{found}; give each connector a simplex, or write fewer connectors"
    for j, name in enumerate(names):
        before = {n for simplex in wiring if name in simplex for n in simplex} - {*names[j:]}
        if not before:
            return "wiring", (
                f"{name} shares no simplex with a mode or an earlier connector, so it cannot be"
                " trained when its turn comes; number the connectors in the order of training"
            )
    return None


def _apart(wiring: Sequence[Sequence[str]]) -> Finding | None:
    """Find simplexes that no way of shared vertices joins to the first."""
    reached, waiting = {*wiring[0]}, list(wiring[1:])
    while joined := [one for one in waiting if reached & {*one}]:
        reached.update(*joined)
        waiting = [one for one in waiting if one not in joined]
    if not waiting:
        return None
    index = list(wiring).index(waiting[0])
    return f"wiring.{index}", (
        f"{_words(waiting[0])} is not connected with {_words(wiring[0])}: no chain of simplexes"
        " with a common vertex joins them"
    )


def _there_are(what: str, letter: str, num: int) -> str:
    names = ", ".join(f"{letter}{i}" for i in range(num))
    return f"there {'is' if num == 1 else 'are'} {counted(num, what)}: {names}"


def _words(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"
