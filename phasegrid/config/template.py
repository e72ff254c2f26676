"""Resolve the data sets, models and recipe of a sweep, before its axes vary them.

Usually there is one data set and one model. If ``model.name`` or ``dataset.name`` is an axis, there
is one *choice* for each of its values, and every path and value is checked in each choice.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from phasegrid.config.diagnostics import Diagnostics
from phasegrid.config.objectives import (
    DEFAULT,
    field_of_objective,
    objective_field,
    read_objective,
)
from phasegrid.config.references import References
from phasegrid.config.schedules import field_of_schedule, read_schedule, schedule_field
from phasegrid.config.types import Stage, StartPlace
from phasegrid.config.validate import (
    INVALID,
    Field,
    check_keys,
    default_args,
    fields_of,
    find_field,
    leaf_paths,
    resolve_args,
    resolve_field,
)
from phasegrid.config.yaml import Node, Place, plain_text
from phasegrid.declare import DatasetKind, Model
from phasegrid.errors import SweepError
from phasegrid.keys import Json
from phasegrid.texts import suggest
from phasegrid.train.recipe import Recipe

SECTIONS = ("dataset", "model", "train")
METRICS = "metrics"
"""The section of requests, each of which is a section of its own: ``metrics.NAME``."""
FROM = "from"
"""The key of a stage's arguments that holds its `StartPlace`."""
_CHOSEN = {
    "objective": (objective_field, field_of_objective),
    "schedule": (schedule_field, field_of_schedule),
}
"""The blocks of a recipe whose fields depend on their name: how to find their fields."""


@lru_cache(maxsize=1024)
def split_path(path: str) -> tuple[str, tuple[str, ...]]:
    """Return the section of a path and the rest of the path; each of ``stages`` is a section, and
    so is each of ``metrics``, whose name may be that of a plug-in.

    >>> split_path("train.schedule.name"), split_path("stages.tune.lr")
    (('train', ('schedule', 'name')), ('stages.tune', ('lr',)))
    >>> split_path("metrics.my_lab/sharp.py:SHARP.steps")
    ('metrics.my_lab/sharp.py:SHARP', ('steps',))
    """
    asked = _REQUEST.fullmatch(path)
    if asked is not None:
        return asked[1], tuple(asked[2].split(".")[1:])
    parts = path.split(".")
    size = 2 if parts[0] == "stages" else 1
    return ".".join(parts[:size]), tuple(parts[size:])


_REQUEST = re.compile(r"(metrics\.(?:[^:]*:)?[^.]+)((?:\.[^.]+)*)")


def put(args: Mapping[str, Json], parts: Sequence[str], value: Json) -> dict[str, Json]:
    """Return a copy of nested arguments with one value replaced."""
    changed: dict[str, Any] = dict(args)
    if len(parts) == 1:
        changed[parts[0]] = value
    else:
        changed[parts[0]] = put(changed[parts[0]] or {}, parts[1:], value)
    return changed


@dataclass(frozen=True, slots=True)
class Option:
    """One data set, model, recipe or request for a metric: its declaration (None for the last
    two), dataclass, resolved arguments, and the fields that it has beside those of the dataclass.
    """

    name: str
    declared: DatasetKind | Model | None
    owner: type
    args: Mapping[str, Json]
    more: Mapping[str, Field] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrialTemplate:
    """The choices of each section by name, and the node of each section. A section with an unknown
    name has no choice. Each of `stages` is a section too, ``stages.NAME``, and so are the
    `requests` for metrics, ``metrics.NAME``, each with its position in the list. `unnamed` says why
    a name is none of these.
    """

    choices: Mapping[str, Mapping[str, Option]]
    nodes: Mapping[str, Node]
    references: References
    stages: tuple[Stage, ...] = ()
    requests: Mapping[str, int] = field(default_factory=dict)
    unnamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections; trainings are in the order of their execution."""
        return (*SECTIONS, *(stage.section for stage in self.stages), *self.requests)

    @property
    def complete(self) -> bool:
        """Whether every section has a choice, so that cells can be built."""
        return all(self.choices[section] for section in self.sections)

    def fields(self, path: str) -> Mapping[str, Field] | str:
        """Return the field of a path in each choice of its section, or a text that says why there
        is none.
        """
        section, parts = split_path(path)
        if section.startswith(f"{METRICS}.") and (why := self._no_argument(section, parts)):
            return why
        if section not in self.sections or not parts:
            owners = "dataset, model or train"
            if self.stages:
                owners = f"dataset, model, train or {' or '.join(s.section for s in self.stages)}"
            return f"found {path!r}; allowed: a field of {owners}{suggest(path, self.paths())}"
        found: dict[str, Field] = {}
        for name, choice in self.choices[section].items():
            field = self._field(choice, parts)
            if isinstance(field, str):
                whose = f" of {section} {name!r}" if name else ""
                return f"{path!r} is no field{whose}: {field}"
            if len(parts) > 1 and _parent_is_null(choice.args, parts):
                return _is_null(choice, section, parts)
            found[name] = field
        return found

    def _no_argument(self, section: str, parts: Sequence[str]) -> str | None:
        """Say why a path names no argument of a request for a metric; None if it may name one."""
        name = section.partition(".")[2]
        if section in self.requests:
            choice = self.choices[section][""]
            known = ", ".join([*fields_of(choice.owner), *choice.more])
            return (
                None if parts else f"found {section!r}, a request; allowed: {section}.{{{known}}}"
            )
        if section in self.unnamed:
            return f"{name!r} {self.unnamed[section]}"
        names = [one.partition(".")[2] for one in self.requests]
        whole = ".".join([name, *parts, ""])
        dotted = next((one for one in names if "." in one and whole.startswith(f"{one}.")), None)
        if dotted:
            return f"the id {dotted!r} has a dot, which ends a name in a path; write it without one"
        allowed = (
            f"an id or the name of a request of metrics: {', '.join(names) or 'there is none'}"
        )
        return f"found {name!r}; allowed: {allowed}{suggest(name, names)}"

    def _field(self, choice: Option, parts: Sequence[str]) -> Field | str:
        if parts[0] == FROM and FROM in choice.args:
            return find_field(StartPlace, parts[1:])
        if choice.owner is not Recipe or parts[0] not in _CHOSEN:
            return find_field(choice.owner, parts, choice.more)
        whole, part_of = _CHOSEN[parts[0]]
        if len(parts) == 1:
            return whole(self.references)
        return part_of(choice.args[parts[0]], parts[1:], self.references)

    def resolve(self, path: str, node: Node, diagnostics: Diagnostics) -> dict[str, Json] | None:
        """Resolve a value for a path in each choice of its section; None if one choice forbids
        it.
        """
        fields = self.fields(path)
        assert not isinstance(fields, str)
        resolved = {
            name: resolve_field(field, node, path, diagnostics) for name, field in fields.items()
        }
        return None if any(value is INVALID for value in resolved.values()) else resolved

    def paths(self) -> list[str]:
        """Return every path that can be an axis."""
        paths = ["dataset.name", "model.name"]
        for section in self.sections:
            for choice in self.choices[section].values():
                paths += leaf_paths(choice.owner, section)
                paths += [f"{section}.{name}" for name in choice.more]
                if FROM in choice.args:
                    paths += leaf_paths(StartPlace, f"{section}.{FROM}")
        return list(dict.fromkeys(paths))


def read_space(
    entries: Mapping[str, Node],
    root: Node,
    names_on_axes: Mapping[str, Sequence[Node]],
    references: References,
    diagnostics: Diagnostics,
) -> TrialTemplate:
    """Resolve the sections ``dataset``, ``model`` and ``train``; `names_on_axes` are the values of
    axes that vary a name.
    """
    nodes = {section: entries.get(section, root) for section in SECTIONS}
    choices: dict[str, Mapping[str, Option]] = {}
    for section in ("dataset", "model"):
        names = names_on_axes.get(f"{section}.name")
        choices[section] = _read_part(
            section, entries.get(section), root, names, references, diagnostics
        )
    train = entries.get("train")
    args = _default_recipe()
    if train is not None:
        args = read_recipe(train, "train", references, diagnostics)
    choices["train"] = {"": Option("", None, Recipe, args)}
    return TrialTemplate(choices, nodes, references)


def _read_part(
    section: str,
    node: Node | None,
    root: Node,
    names: Sequence[Node] | None,
    references: References,
    diagnostics: Diagnostics,
) -> dict[str, Option]:
    if node is None and names is None:
        diagnostics.add(root, section, "found nothing; it is required, as in {name: ...}")
        return {}
    if node is None:
        node = Node({}, root.place)
    if node.mapping is None:
        found = plain_text(node.plain())
        message = f"found {found}; allowed: a mapping with name and arguments, as in {{name: ...}}"
        diagnostics.add(node, section, message)
        return {}
    rest = dict(node.mapping)
    own = rest.pop("name", None)
    if own is None and names is None:
        diagnostics.add(node, f"{section}.name", "found nothing; it is required")
        return {}
    chosen = names if names is not None else [own] if own is not None else []
    return _choices(section, replace(node, value=rest), chosen, references, diagnostics)


def _choices(
    section: str,
    node: Node,
    names: Sequence[Node],
    references: References,
    diagnostics: Diagnostics,
) -> dict[str, Option]:
    choices: dict[str, Option] = {}
    for item in names:
        name = item.value
        if not isinstance(name, str):
            message = f"found {plain_text(item.plain())}; allowed: the name of a {section}"
            diagnostics.add(item, f"{section}.name", message)
            continue
        try:
            declared = references.dataset(name) if section == "dataset" else references.model(name)
            fields_of(declared.args)
        except SweepError as error:
            diagnostics.add(item, f"{section}.name", str(error))
            continue
        scratch = Diagnostics()
        args = resolve_args(declared.args, node, section, scratch)
        diagnostics.take(scratch, f" (for {section} {name!r})" if len(names) > 1 else "")
        choices[name] = Option(name, declared, declared.args, args)
    return choices


def _default_recipe() -> dict[str, Json]:
    return {**default_args(Recipe), "objective": DEFAULT}


def read_recipe(
    node: Node, path: str, references: References, diagnostics: Diagnostics
) -> dict[str, Json]:
    """Resolve the recipe at a path; fields that are not written have their defaults."""
    if node.mapping is None:
        if node.value is not None:
            check_keys(node, tuple(fields_of(Recipe)), path, diagnostics)
        return _default_recipe()
    entries = dict(node.mapping)
    keep = entries.get("keep")
    if keep is not None and keep.mapping is not None:
        short = check_keys(keep, ("every", "final"), f"{path}.keep", diagnostics)
        if "every" not in short:
            diagnostics.add(
                keep, f"{path}.keep", "found no every; allowed: {every: epochs, final: ...}"
            )
        elif "keep_every" in entries:
            diagnostics.add(
                keep, f"{path}.keep", f"found every beside {path}.keep_every; write one"
            )
        else:
            entries["keep_every"] = short["every"]
        entries["keep"] = short.get("final", replace(keep, value="last"))
    _refuse_two_lengths(entries, path, diagnostics)
    objective, schedule = entries.pop("objective", None), entries.pop("schedule", None)
    args = resolve_args(Recipe, replace(node, value=entries), path, diagnostics)
    if schedule is not None:
        found = read_schedule(schedule, f"{path}.schedule", references, diagnostics)
        args["schedule"] = args["schedule"] if found is INVALID else found
    return {**args, **_read_loss(objective, entries, path, references, diagnostics)}


def _read_loss(
    node: Node | None,
    entries: Mapping[str, Node],
    path: str,
    references: References,
    diagnostics: Diagnostics,
) -> dict[str, Json]:
    """Read the objective; label smoothing, written there, is a field of the recipe."""
    if node is None:
        return {"objective": DEFAULT}
    found = read_objective(node, f"{path}.objective", references, diagnostics)
    if found is INVALID:
        return {"objective": DEFAULT}
    assert isinstance(found, Mapping)
    if found["name"] != DEFAULT["name"] or "label_smoothing" not in found:
        return {"objective": found}
    if "label_smoothing" in entries:
        message = f"found label_smoothing beside {path}.label_smoothing; write one"
        diagnostics.add(node, f"{path}.objective.label_smoothing", message)
    return {"objective": DEFAULT, "label_smoothing": found["label_smoothing"]}


def _refuse_two_lengths(entries: Mapping[str, Node], path: str, diagnostics: Diagnostics) -> None:
    """Note a mistake if one file has both `epochs` and `updates`; extended files and overrides may
    add the other.
    """
    epochs, updates = entries.get("epochs"), entries.get("updates")
    if epochs is None or updates is None or updates.value is None:
        return
    if epochs.place.file == updates.place.file:
        message = f"found epochs beside {path}.updates, which says how long to train; write one"
        diagnostics.add_key(epochs, f"{path}.epochs", message)


def _parent_is_null(args: Mapping[str, Json], parts: Sequence[str]) -> bool:
    value: Json = args
    for part in parts[:-1]:
        assert isinstance(value, Mapping)
        value = value[part]
        if value is None:
            return True
    return False


def _is_null(choice: Option, section: str, parts: Sequence[str]) -> str:
    """Say that a path leads into a block that is null, and which of its fields are required."""
    block = ".".join([section, *parts[:-1]])
    field = find_field(choice.owner, parts[:-1])
    known = fields_of(field.nested) if isinstance(field, Field) and field.nested else {}
    needed = ", ".join(name for name, one in known.items() if one.required)
    how = f"; write {block}: {{...}}" + (f" with {needed}" if needed else "")
    return f"{'.'.join([section, *parts])!r} is part of {block}, which is null{how}"


def place_of(template: TrialTemplate, path: str) -> Place:
    """Return the place of a field's value, or of the nearest mapping around it."""
    if path in template.nodes:
        return template.nodes[path].place
    section, parts = split_path(path)
    node = template.nodes[section]
    keep = (node.mapping or {}).get("keep")
    if parts == ("keep_every",) and keep is not None and keep.mapping is not None:
        parts = ("keep", "every")
    for part in parts:
        if node.mapping is None or part not in node.mapping:
            break
        node = node.mapping[part]
    return node.place
