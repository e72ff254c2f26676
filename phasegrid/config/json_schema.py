"""Build the JSON Schema of sweep files (draft 2020-12, plain keywords), so that an editor completes
and checks while one types.

The schema accepts every sweep that `load_sweep` accepts, and finds most mistakes within one value.
Only `load_sweep` can check grids, plug-ins and rules between fields.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import TypeAdapter

from phasegrid.config.axes import KEYS, MAX_VALUES, SCALES
from phasegrid.config.couple import TABLE_KEYS
from phasegrid.config.figures import NUMBERED_STEM, STANDARD_STEMS
from phasegrid.config.inputs import allowed_over, keys_of, usual_over
from phasegrid.config.networks import PAIRS
from phasegrid.config.places import EVERY, LOWEST, SWAG
from phasegrid.config.sections import MAX_SEEDS, MEMORY_PATTERN, NAME_PATTERN
from phasegrid.config.stages import MAX_STAGES, OPTIMIZERS
from phasegrid.config.stages import NAME_PATTERN as STAGE_NAME
from phasegrid.config.types import Need, RunOptions
from phasegrid.datasets import DATASETS
from phasegrid.declare import Column, Metric
from phasegrid.figures import FIGURES
from phasegrid.jobs import AVERAGED
from phasegrid.keys import Json
from phasegrid.metrics import METRICS
from phasegrid.models import MODELS
from phasegrid.registry import Kind, known_names
from phasegrid.tasks.objectives import OBJECTIVES
from phasegrid.train.recipe import Recipe, Schedule
from phasegrid.train.schedules import SCHEDULES

Schema = dict[str, Any]

_FIELD = (
    "^((dataset|model|train|stages\\.[a-z][a-z0-9_]*)|metrics\\.([^:]*:)?[^.]+)(\\.[A-Za-z0-9_]+)+$"
)

_PLACE: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {
            "type": "string",
            "pattern": f"^(update-(0|[1-9][0-9]*)|{AVERAGED}|{LOWEST}|{EVERY}|{SWAG})$",
        },
    ]
}
"""A place along a training: an epoch, an update, the average of a collector, or checkpoints: all,
or those at its lowest rates.
"""

_PLACES: Schema = {"anyOf": [{"type": "array", "items": _PLACE, "minItems": 1}, _PLACE]}
_NETWORK: Schema = {
    "type": "object",
    "properties": {"at": _PLACES, "stage": {"type": "string"}, "seed": {"type": "integer"}},
    "minProperties": 1,
}


def json_schema() -> dict[str, Json]:
    """Return the JSON Schema of a sweep file, with the arguments of all built-in parts."""
    definitions: Schema = {}
    metrics = _metrics(definitions)
    properties: Schema = {
        "schema": {"const": 1, "description": "Version of the form of sweep files."},
        "name": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
        "description": {"type": ["string", "null"]},
        "extends": {"anyOf": [{"type": "string"}, _list({"type": "string"})]},
        "dataset": _part(
            "dataset", {name: kind.args for name, kind in DATASETS.items()}, definitions
        ),
        "model": _part("model", {name: kind.args for name, kind in MODELS.items()}, definitions),
        "train": _nullable(_recipe(definitions)),
        "stages": {"type": ["array", "null"], "maxItems": MAX_STAGES, "items": _stage()},
        "load": _nullable(_axis()),
        "temperature": _nullable(_axis()),
        "facets": {"type": ["array", "null"], "items": _axis()},
        "couple": _couple(),
        "include": _points("Points added to the grid."),
        "exclude": _points("Patterns of points left out of the grid."),
        "seeds": _seeds(),
        "metrics": {"type": ["array", "null"], "items": metrics},
        "figures": _figures(definitions),
        "resources": _nullable(_resources(definitions)),
        "run": _nullable(_arguments(RunOptions, definitions)),
        "storage": {"type": ["string", "null"], "description": "Folder or URL of the store."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "phasegrid sweep",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [
            {"required": ["extends"]},
            {"required": ["schema", "name", "dataset", "model", "seeds"]},
        ],
        "$defs": definitions,
    }


def _arguments(owner: type, definitions: Schema) -> Schema:
    """Return the schema of a declared dataclass; nested dataclasses go to `definitions`."""
    schema: Schema = TypeAdapter(owner).json_schema()
    for name, nested in schema.pop("$defs", {}).items():
        definitions[name] = {**nested, "additionalProperties": False}
    return {**schema, **_documented(owner), "additionalProperties": False}


def _documented(owner: type) -> Schema:
    """Return what a dataclass and those whose arguments it shares say of themselves."""
    texts = [one.__doc__ or "" for one in owner.__mro__ if is_dataclass(one)]
    return {"description": "\n\n".join(map(inspect.cleandoc, texts)) or owner.__name__}


def _part(kind: Kind, owners: Mapping[str, type], definitions: Schema) -> Schema:
    alternatives: list[Schema] = []
    for name, owner in owners.items():
        arguments = _arguments(owner, definitions)
        properties = {"name": {"const": name}, **arguments["properties"]}
        alternatives.append({**arguments, "title": name, "properties": properties})
    plugin = {
        "type": "object",
        "properties": {"name": _plugin_name(kind, owners)},
        "required": ["name"],
    }
    return {"anyOf": [*alternatives, plugin]}


def _plugin_name(kind: Kind, built_in: Collection[str]) -> Schema:
    installed = [name for name in known_names(kind) if name not in built_in]
    reference: Schema = {
        "type": "string",
        "pattern": ".:[A-Za-z_][A-Za-z0-9_]*$",
        "description": "file.py:NAME or package.module:NAME",
    }
    return {"anyOf": [{"enum": installed}, reference]} if installed else reference


def _recipe(definitions: Schema) -> Schema:
    recipe = _arguments(Recipe, definitions)
    properties = dict(recipe["properties"])
    properties["schedule"] = _schedule(definitions)
    properties["objective"] = _objective(definitions)
    keep = properties["keep"]
    every = {
        "type": "object",
        "properties": {"every": {"type": "integer", "minimum": 0}, "final": keep},
        "required": ["every"],
        "additionalProperties": False,
    }
    properties["keep"] = {"anyOf": [keep, every]}
    return {**recipe, "properties": properties}


def _schedule(definitions: Schema) -> Schema:
    """Return the schema of a schedule: one of ours, or the user's with any arguments."""
    own = definitions["Schedule"]["properties"]
    own.pop("args")
    own["name"] = {"enum": list(SCHEDULES), "default": Schedule().name}
    plugin = _plugin_name("schedule", SCHEDULES)
    common = {"name": plugin, "warmup_updates": own["warmup_updates"]}
    users: Schema = {"type": "object", "properties": common, "required": ["name"]}
    return {"anyOf": [own["name"], plugin, {"$ref": "#/$defs/Schedule"}, users]}


def _objective(definitions: Schema) -> Schema:
    owners = {name: declared.args for name, declared in OBJECTIVES.items()}
    names = {"anyOf": [{"enum": list(OBJECTIVES)}, _plugin_name("objective", OBJECTIVES)]}
    return _nullable({"anyOf": [names, *_part("objective", owners, definitions)["anyOf"]]})


def _metrics(definitions: Schema) -> Schema:
    alternatives: list[Schema] = [{"enum": list(METRICS)}]
    for name, metric in METRICS.items():
        arguments = _metric_arguments(metric, definitions)
        alternatives.append(
            {
                "type": "object",
                "title": name,
                "properties": {name: _nullable(arguments)},
                "required": [name],
                "additionalProperties": False,
            }
        )
    plugin = _plugin_name("metric", METRICS)
    with_arguments: Schema = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "propertyNames": plugin,
    }
    return {"anyOf": [*alternatives, plugin, with_arguments]}


def _metric_arguments(metric: Metric, definitions: Schema) -> Schema:
    arguments = _arguments(metric.args, definitions)
    properties = dict(arguments.get("properties", {}))
    if metric.over in ("pair", "cell"):
        properties["pairs"] = {"enum": list(PAIRS), "default": metric.pairs}
    if metric.over == "cell":
        properties["modes"] = {"type": ["integer", "null"], "minimum": metric.min_trials}
    keys: Schema = {
        "id": {"type": "string", "description": "What `of` of another request calls this one."},
        "of": {"type": "string", "description": "The request whose artifacts this one reads."},
        "over": {"enum": list(allowed_over(metric)), "default": usual_over(metric)},
        "at": _PLACES,
        "where": {"type": "object", "minProperties": 1},
        "stage": {"type": "string", "description": "The training that it is about, not the last."},
        "runs": {"type": "integer", "minimum": 1, "description": "A job for each so many trials."},
        "networks": {"type": "array", "minItems": 1, "items": _NETWORK},
    }
    properties |= {key: keys[key] for key in keys_of(metric)}
    rows = "\n".join([f"- {column.name}: {_measured(column)}" for column in metric.columns])
    description = f"{arguments['description']}\n\nColumns:\n\n{rows}"
    return {**arguments, "description": description, "properties": properties}


def _measured(column: Column) -> str:
    """Say what a column holds, and its unit."""
    return f"{column.doc} ({column.unit})" if column.unit else column.doc


def _figures(definitions: Schema) -> Schema:
    alternatives: list[Schema] = []
    for kind, declared in FIGURES.items():
        arguments = _arguments(declared.args, definitions)
        properties = dict(arguments["properties"])
        taken: Schema = {"anyOf": [{"enum": list(STANDARD_STEMS)}, {"pattern": NUMBERED_STEM}]}
        properties["name"] = {**properties["name"], "not": taken}
        if "at" in properties:
            label: Schema = {"type": ["string", "number", "boolean"]}
            properties["at"] = _nullable({**_list(label), "uniqueItems": True})
        alternatives.append(
            {
                "type": "object",
                "title": kind,
                "properties": {kind: {**arguments, "properties": properties}},
                "required": [kind],
                "additionalProperties": False,
            }
        )
    plugin = _plugin_name("figure", FIGURES)
    arguments = {"type": "object", "required": ["name"]}
    alternatives.append(
        {
            "type": "object",
            "propertyNames": plugin,
            "additionalProperties": arguments,
            "minProperties": 1,
            "maxProperties": 1,
        }
    )
    description = "Figures beside those that every sweep gets."
    return {
        "type": ["array", "null"],
        "description": description,
        "items": {"anyOf": alternatives},
    }


def _stage() -> Schema:
    whole = {"type": "integer", "minimum": 0}
    start = {
        "type": "object",
        "properties": {"stage": {"type": "string"}, "epoch": whole, "update": whole, "seed": whole},
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "description": "A further training of every cell, from what another has left.",
        "properties": {
            "name": {"type": "string", "pattern": f"^{STAGE_NAME}$"},
            "from": {"anyOf": [{"type": ["string", "null"]}, start]},
            "optimizer": {"enum": list(OPTIMIZERS)},
            "train": {"$ref": "#/properties/train"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def _axis() -> Schema:
    properties: Schema = {
        "param": {"type": "string", "pattern": _FIELD, "examples": ["model.width"]},
        "values": {"type": "array", "minItems": 1, "maxItems": MAX_VALUES},
        "start": {"type": "number"},
        "stop": {"type": "number"},
        "num": {"type": "integer", "minimum": 2, "maximum": MAX_VALUES},
        "scale": {"enum": list(SCALES), "default": "linear"},
        "label": {"type": ["string", "null"]},
    }
    assert tuple(properties) == KEYS
    return {
        "type": "object",
        "description": "One axis of the grid: the field it varies, and its values.",
        "properties": properties,
        "additionalProperties": False,
    }


def _couple() -> Schema:
    table: Schema = {
        "type": "object",
        "description": "The value of this field for each value of another.",
        "properties": {
            "by": {"type": "string", "pattern": _FIELD, "examples": ["train.batch_size"]},
            "values": {"type": "object", "minProperties": 1},
            "otherwise": {"description": "The value where no key fits."},
        },
        "required": ["by", "values"],
        "additionalProperties": False,
    }
    assert tuple(table["properties"]) == TABLE_KEYS
    return {
        "type": ["object", "null"],
        "description": (
            "Fields tied to others: train.lr: 0.05 * train.batch_size / 128, or a table."
        ),
        "propertyNames": {"pattern": _FIELD},
        "additionalProperties": {"anyOf": [{"type": ["string", "number"]}, table]},
    }


def _points(description: str) -> Schema:
    point = {"type": "object", "minProperties": 1}
    return {"type": ["array", "null"], "description": description, "items": point}


def _seeds() -> Schema:
    seed = {"type": "integer", "minimum": 0}
    several = {**_list(seed), "uniqueItems": True, "maxItems": MAX_SEEDS}
    return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_SEEDS}, several]}


def _resources(definitions: Schema) -> Schema:
    need = _arguments(Need, definitions)
    properties = dict(need["properties"])
    text = {"type": "string", "pattern": f"^{MEMORY_PATTERN}$"}
    properties["memory"] = {"anyOf": [properties["memory"], text]}
    need = {**need, "properties": properties}
    own = {"type": "object", "additionalProperties": need}
    return {**need, "properties": {**properties, "metrics": own}}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
