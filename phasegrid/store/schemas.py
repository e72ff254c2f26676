"""The Arrow schema of every table in a store, and the one way to turn records into a table.

Every column's type is fixed here, so that pandas, DuckDB and Polars read a directory of single-row
files as one table, whichever values are null. A missing value is null. NaN is refused, because
readers could not distinguish it from a missing value; an infinity is a value. Times are
microseconds in UTC. `SCHEMA_VERSION` is bumped when a column is added; readers fill the missing
columns of older files with nulls.

Values that every trial has are typed columns. The arguments of a model, a data set or a metric are
canonical JSON in one text column.
"""

import difflib
import math
import numbers
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from phasegrid.declare import Column
from phasegrid.errors import StoreError
from phasegrid.jobs import Start, Trial
from phasegrid.keys import Json, as_label, canonical_json

SCHEMA_VERSION = 4

_FLOATS = pa.list_(pa.field("element", pa.float64()))
_TYPES: dict[str, pa.DataType] = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "list<int64>": pa.list_(pa.field("element", pa.int64())),
    "list<string>": pa.list_(pa.field("element", pa.string())),
    "list<float64>": _FLOATS,
    "list<list<float64>>": pa.list_(pa.field("element", _FLOATS)),
}


def _schema(**columns: str) -> pa.Schema:
    typed = {"schema_version": "int32", **columns}
    return pa.schema([pa.field(name, _TYPES[kind]) for name, kind in typed.items()])


_PROVENANCE = {
    "created_at": "time",
    "seconds": "float64",
    "device": "string",
    "host": "string",
    "phasegrid_version": "string",
    "git_commit": "string",
    "git_dirty": "bool",
    "torch_version": "string",
    "user_git_commit": "string",
    "user_git_dirty": "bool",
    "reproducible": "bool",
}

_RECIPE = {
    "optimizer": "string",
    "lr": "float64",
    "momentum": "float64",
    "nesterov": "bool",
    "betas": "list<float64>",
    "adam_eps": "float64",
    "weight_decay": "float64",
    "batch_size": "int64",
    "epochs": "int64",
    "drop_last": "bool",
    "label_smoothing": "float64",
    "schedule": "string",
    "schedule_at_epochs": "list<int64>",
    "schedule_factor": "float64",
    "schedule_final": "float64",
    "schedule_warmup_updates": "int64",
    "schedule_low": "float64",
    "schedule_cycle_epochs": "float64",
    "schedule_cycle_updates": "int64",
    "schedule_cycles": "int64",
    "schedule_growth": "float64",
    "schedule_pieces": "list<list<float64>>",
    "schedule_args": "string",
    "schedule_version": "int64",
    "stop_rule": "string",
    "stop_min_delta": "float64",
    "stop_patience": "int64",
    "keep": "string",
    "keep_every": "int64",
    "precision": "string",
    "updates": "int64",
    "batch_unit": "string",
    "test_every": "int64",
    "rmsprop_alpha": "float64",
    "rmsprop_momentum": "float64",
    "rmsprop_eps": "float64",
    "rmsprop_centered": "bool",
    "sam_rho": "float64",
    "sam_adaptive": "bool",
    "clip_norm": "float64",
    "checkpoints": "string",
    "objective": "string",
    "objective_args": "string",
    "objective_version": "int64",
    "prune_density": "float64",
    "prune_scope": "string",
    "collect": "string",
}

TRIALS = _schema(
    key="string",
    dataset="string",
    dataset_version="int64",
    dataset_args="string",
    model="string",
    model_version="int64",
    model_args="string",
    **_RECIPE,
    seed="int64",
    outcome="string",
    diverged_epoch="int64",
    diverged_update="int64",
    epochs_run="int64",
    kept_epoch="int64",
    stopped_epoch="int64",
    num_parameters="int64",
    train_loss="float64",
    train_accuracy_percent="float64",
    test_loss="float64",
    test_accuracy_percent="float64",
    updates_run="int64",
    best_test_loss="float64",
    best_test_loss_epoch="int64",
    best_test_accuracy_percent="float64",
    best_test_accuracy_epoch="int64",
    task="string",
    num_classes="int64",
    pack_size="int64",
    strategy="string",
    checkpoint_sha256="string",
    dataset_code_digest="string",
    model_code_digest="string",
    schedule_code_digest="string",
    objective_code_digest="string",
    objective_unit="string",
    start_job="string",
    start_artifact="string",
    start_optimizer="string",
    artifacts="string",
    density="float64",
    **_PROVENANCE,
)

HISTORIES = _schema(
    key="string",
    epoch="int64",
    lr="float64",
    train_loss="float64",
    train_accuracy_percent="float64",
    test_loss="float64",
    test_accuracy_percent="float64",
    seconds="float64",
)

PLANS = _schema(
    sweep="string",
    plan_hash="string",
    cell="int64",
    facet="string",
    load_path="string",
    load="float64",
    load_label="string",
    temperature_path="string",
    temperature="float64",
    temperature_label="string",
    axis_names="string",
    seed="int64",
    key="string",
    stage="string",
)

PLAN_JOBS = _schema(
    sweep="string",
    cell="int64",
    metric="string",
    key="string",
    trials="list<string>",
    inputs="string",
    request="string",
    args="string",
)

FAILURES = _schema(
    id="string",
    key="string",
    pack="string",
    kind="string",
    exception="string",
    traceback="string",
    attempt="int64",
    host="string",
    created_at="time",
)

_METRIC = {
    "key": "string",
    "metric": "string",
    "version": "int64",
    "args": "string",
    "over": "string",
    "trials": "list<string>",
    "trial_a": "string",
    "trial_b": "string",
    "seed_a": "int64",
    "seed_b": "int64",
    "outcome": "string",
    "reason": "string",
    "code_digest": "string",
    "inputs": "string",
    "artifacts": "string",
}

TABLES: dict[str, pa.Schema] = {
    "trials": TRIALS,
    "histories": HISTORIES,
    "plans": PLANS,
    "plan_jobs": PLAN_JOBS,
    "failures": FAILURES,
}

NAMING_COLUMN = {
    "plans": "sweep",
    "plan_jobs": "sweep",
    "failures": "id",
}  # the column that names a file; "key" in every other table

_REQUIRED = {
    "trials": ("key", "dataset", "model", "seed", "outcome"),
    "histories": ("key", "epoch"),
    "plans": ("sweep", "cell", "seed", "key"),
    "plan_jobs": ("sweep", "metric", "key", "trials"),
    "failures": ("id", "kind"),
}
_REQUIRED_METRIC = ("key", "metric", "version", "over", "trials", "outcome")


def metric_schema(name: str, columns: Sequence[Column]) -> pa.Schema:
    """Return the schema of metric `name`: the columns of every metric, its own `columns`,
    provenance.

    Raises:
        StoreError: if a declared column has an unknown type or the name of another column.
    """
    typed = dict(_METRIC)
    for column in columns:
        if column.name in typed or column.name in _PROVENANCE or column.name == "schema_version":
            raise StoreError(
                f"metric {name!r} declares column {column.name!r} twice, or it is one that every"
                " metric has; give the column another name"
            )
        if column.type not in _TYPES:
            raise StoreError(
                f"metric {name!r}, column {column.name!r}: unknown type {column.type!r}; "
                f"allowed: {', '.join(_TYPES)}"
            )
        typed[column.name] = column.type
    return _schema(**typed, **_PROVENANCE)


def to_table(
    name: str, schema: pa.Schema, rows: Sequence[Mapping[str, object]], where: str
) -> pa.Table:
    """Turn records into a table of exactly `schema`; absent columns are null, `schema_version` is
    filled in.

    `name` is the name of the table, which decides which columns must not be null; `where` names the
    records in messages.

    Raises:
        StoreError: for no rows, an unknown column, a wrong type, a NaN, or a required value that is
        missing.
    """
    if not rows:
        raise StoreError(f"writing {where}: there are no rows")
    known = set(schema.names)
    required = _REQUIRED.get(name, _REQUIRED_METRIC)
    for row in rows:
        unknown = sorted(set(row) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], schema.names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(schema.names)}"
            raise StoreError(f"writing {where}: table {name} has no column {unknown[0]!r}{hint}")
        for column in required:
            if row.get(column) is None:
                raise StoreError(f"writing {where}: column {column!r} must not be missing")
    records = [_record(schema, row, where) for row in rows]
    try:
        structs = pa.array(records, pa.struct(list(schema)))
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        for field in schema:
            _require_array(field, [record[field.name] for record in records], where)
        raise
    return pa.Table.from_arrays(structs.flatten(), schema=schema)


def trial_columns(trial: Trial) -> dict[str, object]:
    """Return the columns of a trial that are known before its training: what is trained, how, and
    the seed.
    """
    return {
        "key": trial.key,
        "dataset": trial.dataset.name,
        "dataset_version": trial.dataset.version,
        "dataset_args": canonical_json(trial.dataset.args),
        "model": trial.model.name,
        "model_version": trial.model.version,
        "model_args": canonical_json(trial.model.args),
        **recipe_columns(trial.recipe),
        "seed": trial.seed,
        **_start_columns(trial.start),
    }


def _start_columns(start: Start | None) -> dict[str, object]:
    if start is None:
        return {}
    return {
        "start_job": start.artifact.job,
        "start_artifact": start.artifact.name,
        "start_optimizer": start.optimizer,
    }


def recipe_columns(recipe: Mapping[str, Json]) -> dict[str, Json]:
    """Flatten a resolved recipe: ``schedule.factor`` becomes ``schedule_factor``, ``schedule.name``
    ``schedule``.
    """
    columns: dict[str, Json] = {}
    for name, value in recipe.items():
        if name in ("checkpoints", "collect"):
            columns[name] = as_label(value)
        elif isinstance(value, Mapping):
            for inner, inner_value in value.items():
                plain = canonical_json(inner_value) if inner == "args" else inner_value
                columns[name if inner == "name" else f"{name}_{inner}"] = plain
        elif not (name in ("stop", "sam", "prune", "objective") and value is None):
            columns[name] = value
    return columns


def _record(schema: pa.Schema, row: Mapping[str, object], where: str) -> dict[str, object]:
    """Return a row with every column of the schema, its values checked against their types."""
    record: dict[str, object] = {}
    for field in schema:
        name, kind = field.name, field.type
        value = SCHEMA_VERSION if name == "schema_version" else row.get(name)
        try:
            record[name] = _coerce(value, kind)
        except (TypeError, ValueError) as error:
            raise _wrong(name, kind, where, error) from error
    return record


def _require_array(field: pa.Field, values: list[object], where: str) -> None:
    """Raise an error that names the column, if its values do not fit its type."""
    try:
        pa.array(values, field.type)
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _wrong(field.name, field.type, where, error) from error


def _wrong(column: str, kind: pa.DataType, where: str, error: Exception) -> StoreError:
    return StoreError(f"writing {where}: column {column!r} is {kind}: {error}")


def _coerce(value: object, kind: pa.DataType) -> object:
    """Check one value against an Arrow type; pyarrow itself would turn 1.5 into 1 and True into
    1.0.
    """
    if value is None:
        return None
    if pa.types.is_list(kind):
        items = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(items, (list, tuple)):
            return [_coerce(item, kind.value_type) for item in items]
    elif pa.types.is_timestamp(kind):
        if isinstance(value, datetime) and value.tzinfo is not None:
            return value.astimezone(UTC)
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            return value
    elif pa.types.is_boolean(kind) == _is_bool(value) and isinstance(value, _accepted(kind)):
        plain: Any = value.item() if hasattr(value, "item") else value
        if isinstance(plain, float) and math.isnan(plain):
            raise ValueError("found NaN; a missing number is None")
        return float(plain) if pa.types.is_floating(kind) else plain
    raise TypeError(f"found {value!r} of type {type(value).__name__}")


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's bool is not Python's bool


def _accepted(kind: pa.DataType) -> type:
    if pa.types.is_boolean(kind):
        return object
    return numbers.Integral if pa.types.is_integer(kind) else numbers.Real
