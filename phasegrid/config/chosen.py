"""Choose the networks of every request, after the cells are built: check the places along
trainings, choose trials across cells, find named networks, and count. Where arguments vary from
cell to cell, there are the requests of every cell, with the values that these have there.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from phasegrid.config.across import choose_across, models_mistake
from phasegrid.config.cell_mistakes import in_cell
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.inputs import Draft, check_what_is_read
from phasegrid.config.joining import check_joined
from phasegrid.config.networks import Grid, networks_in_words, read_networks, too_many
from phasegrid.config.places import (
    as_place,
    in_words,
    moment_in,
    place_mistake,
    places_in,
    training_of,
)
from phasegrid.config.requests import check_data_of_metrics
from phasegrid.config.rules import fewer, networks_mistake
from phasegrid.config.through import with_through
from phasegrid.config.types import FIRST_STAGE, GridPoint, MetricRequest, Network, Stage
from phasegrid.config.varying import Variation, touches, varied_draft
from phasegrid.config.yaml import Place
from phasegrid.declare import Metric
from phasegrid.keys import Json
from phasegrid.texts import counted

_ALONE = {"trial": 1, "pair": 2}
"""The networks of a job that is over a trial or a pair."""


def choose_networks(
    drafts: Sequence[Draft],
    variations: Sequence[Variation],
    points: Sequence[GridPoint],
    seeds: Sequence[int],
    stages: Sequence[Stage],
    diagnostics: Diagnostics,
) -> tuple[tuple[MetricRequest, ...], ...]:
    """Return the requests with the networks that each measures, for each of the variations
    (`GridPoint.asks`), or once if nothing varies. Note what does not fit the data.
    """
    if not points:
        return (tuple(draft.request for draft in drafts),)
    grid = Grid(points, seeds, (FIRST_STAGE, *(stage.name for stage in stages)))
    chosen: list[Draft] = []
    for place, draft in enumerate(drafts):
        request = draft.request
        check_joined(draft, drafts, grid, diagnostics)
        if request.of is None and not diagnostics.is_broken(draft.path):
            request = _choose(draft, _reading(place, drafts), grid, diagnostics)
            request = replace(request, asked=_asked(request, seeds))
        chosen.append(replace(draft, request=request))
    check_data_of_metrics(chosen, points, diagnostics)
    asked = [chosen]
    if variations and not diagnostics.is_broken("metrics"):
        asked = [_varied(chosen, one, n, grid, diagnostics) for n, one in enumerate(variations)]
    return tuple(tuple(_with_first(one, points) for one in some) for some in asked)


def _choose(
    draft: Draft, readers: Sequence[Draft], grid: Grid, diagnostics: Diagnostics
) -> MetricRequest:
    """Return a request with the networks that it measures; note why it, or one of the `readers` of
    what it leaves, cannot have these.
    """
    choose = _named if "networks" in draft.keys else _of_trials
    return choose(draft, readers, grid, diagnostics)


def _reading(place: int, drafts: Sequence[Draft]) -> list[Draft]:
    """Return the requests that read what the one at a place of the list leaves."""
    return [draft for draft in drafts if draft.request.of == place]


def _with_first(draft: Draft, points: Sequence[GridPoint]) -> MetricRequest:
    """Return a request that reads what another metric leaves, if its metric is through one."""
    request = draft.request
    across = {cell for cell, _ in request.chosen} | {one.cell for one in request.networks}
    joined = [points[cell] for cell in across if cell is not None]
    return with_through(request, draft.metric, draft.args(), points, joined)


def _varied(
    drafts: Sequence[Draft],
    variation: Variation,
    number: int,
    grid: Grid,
    diagnostics: Diagnostics,
) -> list[Draft]:
    """Return the requests with the arguments that they have in some cells; note each mistake in
    them once, with the first cell that has it.
    """
    own = [point for point in grid.points if point.asks == number]
    if not own:
        return [*drafts]
    scratch, values = Diagnostics(), variation.values
    found = [
        varied_draft(draft, values[place], scratch) if place in values else draft
        for place, draft in enumerate(drafts)
    ]
    touched = [draft for place, draft in enumerate(found) if touches(draft, place, values)]
    for draft in touched:
        check_what_is_read(draft, found, scratch)
        check_joined(draft, found, replace(grid, points=own), scratch)
    for index, draft in enumerate(found):
        readers = _reading(index, found)
        if draft.request.of is None and any(one in touched for one in (draft, *readers)):
            _choose(draft, readers, replace(grid, points=own), scratch)
    for mistake in scratch.mistakes:
        place = Place(mistake.file, mistake.line, mistake.column)
        if not diagnostics.is_noted(place, mistake.path):
            diagnostics.add(place, mistake.path, mistake.message + in_cell(own[0]))
    check_data_of_metrics([one for one in touched if one.given], own, diagnostics)
    return found


def _of_trials(
    draft: Draft, readers: Sequence[Draft], grid: Grid, diagnostics: Diagnostics
) -> MetricRequest:
    """Choose the trials across cells, and check the places of networks along trainings."""
    request = draft.request
    if request.over == "across":
        where = draft.keys.get("where")
        chosen = choose_across(where, f"{draft.path}.where", grid.points, grid.seeds, diagnostics)
        request = replace(request, chosen=chosen)
        if chosen and draft.metric.one_model and (mistake := models_mistake(chosen, grid.points)):
            diagnostics.add(draft.node("where"), f"{draft.path}.where", mistake)
    points = [grid.points[cell] for cell in dict.fromkeys(cell for cell, _ in request.chosen)]
    trainings = [training_of(p, request.stage, grid.stages) for p in points or grid.points]
    if "at" in draft.keys:
        for item in draft.keys["at"].items or [draft.keys["at"]]:
            mistake = place_mistake(as_place(item.value), trainings)
            if mistake and not diagnostics.is_broken(f"{draft.path}.at"):
                diagnostics.add(item, f"{draft.path}.at", mistake)
    if not diagnostics.is_broken(draft.path):
        places = [len(places_in(request.at, one)) if request.at else 1 for one in trainings]
        num = _counted(draft, request, places, len(grid.seeds), diagnostics)
        if num is not None:
            _fit((draft, *readers), num, "", diagnostics)
    return request


def _counted(
    draft: Draft,
    request: MetricRequest,
    places: Sequence[int],
    num_seeds: int,
    diagnostics: Diagnostics,
) -> int | None:
    """Return how many networks a job has, in the cell where these are the fewest. Note a request
    that gives a job too few, and return None. `places` are the numbers of places along the
    trainings of each cell.
    """
    if request.over in _ALONE:
        return _ALONE[request.over]
    fewest, name = draft.metric.min_trials, request.name
    by_pairs, few = draft.metric.over == "pair", min(places)
    key = "where"
    if request.over == "trajectory":
        key, fewest = "at", max(fewest, 2 if by_pairs else 1)
        found = few if draft.metric.over != "trial" else fewest
        message = f"gives {counted(found, 'network')} of each training; {name} needs at least"
    elif request.over == "across":
        fewest = max(fewest, 2)
        found = len(request.chosen) * (1 if by_pairs else few)
        message = f"chooses {counted(found, 'trial')}; {name} needs at least"
        if by_pairs and len(set(places)) > 1:
            differ = "gives trials of some cells more networks than others; write networks"
            diagnostics.add(draft.node("at"), f"{draft.path}.at", differ)
    else:
        key = "runs" if request.runs else "modes" if request.modes else "at"
        chosen = request.runs or request.modes or num_seeds
        if chosen > num_seeds:
            path = f"{draft.path}.{key}"
            diagnostics.add(draft.written(key), path, too_many(chosen, num_seeds))
            return None
        found = chosen * few
        message = f"gives a job {counted(found, 'network')}; {name} needs at least"
    if found >= fewest:
        return _ALONE.get(draft.metric.over, found)
    less = f"{message} {fewest}{fewer(draft.metric, found)}"
    diagnostics.add(draft.given.get(key, draft.node(key).place), f"{draft.path}.{key}", less)
    return None


def _named(
    draft: Draft, readers: Sequence[Draft], grid: Grid, diagnostics: Diagnostics
) -> MetricRequest:
    """Find the networks that a request names, and check their number."""
    request, metric = draft.request, draft.metric
    node, path, across = draft.keys["networks"], f"{draft.path}.networks", request.over == "across"
    networks = read_networks(node, request.stage, across, path, grid, diagnostics)
    if diagnostics.is_broken(path):
        return request
    for point in grid.points:
        each = [_weights(one, point, grid) for one in networks]
        if mistake := _wrong_number(sum(map(len, each)), metric, request.name):
            diagnostics.add(node, path, mistake + in_cell(point) * (not across))
            break
        if (twice := _first_twice(each)) is not None:
            where = f"{path}.{twice}"
            message = "names the same network twice" + in_cell(point) * (not across)
            diagnostics.add((node.items or [node])[twice], where, message + "; each once")
            break
        here = in_cell(point) * (not across)
        if not _fit((draft, *readers), sum(map(len, each)), here, diagnostics):
            break
    chosen = [(one.cell, one.seed) for one in networks if one.cell is not None]
    if chosen and metric.one_model and (mistake := models_mistake(chosen, grid.points)):
        diagnostics.add(node, path, mistake)
    return replace(request, networks=networks)


def _fit(drafts: Sequence[Draft], num: int, here: str, diagnostics: Diagnostics) -> bool:
    """Say whether requests can measure so many networks together; note why not."""
    found = [
        (draft, unfit)
        for draft in drafts
        if not draft.is_open and (unfit := networks_mistake(draft.metric, draft.args(), num))
    ]
    for draft, (name, message) in found:
        path = f"{draft.path}.{name}".rstrip(".")
        diagnostics.add(draft.written(name), path, message + here)
    return not found


def _wrong_number(found: int, metric: Metric, name: str) -> str | None:
    """Say that a metric needs another number of networks; None if it does not."""
    exactly = _ALONE.get(metric.over)
    if found == exactly if exactly else found >= metric.min_trials:
        return None
    wanted = f"exactly {exactly}" if exactly else f"at least {metric.min_trials}"
    return f"names {counted(found, 'network')}; {name} needs {wanted}{fewer(metric, found)}"


def _weights(named: Network, point: GridPoint, grid: Grid) -> list[Hashable]:
    """Return the weights of one item in a cell, or in its own cell: the same weights are equal,
    whatever they are called.
    """
    own = point if named.cell is None else grid.points[named.cell]
    training = training_of(own, named.stage, grid.stages)
    places = places_in(named.at, training) if named.at else (None,)
    of = (named.cell, named.seed, training.section)
    return [(*of, moment_in(place, training)) for place in places]


def _first_twice(each: Sequence[Sequence[Hashable]]) -> int | None:
    """Return the first item with something that it or an item before has already."""
    seen = set[Hashable]()
    for index, these in enumerate(each):
        if len(seen | {*these}) < len(seen) + len(these):
            return index
        seen |= {*these}
    return None


def _asked(request: MetricRequest, seeds: Sequence[int]) -> dict[str, Json]:
    """Say in the words of the sweep which networks a job has, where its inputs do not."""
    if request.networks:
        return {"networks": networks_in_words(request.networks, seeds)}
    asked: dict[str, Json] = {}
    whole = request.declared_over == "cell" and request.over not in ("trial", "pair")
    if request.at and whole:
        asked["at"] = in_words(request.at)
    return {**asked, "runs": request.runs} if request.runs else asked
