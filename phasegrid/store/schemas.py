"""The Arrow schema of every table in a store.

Every column's type is fixed here, so that pandas, DuckDB and Polars read a directory of single-row
files as one table, whichever values are null. A missing value is null. NaN is refused, because
readers could not distinguish it from a missing value; an infinity is a value. Times are
microseconds in UTC. `SCHEMA_VERSION` is bumped when a column is added; readers fill the missing
columns of older files with nulls.

Values that every trial has are typed columns. The arguments of a model, a data set or a metric are
canonical JSON in one text column.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from phasegrid.declare import Column
from phasegrid.errors import StoreError
from phasegrid.jobs import Start, Trial
from phasegrid.keys import Json, as_label, canonical_json

SCHEMA_VERSION = 6

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
    "device_name": "string",
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
    "accumulate": "int64",
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
    asked="string",
    varied="string",
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
    "measured_in": "string",
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

REQUIRED = {
    "trials": ("key", "dataset", "model", "seed", "outcome"),
    "histories": ("key", "epoch"),
    "plans": ("sweep", "cell", "seed", "key"),
    "plan_jobs": ("sweep", "metric", "key", "trials"),
    "failures": ("id", "kind"),
}
REQUIRED_OF_METRICS = ("key", "metric", "version", "over", "trials", "outcome")


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
