"""Choose the trials of a sweep that a measurement across cells, or along trials, reads."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.objectives import flat_objective
from phasegrid.config.schedules import flat_schedule
from phasegrid.config.types import GridPoint
from phasegrid.config.yaml import Node, plain_text
from phasegrid.declare import later_defaults
from phasegrid.jobs import Part
from phasegrid.keys import Json, canonical_json
from phasegrid.models.counting import count_work
from phasegrid.registry import resolve_dataset, resolve_model
from phasegrid.texts import suggest

SEED = ("seed", "train.seed")
"""The names of the seed in ``where``: as a field of the trial, or as a field of its training."""

_MOST_SHOWN = 8


def choose_across(
    node: Node | None,
    path: str,
    points: Sequence[GridPoint],
    seeds: Sequence[int],
    diagnostics: Diagnostics,
) -> tuple[tuple[int, int], ...]:
    """Return the trials that ``where`` chooses, each as (cell, index of its seed). A trial is
    chosen if, for every field, it has one of the listed values. Without ``where``, all are chosen.
    One that cells share counts as of the first.
    """
    cells = _with_own_trials(points)
    places: Sequence[int] = range(len(seeds))
    if node is None:
        return tuple((cell, place) for cell in cells for place in places)
    if not node.mapping:
        found = plain_text(node.plain())
        message = f"found {found}; allowed: a mapping from fields to values: model.width: [8, 16]"
        diagnostics.add(node, path, message)
        return ()
    fields = {cell: _fields(points[cell]) for cell in cells}
    chosen = list(cells)
    for name, item in node.mapping.items():
        check = partial(_wanted, item, f"{path}.{name}", diagnostics=diagnostics)
        if name in SEED:
            wanted = check(list(seeds))
            places = [place for place in places if _text(seeds[place]) in wanted]
            continue
        known = dict.fromkeys(field for one in fields.values() for field in one)
        if name not in known:
            each_has = {one: {_text(has.get(one)) for has in fields.values()} for one in known}
            varied = [one for one, values in each_has.items() if len(values) > 1]
            allowed = (
                f"{', '.join(['seed', *varied])} (these vary), or another field of model, dataset"
                f" or train{suggest(name, [*known, *SEED])}"
            )
            diagnostics.add_key(item, f"{path}.{name}", f"unknown field; allowed: {allowed}")
            continue
        wanted = check([one[name] for one in fields.values() if name in one])
        chosen = [cell for cell in chosen if _text(fields[cell].get(name)) in wanted]
    if not (chosen and places) and not diagnostics.is_broken(path):
        diagnostics.add(node, path, "matches no trial: no cell has all of these values")
    return tuple((cell, place) for cell in chosen for place in places)


def _with_own_trials(points: Sequence[GridPoint]) -> list[int]:
    """Return the first cell of those that have the same trials."""
    firsts: dict[tuple[object, ...], int] = {}
    for cell, point in enumerate(points):
        parts = (point.dataset, point.model, point.recipe, *point.stage_recipes)
        firsts.setdefault((*map(id, parts), *point.starts), cell)  # equal parts are one object
    return list(firsts.values())


def models_mistake(chosen: Sequence[tuple[int, int]], points: Sequence[GridPoint]) -> str | None:
    """Say that the chosen trials have networks with different numbers of parameters, which no
    metric can compare or join; None if not, or if a plug-in does not say.
    """
    sizes: dict[int, str] = {}
    for cell in sorted({cell for cell, _ in chosen}):
        point = points[cell]
        counts = None if point.facts is None else count_work(point.model, point.facts)
        if counts is not None:
            num = counts.num_parameters
            sizes.setdefault(num, f"{num:,} ({_described(point.model)})")
    if len(sizes) < 2:
        return None
    found = "; ".join(list(sizes.values())[:_MOST_SHOWN])
    return (
        f"chooses networks with different numbers of parameters: {found}. This metric compares or"
        " joins their weights; choose cells of one model"
    )


def _described(model: Part) -> str:
    args = ", ".join(f"{name} {plain_text(value)}" for name, value in model.args.items())
    return f"{model.name}: {args}" if args else model.name


def _wanted(node: Node, path: str, there: Sequence[Json], diagnostics: Diagnostics) -> set[str]:
    """Return the requested values as texts; note a mistake for a value that no trial has."""
    known = {_text(value): value for value in there}
    wanted: set[str] = set()
    if node.items == []:
        diagnostics.add(node, path, "found an empty list; allowed: at least one value")
    for item in node.items if node.items is not None else [node]:
        text = _text(item.plain())
        if text in wanted:
            diagnostics.add(item, path, f"found {plain_text(item.plain())} twice; each once")
        elif text not in known:
            shown = [plain_text(value) for value in list(known.values())[:_MOST_SHOWN]]
            more = ", ..." if len(known) > _MOST_SHOWN else ""
            message = f"no trial has {plain_text(item.plain())}; there are {', '.join(shown)}{more}"
            diagnostics.add(item, path, message)
        wanted.add(text)
    return wanted


def _text(value: Json) -> str:
    """Return a text that equal values share; 8 and 8.0 are equal."""
    if isinstance(value, int) and not isinstance(value, bool):
        return canonical_json(float(value))
    return canonical_json(value)


def _fields(point: GridPoint) -> dict[str, Json]:
    """Return the fields of the trials of a cell by their dotted paths."""
    model, dataset = resolve_model(point.model.name), resolve_dataset(point.dataset.name)
    return {
        **_leaves(_of_part(point.model, model.args), "model."),
        **_leaves(_of_part(point.dataset, dataset.args), "dataset."),
        **_leaves(_flat(point.recipe), "train."),
    }


def _flat(recipe: Mapping[str, Any]) -> Mapping[str, Json]:
    """Return a recipe as a sweep writes it, with arguments beside the name that they belong to."""
    schedule, objective = flat_schedule(recipe["schedule"]), flat_objective(recipe["objective"])
    return {**recipe, "schedule": schedule, "objective": objective}


def _of_part(part: Part, args_type: type) -> dict[str, Json]:
    return {"name": part.name, **later_defaults(args_type), **part.args}


def _leaves(values: Mapping[str, Json], prefix: str) -> dict[str, Json]:
    leaves: dict[str, Json] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
