"""Let arguments of metrics vary from cell to cell: ``metrics.NAME.ARGUMENT`` on an axis or in
``couple``.

NAME is the id of a request or, if one request alone asks for it, the name of a metric. Such a
request is a section of the trial template, as ``train`` is. Cells that differ in it alone have the
same trials.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from phasegrid.config.axes import Scale, overlap
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import Draft
from phasegrid.config.points import Point
from phasegrid.config.rules import mistakes_of
from phasegrid.config.template import METRICS, Option, TrialTemplate, put, split_path
from phasegrid.config.ties import Tied
from phasegrid.config.validate import fields_of
from phasegrid.config.yaml import Node, Place
from phasegrid.declare import make_part
from phasegrid.keys import Json, canonical_json
from phasegrid.texts import counted


@dataclass(frozen=True, slots=True)
class Together:
    """How many trials of a cell one job has: fields of a request beside its metric's arguments."""

    modes: Annotated[int, Field(ge=1)] | None = None
    runs: Annotated[int, Field(ge=1)] | None = None


Values: TypeAlias = Mapping[str, tuple[Json, Place]]
"""Values of arguments by their paths, and where the sweep gives them."""


@dataclass(frozen=True, slots=True)
class Variation:
    """What varies in the requests of some cells: values of arguments by request, as its position in
    the list, and path below it.
    """

    values: Mapping[int, Values] = field(default_factory=dict)


class Varying:
    """Tells apart the cells of a grid by the arguments of their requests."""

    def __init__(self, scales: Sequence[Scale], tied: Tied, template: TrialTemplate) -> None:
        self._scales = scales
        self._tied = tied
        self._requests = template.requests
        self._axes = [i for i, s in enumerate(scales) if self._request(s.axis.path) is not None]
        self._ties = [path for path in tied if self._request(path) is not None]
        self._numbers: dict[tuple[object, ...], int] = {}
        self.found: list[Variation] = []

    def _request(self, path: str) -> int | None:
        return self._requests.get(split_path(path)[0])

    def number(self, point: Point, tied: Mapping[str, Json]) -> int:
        """Return the number of what varies in the requests of a cell, which is noted if it is
        new.
        """
        if not self._axes and not self._ties:
            return 0
        key = (*(point[i] for i in self._axes), *(hashable(tied[path]) for path in self._ties))
        if key not in self._numbers:
            self._numbers[key] = len(self.found)
            self.found.append(self._variation(point, tied))
        return self._numbers[key]

    def _variation(self, point: Point, tied: Mapping[str, Json]) -> Variation:
        values: dict[int, dict[str, tuple[Json, Place]]] = {}
        for i in self._axes:
            scale = self._scales[i]
            index, below = self._below(scale.axis.path)
            place = scale.nodes[point[i]].place
            values.setdefault(index, {})[below] = scale.value(point[i]), place
        for path in self._ties:
            index, below = self._below(path)
            values.setdefault(index, {})[below] = tied[path], self._tied[path][1].place
        return Variation(values)

    def _below(self, path: str) -> tuple[int, str]:
        section, parts = split_path(path)
        return self._requests[section], ".".join(parts)


def hashable(value: Json) -> int | float | str:
    """Return a hashable form of a value of one field."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return canonical_json(value)


def names_of_requests(node: Node | None) -> dict[str, list[int]]:
    """Return the positions of the requests that a name may mean: ids, and names of metrics that are
    no ids.
    """
    ids: dict[str, list[int]] = {}
    names: dict[str, list[int]] = {}
    for index, item in enumerate((node.items if node is not None else None) or []):
        name, args = item.value, None
        if item.mapping is not None and len(item.mapping) == 1:
            name, args = next(iter(item.mapping.items()))
        if isinstance(name, str):
            names.setdefault(name, []).append(index)
        own = ((args.mapping if args is not None else None) or {}).get("id")
        if own is not None and isinstance(own.value, str):
            ids.setdefault(own.value, []).append(index)
    return {**names, **ids}


def arguments_that_vary(
    paths: Iterable[str], names: Mapping[str, Sequence[int]]
) -> dict[int, tuple[str, ...]]:
    """Return the arguments of each request, by its position, that one of the paths gives."""
    found: dict[int, dict[str, None]] = {}
    for path in paths:
        section, parts = split_path(path)
        for index in names.get(section.removeprefix(f"{METRICS}."), ()) if parts else ():
            if section.startswith(f"{METRICS}."):
                found.setdefault(index, {})[parts[0]] = None
    return {index: tuple(args) for index, args in found.items()}


def with_requests(
    template: TrialTemplate, drafts: Sequence[Draft], names: Mapping[str, Sequence[int]]
) -> TrialTemplate:
    """Return a template with a section for every name of one request. Across cells there is no cell
    whose value a request could have.
    """
    read = {draft.index: (place, draft) for place, draft in enumerate(drafts)}
    unnamed: dict[str, str] = {}
    named: dict[str, tuple[int, Draft]] = {}
    for name, indices in names.items():
        section = f"{METRICS}.{name}"
        if len(indices) > 1:
            unnamed[section] = f"is asked for {counted(len(indices), 'time')}; name one by its id"
        elif indices[0] not in read:
            unnamed[section] = "has a mistake of its own"
        elif _is_across(read[indices[0]][1], drafts):
            unnamed[section] = (
                "is measured across cells, so no cell of an axis has it; ask for it once for each"
                " value instead, each time with an id of its own"
            )
        else:
            named[section] = read[indices[0]]
    options = {section: {"": _option(draft)} for section, (_, draft) in named.items()}
    return replace(
        template,
        choices={**template.choices, **options},
        nodes={**template.nodes, **{s: draft.written_args for s, (_, draft) in named.items()}},
        requests={section: place for section, (place, _) in named.items()},
        unnamed=unnamed,
    )


def _together(draft: Draft) -> dict[str, Json]:
    """Return the fields of `Together` that a request can have, with their values. (A metric may
    have arguments of that name.)
    """
    request, able = draft.request, {"modes", "runs"}
    if request.over != "cell" or {"of", "networks"} & draft.keys.keys():
        able = {"runs"} if request.joins else set()
    elif request.runs is not None:
        able = {"runs"}
    elif request.modes is not None or "modes" in request.varied:
        able = {"modes"}
    able -= fields_of(draft.metric.args).keys()
    return {name: getattr(request, name) for name in ("modes", "runs") if name in able}


def _option(draft: Draft) -> Option:
    chosen, fields = _together(draft), fields_of(Together)
    more = {name: fields[name] for name in chosen}
    return Option("", None, draft.metric.args, {**draft.args(), **chosen}, more)


def _is_across(draft: Draft, drafts: Sequence[Draft]) -> bool:
    """Say whether a request is measured across cells, or reads one that is."""
    of: Draft | None = draft
    for _ in drafts:  # requests may read each other in a circle
        if of is None or of.request.over == "across":
            break
        of = None if of.request.of is None else drafts[of.request.of]
    return of is not None and of.request.over == "across"


def refuse_two_names(
    given: Mapping[str, Node], template: TrialTemplate, diagnostics: Diagnostics
) -> None:
    """Note two paths to one argument by two names of its request. `given` are the paths on axes and
    in ``couple``, and where they stand.
    """
    known: list[tuple[int, str, str]] = []
    for path, node in given.items():
        section, parts = split_path(path)
        if section not in template.requests:
            continue
        index, below = template.requests[section], ".".join(parts)
        for other, other_below, other_path in known:
            if index == other and overlap(below, other_below) and not overlap(path, other_path):
                message = f"found {path!r}, which {other_path!r} gives too: one request, two names"
                diagnostics.add(node, path, message)
        known.append((index, below, path))


def varied_draft(draft: Draft, values: Values, diagnostics: Diagnostics) -> Draft:
    """Return a request with the values that its arguments, and the fields of `Together`, have in
    some cells; note what its metric refuses.
    """
    args, able = draft.args(), _together(draft)
    for path, (value, _) in values.items():
        args = args if path in able else put(args, path.split("."), value)
    metric, request = draft.metric, draft.request
    part = make_part(request.name, metric.version, metric.args, args)
    given = {path.partition(".")[0]: place for path, (_, place) in values.items()}
    chosen: dict[str, Any] = {name: values[name][0] for name in able if name in values}
    request = replace(request, part=part, **chosen)
    if request.runs is not None:
        request = replace(request, asked={**request.asked, "runs": request.runs})
    found = replace(draft, request=request, given=given)
    for name, message in mistakes_of(metric.rules, args):
        diagnostics.add(found.written(name), f"{draft.path}.{name}".rstrip("."), message)
    return found


def touches(draft: Draft, place: int, varied: Collection[int]) -> bool:
    """Say whether a request at a place of the list varies, or reads one that does."""
    return place in varied or draft.request.of in varied
