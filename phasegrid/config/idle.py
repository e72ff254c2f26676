"""Find settings of trainings that can never act: moments that no training reaches, and fields that
what was chosen beside them does not read.

A setting is a mistake if it acts in no cell of the sweep. So an epoch that only longer trainings
reach is none, nor is a cycle length on an axis beside schedules with and without cycles.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phasegrid.config.axes import Scale, overlap
from phasegrid.config.cell_mistakes import of_section
from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.stages import most_of
from phasegrid.config.template import TrialTemplate, place_of
from phasegrid.config.ties import Tied
from phasegrid.config.types import FIRST_STAGE, GridPoint
from phasegrid.config.validate import default_args
from phasegrid.config.yaml import Place
from phasegrid.declare import DatasetFacts
from phasegrid.texts import counted
from phasegrid.train.recipe import Checkpoints, Schedule
from phasegrid.train.schedules import SCHEDULES

_OF_OPTIMIZER: Mapping[str, tuple[str, ...]] = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "betas": ("adam", "adamw"),
    "adam_eps": ("adam", "adamw"),
    "rmsprop": ("rmsprop",),
}
"""The fields of a recipe that only some optimizers read."""

_RATE_FALLS = "train.schedule.at_epochs"
_MOMENTS: Mapping[str, tuple[str, ...]] = {
    "epoch": (
        "train.keep_every",
        "train.checkpoints.epochs",
        "train.checkpoints.every_epochs",
        "train.collect.from_epoch",
        "train.collect.every_epochs",
        _RATE_FALLS,
    ),
    "update": (
        "train.checkpoints.updates",
        "train.checkpoints.every_updates",
        "train.collect.every_updates",
    ),
}
"""The fields that name moments of a training, by unit."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A setting that does not act in a training: the `path` of its field, as one of ``train``, and
    the value `subject` that does not, which tells several of one field apart.
    """

    path: str
    subject: str = ""


def check_idle(
    points: Sequence[GridPoint],
    scales: Sequence[Scale],
    tied: Tied,
    template: TrialTemplate,
    diagnostics: Diagnostics,
) -> None:
    """Note the settings that act in no cell."""
    if not points or diagnostics.is_broken("train", "stages", "load", "temperature", "facets"):
        return
    varied = [*(scale.axis.path for scale in scales), *tied]
    for place, section in enumerate((FIRST_STAGE, *(s.section for s in template.stages))):
        own = None if place == 0 else template.stages[place - 1].own
        written = {of_train(path, section) for path in varied if path.startswith(f"{section}.")}
        found: dict[Idle, str] | None = None
        for point in points:
            recipe = (point.recipe, *point.stage_recipes)[place]
            idle = dict(_idle_in(recipe, point.facts, written))
            found = idle if found is None else {k: why for k, why in found.items() if k in idle}
            if not found:
                break
        for setting, message in (found or {}).items():
            field = setting.path.split(".")[1]
            if own is None or field in own or _is_varied(setting.path, written):
                path = of_section(setting.path, section)
                diagnostics.add(_place(path, scales, tied, template), path, message)


def of_train(path: str, section: str) -> str:
    """Return the path of the same field in the recipe of the first training."""
    return FIRST_STAGE + path[len(section) :]


def _place(path: str, scales: Sequence[Scale], tied: Tied, template: TrialTemplate) -> Place:
    for scale in scales:
        if overlap(path, scale.axis.path):
            return scale.nodes[0].place
    return tied[path][1].place if path in tied else place_of(template, path)


def _idle_in(
    recipe: Mapping[str, Any], facts: DatasetFacts | None, varied: Collection[str]
) -> Iterator[tuple[Idle, str]]:
    """Yield the settings of a recipe that do not act, each with the message."""
    yield from _of_schedule(recipe["schedule"], varied)
    yield from _of_cycle(recipe, facts)
    for name, optimizers in _OF_OPTIMIZER.items():
        path = f"train.{name}"
        if recipe["optimizer"] not in optimizers and _is_varied(path, varied):
            wanted = " or ".join(optimizers)
            message = (
                f"found with optimizer {recipe['optimizer']}, which ignores it; it is {wanted}'s"
            )
            yield Idle(path), message
    sam = recipe["sam"]
    if sam is not None and sam["rho"] == 0 and not _is_varied("train.sam.rho", varied):
        message = "found 0, which changes nothing at twice the cost; allowed: more, or sam: null"
        yield Idle("train.sam.rho"), message
    yield from _never_reached(recipe, facts)
    for block in ("checkpoints", "collect"):
        if recipe[block] is not None:
            yield from _without_minimum(block, recipe)
    yield from _never_collected(recipe, facts)
    if recipe["checkpoints"] == default_args(Checkpoints):
        message = "found nothing to publish; allowed: epochs, updates, every_epochs, ..., or null"
        yield Idle("train.checkpoints"), message


def _of_schedule(
    schedule: Mapping[str, Any], varied: Collection[str]
) -> Iterator[tuple[Idle, str]]:
    """Yield the fields of a schedule that it does not read."""
    name, usual = schedule["name"], default_args(Schedule)
    own = SCHEDULES[name].reads if name in SCHEDULES else ()
    reads = ("name", "args", "warmup_updates", *own)
    for field, value in schedule.items():
        path = f"train.schedule.{field}"
        given = field in usual and value != usual[field]
        is_varied = path in varied and name in SCHEDULES  # else it is an argument of the user's
        if field in usual and field not in reads and (given or is_varied):
            readers = [each for each, kind in SCHEDULES.items() if field in kind.reads]
            message = (
                f"found with schedule {name}, which ignores it; it is for {', '.join(readers)}"
            )
            yield Idle(path), message


def _of_cycle(recipe: Mapping[str, Any], facts: DatasetFacts | None) -> Iterator[tuple[Idle, str]]:
    """Yield the length of a cycle that has no low: one longer than the training, or of one update.
    The cycles of ``cyclic`` have even numbers of updates where a sweep says the number: at half of
    them the rate is at its lowest.
    """
    schedule = recipe["schedule"]
    name, updates = schedule["name"], most_of("update", recipe, facts)
    if name not in SCHEDULES or "cycles" not in SCHEDULES[name].reads:
        return
    left = None if updates is None else updates - schedule["warmup_updates"]
    limits = ("cycle_epochs", most_of("epoch", recipe, facts)), ("cycle_updates", left)
    for field, most in limits:
        found = schedule[field]
        if found is not None and most is not None and found > most:
            reached = counted(most, field.partition("_")[2].removesuffix("s"))
            message = f"found {found}, but a training has {reached}; allowed: at most that"
            yield Idle(f"train.schedule.{field}", str(found)), message
    num, length = schedule["cycles"], schedule["cycle_updates"]
    if num is not None and left is not None and 2 * num > left:
        message = (
            f"found {num}, but a training has {counted(left, 'update')}; allowed: half of that"
        )
        yield Idle("train.schedule.cycles", str(num)), message
    if length is not None and (length < 2 or (name == "cyclic" and length % 2)):
        allowed = "an even number of updates" if name == "cyclic" else "2 updates or more"
        message = f"found {length}; allowed for {name}: {allowed}"
        yield Idle("train.schedule.cycle_updates", str(length)), message


def _never_reached(
    recipe: Mapping[str, Any], facts: DatasetFacts | None
) -> Iterator[tuple[Idle, str]]:
    """Yield the epochs and updates that come after the end of a training; one that may stop early
    ends where it ends at the latest.
    """
    for path, unit, number, found in _moments(recipe):
        most = most_of(unit, recipe, facts)
        from_0 = path == _RATE_FALLS
        if most is not None and number > most - from_0:
            allowed = f", counted from 0; allowed: at most {most - 1}" if from_0 else ""
            message = f"found {found}, but a training has {counted(most, unit)}"
            yield Idle(path, found), message + (allowed or "; allowed: at most that")


def _moments(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str, int, str]]:
    """Yield the moments that a recipe names: their path, unit, number and text."""
    for unit, paths in _MOMENTS.items():
        for path in paths:
            numbers = _numbers(recipe, path)
            yield from ((path, unit, number, str(number)) for number in numbers)
    for moment in (recipe["checkpoints"] or {}).get("optimizer", ()):
        unit, _, number = moment.partition("-")
        if number:
            yield "train.checkpoints.optimizer", unit, int(number), moment


def _numbers(recipe: Mapping[str, Any], path: str) -> list[int]:
    """Return the numbers that a field of a recipe lists, or its only one; none if it is null."""
    block, _, field = path.removeprefix("train.").rpartition(".")
    value = (recipe[block] or {}).get(field) if block else recipe[field]
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [number for number in listed if number is not None]


def _never_collected(
    recipe: Mapping[str, Any], facts: DatasetFacts | None
) -> Iterator[tuple[Idle, str]]:
    """Yield an interval of a collector that has no end between its first epoch and the last."""
    wish, most = recipe["collect"], most_of("epoch", recipe, facts)
    if wish is None or wish["every_epochs"] is None or most is None:
        return
    first, every = wish["from_epoch"], wish["every_epochs"]
    last = most - most % every
    if last < first <= most:
        message = (
            f"found {first} with every_epochs {every}, but a training has"
            f" {counted(most, 'epoch')}; allowed: at most {last}"
        )
        yield Idle("train.collect.from_epoch", "collected"), message


def _without_minimum(block: str, recipe: Mapping[str, Any]) -> Iterator[tuple[Idle, str]]:
    """Yield ``at: lowest_rate`` beside a rate that never changes."""
    schedule = recipe["schedule"]
    if recipe[block]["at"] is None or schedule["name"] != "constant":
        return
    message = "found lowest_rate, but the rate is constant; write a schedule, or epochs or updates"
    yield Idle(f"train.{block}.at"), message


def _is_varied(path: str, varied: Collection[str]) -> bool:
    return any(overlap(path, other) for other in varied)
