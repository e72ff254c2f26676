"""The schedule of a recipe: read as a name, or a name with its arguments beside it.

While a sweep is read, a built-in schedule has all fields of `Schedule`; a user's own is ``{name:
..., warmup_updates: ..., **its arguments}``, which may be called like fields of `Schedule`, so that
any argument can be an axis. In a cell the arguments of a user's own are in the field `args`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.references import References
from phasegrid.config.validate import (
    INVALID,
    Field,
    check_keys,
    default_args,
    fields_of,
    find_field,
    resolve_args,
    resolve_field,
    unknown_key,
)
from phasegrid.config.yaml import Node
from phasegrid.errors import SweepError
from phasegrid.keys import Json
from phasegrid.registry import identity
from phasegrid.train.recipe import Recipe, Schedule
from phasegrid.train.schedules import SCHEDULES

COMMON = ("name", "warmup_updates")
"""The fields that every schedule has."""


def schedule_field(references: References) -> Field:
    """Return the field ``train.schedule``."""

    def resolve(node: Node, path: str, diagnostics: Diagnostics) -> Json:
        return read_schedule(node, path, references, diagnostics)

    return replace(fields_of(Recipe)["schedule"], resolve=resolve)


def field_of_schedule(chosen: Json, parts: Sequence[str], references: References) -> Field | str:
    """Return the field that a path below ``train.schedule`` means for the schedule `chosen`; a text
    says why it leads nowhere.
    """
    assert isinstance(chosen, Mapping)
    name = str(chosen["name"])
    if name in SCHEDULES:
        return find_field(Schedule, parts) if parts[0] != "args" else unknown_key("args", _usual())
    if parts[0] == "name":
        return "the name of a schedule of your own varies as train.schedule"
    if parts[0] in COMMON:
        return find_field(Schedule, parts)
    try:
        return find_field(_own_args(name, references), parts)
    except SweepError as error:
        return str(error)


def read_schedule(node: Node, path: str, references: References, diagnostics: Diagnostics) -> Json:
    """Read a schedule: text, or a mapping with `name` and arguments. Arguments with a mistake have
    their defaults; `INVALID` if there is no such schedule.
    """
    given = {"name": node} if isinstance(node.value, str) else node.mapping
    if given is None:
        check_keys(node, tuple(_usual()), path, diagnostics)
        return INVALID
    name = given.get("name")
    if name is None or not isinstance(name.value, str) or name.value in SCHEDULES:
        return _read_built_in(replace(node, value=dict(given)), path, diagnostics)
    return _read_own(node, given, path, references, diagnostics)


def with_schedule(recipe: Mapping[str, Any], references: References) -> Mapping[str, Json]:
    """Return the recipe of a cell whose schedule, if it is a user's own, has its identity, version
    and arguments.

    Raises:
        SweepError: if its name, given by an axis, names no schedule.
    """
    schedule = recipe["schedule"]
    name = schedule["name"]
    if name in SCHEDULES:
        return recipe
    usual = default_args(Schedule)
    args = default_args(_own_args(name, references))
    if usual.keys() <= schedule.keys():  # an axis put the name in place of a built-in one
        usual = {**usual, **schedule}
    else:
        usual["warmup_updates"] = schedule["warmup_updates"]
        args = {key: value for key, value in schedule.items() if key not in COMMON}
    version = references.schedule(name).version
    own: dict[str, Json] = {"name": identity(name), "args": args, "version": version}
    return {**recipe, "schedule": {**usual, **own}}


def flat_schedule(schedule: Mapping[str, Any]) -> Mapping[str, Json]:
    """Return the fields of a resolved schedule as a sweep writes them."""
    if schedule["name"] in SCHEDULES:
        return {key: value for key, value in schedule.items() if key != "args"}
    return {**{key: schedule[key] for key in COMMON}, **schedule["args"]}


def _read_built_in(node: Node, path: str, diagnostics: Diagnostics) -> Json:
    entries = dict(node.mapping or {})
    args = entries.pop("args", None)
    if args is not None:
        diagnostics.add_key(args, f"{path}.args", unknown_key("args", _usual()))
    found = resolve_args(Schedule, replace(node, value=entries), path, diagnostics)
    return INVALID if diagnostics.is_broken(f"{path}.name") else found


def _read_own(
    node: Node,
    given: Mapping[str, Node],
    path: str,
    references: References,
    diagnostics: Diagnostics,
) -> Json:
    """Read a schedule of the user's: its own arguments, and the fields that every schedule has."""
    name = str(given["name"].value)
    try:
        owner = _own_args(name, references)
    except SweepError as error:
        diagnostics.add(given["name"], f"{path}.name", str(error))
        return INVALID
    found: dict[str, Json] = {"name": name, "warmup_updates": Schedule().warmup_updates}
    if "warmup_updates" in given:
        field, where = fields_of(Schedule)["warmup_updates"], f"{path}.warmup_updates"
        value = resolve_field(field, given["warmup_updates"], where, diagnostics)
        found |= {} if value is INVALID else {"warmup_updates": value}
    own = {key: entry for key, entry in given.items() if key not in COMMON}
    return {**found, **resolve_args(owner, replace(node, value=own), path, diagnostics)}


def _own_args(name: str, references: References) -> type:
    """Return the dataclass of the arguments of a user's schedule, or raise `SweepError`."""
    owner = references.schedule(name).args
    taken = [field for field in fields_of(owner) if field in COMMON]
    if taken:
        raise SweepError(
            f"schedule {name!r} declares the argument {taken[0]!r}, which every schedule has;"
            " rename it"
        )
    return owner


def _usual() -> list[str]:
    return [name for name in fields_of(Schedule) if name != "args"]
