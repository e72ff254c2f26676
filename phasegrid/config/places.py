"""Read the places along trainings at which a request measures networks, and check that the
trainings leave weights there.

    at: [0, 5, update-300, averaged, lowest_rate]
    at: swag                                   networks drawn from the moments of a collector

``lowest_rate`` stands for every checkpoint that ``checkpoints: {at: lowest_rate}`` leaves,
``checkpoints`` for all that a training leaves. Which these are follows from its schedule, its
epochs and its updates per epoch, so it is known before training; it may differ between cells.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.stages import most_of
from phasegrid.config.types import FIRST_STAGE, GridPoint
from phasegrid.config.yaml import Node, plain_text
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import AVERAGED, MOMENTS, WEIGHTS
from phasegrid.texts import counted, suggest
from phasegrid.train.collectors import COLLECTORS
from phasegrid.train.moments import all_moments, lowest_moments, updates_per_epoch

LOWEST, EVERY, SWAG = "lowest_rate", "checkpoints", "swag"
ALLOWED_AT = (
    f"epochs from 0, updates, as update-300, {AVERAGED}, {LOWEST} and {EVERY}, one or a list; or"
    f" {SWAG}"
)
_UPDATE = re.compile("update-(0|[1-9][0-9]*)")


class Training(NamedTuple):
    """A training of a cell: the section of the sweep that says how, its recipe, and its data."""

    section: str
    recipe: Mapping[str, Any]
    facts: DatasetFacts | None


def training_of(point: GridPoint, stage: str | None, stages: Sequence[str]) -> Training:
    """Return a training of a cell by its name among `stages`, all of them (None: the last)."""
    place = len(stages) - 1 if stage is None else stages.index(stage)
    section = FIRST_STAGE if place == 0 else f"stages.{stages[place]}"
    return Training(section, (point.recipe, *point.stage_recipes)[place], point.facts)


def read_stage(
    node: Node | None, stages: Sequence[str], path: str, diagnostics: Diagnostics
) -> str | None:
    """Return the training that a ``stage`` names among `stages`; None if it is the only one, or
    there is no ``stage``.
    """
    if node is None:
        return None
    name = node.value
    if isinstance(name, str) and name in stages:
        return name if len(stages) > 1 else None
    found = plain_text(node.plain())
    hint = suggest(name, stages) if isinstance(name, str) else ""
    diagnostics.add(node, path, f"found {found}; allowed: {', '.join(stages)}{hint}")
    return None


def read_places(node: Node | None, path: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    """Return the places that an ``at`` lists: ``epoch-5`` for an epoch, ``update-300``,
    ``averaged``, ``lowest_rate``, ``checkpoints``; or ``swag`` alone.
    """
    if node is None:
        return ()
    places: list[str] = []
    for item in [node] if node.items is None else node.items:
        place = as_place(item.value)
        if place is None:
            message = f"found {plain_text(item.plain())}; allowed: {ALLOWED_AT}"
            diagnostics.add(item, path, message)
        elif place in places:
            diagnostics.add(item, path, f"found {item.value} twice; each once")
        else:
            places.append(place)
    if SWAG in places and len(places) > 1:
        diagnostics.add(node, path, f"found {SWAG} beside other places; allowed: {SWAG} alone")
    if node.items == []:
        diagnostics.add(node, path, f"found an empty list; allowed: {ALLOWED_AT}")
    return tuple(places)


def as_place(value: object) -> str | None:
    """Return a place along a training; None if the value is none."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return f"epoch-{value}"
    named = (AVERAGED, LOWEST, EVERY, SWAG)
    if isinstance(value, str) and (value in named or _UPDATE.fullmatch(value)):
        return value
    return None


def artifact_at(place: str) -> str:
    """Return the name of the artifact that holds what a training leaves at a place."""
    return {AVERAGED: AVERAGED, SWAG: MOMENTS}.get(place, f"{WEIGHTS}@{place}")


def in_words(places: Iterable[str]) -> str:
    """Return places as a name has them: ``0+5+lowest_rate``."""
    return "+".join(place.removeprefix("epoch-") for place in places)


def places_in(places: Iterable[str], training: Training) -> tuple[str, ...]:
    """Return the places of one training: in place of ``lowest_rate`` and ``checkpoints`` those of
    their moments that have no place yet.
    """
    listed = [place for place in places if place not in _MOMENTS]
    found, seen = dict[str, None](), {moment_in(place, training) for place in listed}
    for place in places:
        for one in [place] if place in listed else _foreseen(place, training):
            if place in listed or moment_in(one, training) not in seen:
                found[one] = None
                seen.add(moment_in(one, training))
    return tuple(found)


def moment_in(place: str | None, training: Training) -> int | str | None:
    """Return after how many updates a training leaves the weights of a place (None: those that the
    trial is known by); if that is not known before, the place.
    """
    recipe, facts = training.recipe, training.facts
    total = most_of("update", recipe, facts)
    if place is None:
        whole = recipe["stop"] is None and recipe["keep"] == "last"
        return total if whole else None
    unit, _, number = place.partition("-")
    if unit == "update":
        return int(number)
    per_epoch = None if facts is None else updates_per_epoch(recipe, facts)
    if unit != "epoch" or total is None or per_epoch is None:
        return place
    return min(int(number) * per_epoch, total)


_MOMENTS = {LOWEST: lowest_moments, EVERY: all_moments}


def _foreseen(place: str, training: Training) -> tuple[str, ...]:
    facts = training.facts
    per_epoch = None if facts is None else updates_per_epoch(training.recipe, facts)
    return () if per_epoch is None else _MOMENTS[place](training.recipe, per_epoch)


def place_mistake(place: str | None, trainings: Iterable[Training]) -> str | None:
    """Say why trainings leave no weights at a place along them; None if all leave some."""
    if place is None:
        return None  # reported already
    different = {(id(one.recipe), id(one.facts)): one for one in trainings}
    return next((why for one in different.values() if (why := _why_not(place, one))), None)


def _why_not(place: str, training: Training) -> str | None:
    unit, _, number = place.partition("-")
    if unit in (AVERAGED, SWAG):
        return _why_not_collected(unit, training)
    if place in _MOMENTS:
        return _why_not_foreseen(place, training)
    return _why_no_checkpoint(unit, int(number), training)


def _why_not_collected(place: str, training: Training) -> str | None:
    """Say why the collector of a training does not leave what a place needs; None if it does."""
    section, collect = training.section, training.recipe["collect"]
    if place == AVERAGED:
        missing = f"no collector averages the weights of {section}; add {section}.collect: "
        return None if collect else missing + "{name: swa}"
    if collect is None or COLLECTORS[collect["name"]].moments is None:
        missing = f"no collector takes moments of the weights of {section}; add {section}.collect: "
        return missing + "{name: swag, from_epoch: ...}"
    if collect["rank"] < 2:
        return f"{section}.collect.rank is {collect['rank']}; a covariance needs at least 2"
    return None


def _why_not_foreseen(place: str, training: Training) -> str | None:
    """Say why the checkpoints of a training for which `place` stands are not known; None if they
    are.
    """
    section, recipe, facts = training
    wish = _wish(recipe)
    if place == LOWEST and not wish.get("at"):
        add = f"add {section}.checkpoints: {{at: {LOWEST}}}"
        return f"{section} publishes no checkpoints where its rate is lowest; {add}"
    if not wish and not recipe["keep_every"]:
        return (
            f"the trials publish no checkpoints; add {section}.checkpoints: {{every_epochs: ...}}"
        )
    unknown = f"so which checkpoints {section} leaves is not known before; write update-300, ..."
    if facts is None:
        return f"the data set counts its examples only when it is loaded, {unknown}"
    per_epoch = updates_per_epoch(recipe, facts)
    if per_epoch is None:
        return f"batches filled with tokens are not alike in number in every epoch, {unknown}"
    with_norm = updates_per_epoch(recipe, facts, batch_norm=True) or per_epoch
    if _MOMENTS[place](recipe, with_norm) != _MOMENTS[place](recipe, per_epoch):
        return (
            "the last batch of an epoch has one example, which a network with BatchNorm adds to the"
            f" batch before, {unknown}, or drop_last: true"
        )
    return None


def _why_no_checkpoint(unit: str, number: int, training: Training) -> str | None:
    """Say why a training keeps no checkpoint after so many epochs or updates; None if it does."""
    section, recipe, facts = training
    wish = _wish(recipe)
    steps = [n for n in (wish.get(f"every_{unit}s"), unit == "epoch" and recipe["keep_every"]) if n]
    listed = {*wish.get(f"{unit}s", ())}
    lowest = unit == "update" and wish.get("at")
    if lowest:
        listed |= {int(place.partition("-")[2]) for place in _foreseen(LOWEST, training)}
    if not steps and not listed and not lowest:
        what = "checkpoints" if unit == "epoch" else "checkpoints by updates"
        return f"the trials publish no {what}; add {section}.checkpoints: {{every_{unit}s: ...}}"
    end = most_of(unit, recipe, facts)
    if end is not None and number > end:
        reached = f"a training has {counted(end, unit)}; allowed: at most that"
        return f"{unit} {number} of {section} is never reached: {reached}"
    unforeseen = lowest and _why_not_foreseen(LOWEST, training)
    if unforeseen or number in listed or any(number % step == 0 for step in steps):
        return None
    kept = sorted({*listed, *(n for step in steps for n in range(0, 3 * step, step))})
    shown = ", ".join(map(str, kept[:_MOST_SHOWN]))
    more = ", ..." if steps or len(kept) > _MOST_SHOWN else ""
    return f"{section} publishes no checkpoint after {unit} {number}; it publishes {shown}{more}"


_MOST_SHOWN = 12


def _wish(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    return recipe["checkpoints"] or {}
