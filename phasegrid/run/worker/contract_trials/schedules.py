"""Try a schedule: ask it for its factor at the updates of a training."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from phasegrid.declare import DatasetFacts
from phasegrid.registry import resolve_schedule
from phasegrid.run.worker.contract_trials.trying import FaultError, start_of, told
from phasegrid.tasks.batches import epoch_bounds
from phasegrid.train.compat import num_from_aside
from phasegrid.train.recipe import Recipe
from phasegrid.train.schedules import Factor, Moment, factor_of

_MOST = 2_000
"""The most updates that are asked for: of a longer training evenly spread ones, with both ends."""


def check_schedule(recipe: Mapping[str, Any], facts: DatasetFacts) -> None:
    """Raise `FaultError` if the schedule of a recipe breaks its contract in a training on a data
    set.
    """
    resolved = TypeAdapter(Recipe).validate_python(dict(recipe))
    place = start_of(resolve_schedule(resolved.schedule.name).factor)
    factor, moments = factor_of(resolved.schedule), _moments(recipe, facts)
    factors = [_asked(factor, moment, place) for moment in moments]
    for moment, value in zip(moments, factors, strict=True):
        if not (math.isfinite(value) and value >= 0):
            what = f"its factor is {value:g} {_when(moment)}; allowed: a finite number from 0"
            raise FaultError(what, place)
    if not any(factors):
        what = "its factor is 0 at every update, so nothing is trained; allowed: above 0 somewhere"
        raise FaultError(what, place)
    for moment, value in zip(reversed(moments), reversed(factors), strict=True):
        again = _asked(factor, moment, place)
        if again != value:
            what = (
                f"its factor {_when(moment)} is {value:g} when first asked and {again:g} when asked"
                " again; allowed: one factor for a moment, as trainings that go on ask anew"
            )
            raise FaultError(what, place)


def _moments(recipe: Mapping[str, Any], facts: DatasetFacts) -> list[Moment]:
    """Return the moments of updates of a training. As in training, an epoch whose batches vary in
    number has 0.
    """
    per_epoch = 0
    if recipe["batch_unit"] == "examples":
        num = facts.num_train + num_from_aside(recipe, facts.num_train, facts.num_aside)
        per_epoch = len(epoch_bounds(num, recipe["batch_size"], recipe["drop_last"], False))
    total = recipe["updates"] or max(1, recipe["epochs"] * per_epoch)
    num = min(total, _MOST)
    updates = [i * (total - 1) // max(num - 1, 1) for i in range(num)]
    return [Moment(u, total, u // per_epoch if per_epoch else 0, per_epoch) for u in updates]


def _asked(factor: Factor, moment: Moment, place: str) -> float:
    try:
        return factor(moment)
    except Exception as error:  # whatever the user's code raises
        raise told(f"its factor fails {_when(moment)}", error, place) from error


def _when(moment: Moment) -> str:
    return f"at update {moment.update} of {moment.total} (counted from 0, epoch {moment.epoch})"
