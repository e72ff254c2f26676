"""Resolve which networks one job of a request measures: ``pairs``, ``modes``, ``runs``,
``networks``.

    metrics:
      - distance: {over: trajectory, at: [0, lowest_rate], pairs: from_first}
      - ensemble: {over: cell, at: lowest_rate, runs: 2}     the seeds two by two; one job for each
      - connectivity: {networks: [{seed: 0, at: 5}, {seed: 1}]}                    in every cell
      - plane: {over: across, networks: [{seed: 0, model.width: 8}, ...]}          of any cells
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, TypeAlias

from phasegrid.config.across import SEED, choose_across
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.places import (
    in_words,
    place_mistake,
    read_places,
    read_stage,
    training_of,
)
from phasegrid.config.types import GridPoint, Network
from phasegrid.config.validate import unknown_key
from phasegrid.config.yaml import Node, plain_text
from phasegrid.declare import Metric
from phasegrid.jobs import Over
from phasegrid.texts import counted, suggest

PAIRS = ("first", "from_first", "ring", "all")
Pairs: TypeAlias = Literal["first", "from_first", "ring", "all"]
_OF_NETWORK = ("at", "stage")
_ALONE = ("at", "where", "runs", "pairs", "modes")
"""What a request with ``networks`` does not say as well."""


class Choice(NamedTuple):
    """How the networks of a request become those of its jobs (`MetricRequest`)."""

    pairs: Pairs | None = None
    modes: int | None = None
    runs: int | None = None


def take_choice(
    args: Node,
    keys: Mapping[str, Node],
    metric: Metric,
    over: Over,
    num_seeds: int,
    path: str,
    diagnostics: Diagnostics,
) -> tuple[Node, Choice]:
    """Remove `pairs` and `modes` from the arguments; return the rest, and the choice."""
    pairs = metric.pairs if over == metric.over == "pair" else None
    if args.mapping is None:
        return args, Choice(pairs)
    rest = dict(args.mapping)
    if "networks" in keys:
        for key in [key for key in _ALONE if key in {**rest, **keys}]:
            node = rest.pop(key, None) or keys[key]
            message = "found beside networks, which says all of it; leave it out"
            diagnostics.add_key(node, f"{path}.{key}", message)
        return Node(rest, args.place, args.key_place), Choice()
    if "pairs" in choice_keys(metric, over) and "pairs" in rest:
        pairs = _read_pairs(rest.pop("pairs"), pairs, f"{path}.pairs", diagnostics)
    modes = runs = None
    if "modes" in choice_keys(metric, over) and "modes" in rest:
        fewest = 1 if "at" in keys else metric.min_trials
        node = rest.pop("modes")
        if node.value is not None:
            modes = _count(node, fewest, num_seeds, f"{path}.modes", diagnostics)
    if "runs" in keys:
        if over == "cell" and modes is None:
            most = None if "of" in keys else num_seeds
            runs = _count(keys["runs"], 1, most, f"{path}.runs", diagnostics)
        else:
            beside = f"over: {over}" if over != "cell" else "modes"
            message = f"found with {beside}; it is for over: cell, without modes; leave it out"
            diagnostics.add_key(keys["runs"], f"{path}.runs", message)
    return Node(rest, args.place, args.key_place), Choice(pairs, modes, runs)


def choice_keys(metric: Metric, over: Over) -> tuple[str, ...]:
    """Return the keys that `take_choice` removes from the arguments of a request."""
    pairs = ("pairs",) if "pair" in (over, metric.over) else ()
    return (*pairs, "modes") if over == "cell" else pairs


def _read_pairs(
    node: Node, usual: Pairs | None, path: str, diagnostics: Diagnostics
) -> Pairs | None:
    if node.value in PAIRS:
        return node.value  # type: ignore[return-value]  # one of PAIRS
    found = node.value if isinstance(node.value, str) else ""
    message = f"found {plain_text(node.plain())}; allowed: {', '.join(PAIRS)}"
    diagnostics.add(node, path, message + suggest(found, PAIRS))
    return usual


def _count(
    node: Node, fewest: int, num_seeds: int | None, path: str, diagnostics: Diagnostics
) -> int | None:
    """Return a number of trials of a cell, or of others (`num_seeds` is None); None after a
    mistake.
    """
    value = node.value
    if not isinstance(value, int) or isinstance(value, bool) or value < fewest:
        null = ", or null for all trials" if path.endswith("modes") else ""
        message = f"found {plain_text(node.plain())}; allowed: an integer, at least {fewest}{null}"
        diagnostics.add(node, path, message)
        return None
    if num_seeds is not None and value > num_seeds and not diagnostics.is_broken("seeds"):
        diagnostics.add(node, path, too_many(value, num_seeds))
    return value


def too_many(found: int, num_seeds: int) -> str:
    """Say that a job cannot have so many trials of a cell."""
    trials = counted(num_seeds, "trial")
    return f"found {found}, but a cell has {trials}; lower it or raise seeds"


def choose_pairs(seeds: Sequence[int], how: str) -> list[tuple[int, int]]:
    """Choose pairs of positions: ``first`` two, ``from_first`` (0,1), (0,2), ..., ``ring`` (0,1),
    (1,2), ..., (n-1,0), or ``all`` unordered pairs.

    In a pair the lower seed comes first, so that the same two trials are the same pair in every
    sweep.

    >>> choose_pairs([0, 1, 2], "ring")
    [(0, 1), (1, 2), (0, 2)]
    """
    count = len(seeds)
    if how == "first":
        pairs = [(0, 1)]
    elif how == "from_first":
        pairs = [(0, i) for i in range(1, count)]
    elif how == "ring" and count > 2:
        pairs = [(i, (i + 1) % count) for i in range(count)]
    else:
        pairs = list(combinations(range(count), 2))
    return [(i, j) if seeds[i] < seeds[j] else (j, i) for i, j in pairs]


@dataclass(frozen=True, slots=True)
class Grid:
    """What a request can name: cells, seeds, and the trainings of a cell, all in order."""

    points: Sequence[GridPoint]
    seeds: Sequence[int]
    stages: Sequence[str]


def read_networks(
    node: Node, stage: str | None, across: bool, path: str, grid: Grid, diagnostics: Diagnostics
) -> tuple[Network, ...]:
    """Return the networks that a request names, in their order. `stage` is the request's own."""
    if not node.items:
        allowed = "a list of networks, such as [{seed: 0, at: 5}, {seed: 1}]"
        message = f"found {plain_text(node.plain())}; allowed: {allowed}"
        diagnostics.add(node, path, message)
        return ()
    found: list[Network] = []
    for index, item in enumerate(node.items):
        named = _read_network(item, stage, across, f"{path}.{index}", grid, diagnostics)
        found += [named] if named is not None else []
    return tuple(found)


def _read_network(
    item: Node, stage: str | None, across: bool, path: str, grid: Grid, diagnostics: Diagnostics
) -> Network | None:
    if item.mapping is None:
        message = (
            f"found {plain_text(item.plain())}; allowed: a network, such as {{seed: 0, at: 5}}"
        )
        diagnostics.add(item, path, message)
        return None
    fields = {key: node for key, node in item.mapping.items() if key not in _OF_NETWORK}
    if not across:
        for key in fields.keys() - set(SEED):
            message = unknown_key(key, ("seed", *_OF_NETWORK)) + "; others go with over: across"
            diagnostics.add_key(fields.pop(key), f"{path}.{key}", message)
    points = grid.points if across else grid.points[:1]
    where = Node(fields, item.place) if fields else None
    chosen = choose_across(where, path, points, grid.seeds, diagnostics)
    if "stage" in item.mapping:
        stage = read_stage(item.mapping["stage"], grid.stages, f"{path}.stage", diagnostics)
    at = item.mapping.get("at")
    places = read_places(at, f"{path}.at", diagnostics)
    if diagnostics.is_broken(path):
        return None
    if len(chosen) != 1:
        more = "seed" if not across else "seed, or other fields"
        diagnostics.add(item, path, f"chooses {len(chosen)} trials; name one of them: add {more}")
        return None
    cells = [grid.points[chosen[0][0]]] if across else grid.points
    trainings = [training_of(point, stage, grid.stages) for point in cells]
    for place in places:
        if mistake := place_mistake(place, trainings):
            assert at is not None
            diagnostics.add(at, f"{path}.at", mistake)
            return None
    return Network(chosen[0][0] if across else None, chosen[0][1], stage, places)


def networks_in_words(networks: Sequence[Network], seeds: Sequence[int]) -> str:
    """Return networks as a name has them: ``0@5+train:1``."""
    return "+".join(
        (f"{one.stage}:" if one.stage else "")
        + str(seeds[one.seed])
        + (f"@{in_words(one.at)}" if one.at else "")
        for one in networks
    )
