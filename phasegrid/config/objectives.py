"""The objective of a recipe: read as a name, or a name with its arguments.

While a sweep is read it is ``{name: ..., **what is given}``, so that any argument can be an axis.
In a cell it is resolved: null for cross-entropy, whose label smoothing is a field of the recipe,
else name, version and all arguments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.references import References
from phasegrid.config.validate import (
    INVALID,
    Field,
    default_args,
    fields_of,
    find_field,
    resolve_field,
    unknown_key,
)
from phasegrid.config.yaml import Node, plain_text
from phasegrid.errors import SweepError
from phasegrid.keys import Json
from phasegrid.registry import identity
from phasegrid.train.recipe import CROSS_ENTROPY_NAME

PATH = "train.objective"
DEFAULT: Mapping[str, Json] = {"name": CROSS_ENTROPY_NAME}


def objective_field(references: References) -> Field:
    """Return the field ``train.objective``."""

    def resolve(node: Node, path: str, diagnostics: Diagnostics) -> Json:
        return read_objective(node, path, references, diagnostics)

    kinds: frozenset[type] = frozenset({str, dict, type(None)})
    return Field("objective", None, kinds, False, DEFAULT, None, resolve)


def field_of_objective(chosen: Json, parts: Sequence[str], references: References) -> Field | str:
    """Return the field that a path below ``train.objective`` means for the objective `chosen`; a
    text says why it leads nowhere.
    """
    assert isinstance(chosen, Mapping)
    if parts[0] == "name":
        return f"the name of an objective varies as {PATH}"
    try:
        return find_field(references.objective(str(chosen["name"])).args, parts)
    except SweepError as error:
        return str(error)


def read_objective(node: Node, path: str, references: References, diagnostics: Diagnostics) -> Json:
    """Read an objective: text, or a mapping with `name` and arguments; `INVALID`, and mistakes
    noted, if it is none.
    """
    if node.value is None:
        return DEFAULT
    given = dict(node.mapping or {})
    name = node if isinstance(node.value, str) else given.pop("name", None)
    if name is None or not isinstance(name.value, str):
        message = f"found {plain_text(node.plain())}; allowed: a name, or {{name: ..., arguments}}"
        diagnostics.add(node, path, message)
        return INVALID
    try:
        known = fields_of(references.objective(name.value).args)
    except SweepError as error:
        diagnostics.add(name, path, str(error))
        return INVALID
    found: dict[str, Json] = {"name": name.value}
    for key, entry in given.items():
        if key in known:
            found[key] = resolve_field(known[key], entry, f"{path}.{key}", diagnostics)
        else:
            diagnostics.add_key(entry, f"{path}.{key}", unknown_key(key, known))
    missing = [key for key, field in known.items() if field.required and key not in found]
    for key in missing:
        diagnostics.add(node, f"{path}.{key}", "found nothing; it is required")
    sound = not missing and given.keys() <= known.keys() and INVALID not in found.values()
    return found if sound else INVALID


def with_objective(recipe: Mapping[str, Json], references: References) -> Mapping[str, Json]:
    """Return the recipe of a cell with its objective resolved.

    Raises:
        SweepError: if it has an argument, by an axis, that this objective does not know.
    """
    chosen = recipe["objective"]
    if chosen is None:
        return recipe
    if chosen == DEFAULT:
        return {**recipe, "objective": None}
    assert isinstance(chosen, Mapping)
    name = str(chosen.get("name", CROSS_ENTROPY_NAME))
    given = {key: value for key, value in chosen.items() if key != "name"}
    declared = references.objective(name)
    for key in given:
        if key not in fields_of(declared.args):
            raise SweepError(unknown_key(key, fields_of(declared.args)) + f" for {name}")
    if name == CROSS_ENTROPY_NAME:
        return {**recipe, **given, "objective": None}
    args: dict[str, Json] = {**default_args(declared.args), **given}
    resolved: dict[str, Json] = {"name": identity(name), "args": args, "version": declared.version}
    return {**recipe, "objective": resolved}


def flat_objective(objective: Mapping[str, Any] | None) -> Mapping[str, Json]:
    """Return the name and the arguments of a resolved objective as a sweep writes them."""
    return DEFAULT if objective is None else {"name": objective["name"], **objective["args"]}
