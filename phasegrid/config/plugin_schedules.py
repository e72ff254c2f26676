"""Resolve a user's schedule in a recipe: its arguments are checked like those of a model."""

from collections.abc import Mapping
from typing import Any

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.references import References
from phasegrid.config.validate import constant, resolve_args
from phasegrid.config.yaml import Place
from phasegrid.errors import SweepError
from phasegrid.keys import Json
from phasegrid.registry import identity
from phasegrid.train.schedules import SCHEDULES

ARGS = "train.schedule.args"


def has_built_in(recipe: Mapping[str, Any]) -> bool:
    """Say whether a recipe's schedule needs no resolving."""
    schedule = recipe["schedule"]
    return schedule["name"] in SCHEDULES and not schedule["args"]


def with_own_arguments(
    recipe: Mapping[str, Json], references: References, diagnostics: Diagnostics
) -> Mapping[str, Json]:
    """Return a recipe whose schedule, if it is a plug-in, has its identity, version and resolved
    arguments.

    Mistakes have a path but no place in a file.
    """
    schedule = recipe["schedule"]
    assert isinstance(schedule, Mapping)
    name, args, nowhere = str(schedule["name"]), schedule["args"], Place("", 0, 0)
    if name in SCHEDULES:
        message = f"found arguments, which are for a schedule of your own; {name} has none here"
        diagnostics.add(nowhere, ARGS, message)
        return recipe
    try:
        declared = references.schedule(name)
    except SweepError as error:
        diagnostics.add(nowhere, "train.schedule.name", str(error))
        return recipe
    resolved = resolve_args(declared.args, constant(args, nowhere), ARGS, diagnostics)
    own: dict[str, Json] = {"name": identity(name), "args": resolved, "version": declared.version}
    return {**recipe, "schedule": {**schedule, **own}}
