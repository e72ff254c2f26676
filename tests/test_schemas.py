"""Every table's schema is fixed, and a record fits it or is refused by the name of the column."""

import dataclasses
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from store_support import COLUMNS, METRIC, SCHEMAS, WHEN, bare, full

from phasegrid.declare import Column
from phasegrid.errors import StoreError
from phasegrid.jobs import Part, Trial
from phasegrid.keys import text_key
from phasegrid.metrics import METRICS
from phasegrid.store.records import to_table
from phasegrid.store.schemas import TABLES, TRIALS, metric_schema, trial_columns
from phasegrid.train.recipe import Recipe

# A change of a fixed table is a change of SCHEMA_VERSION, of readers of old stores, and of this
# text.
GOLDEN = {
    "trials": (
        "schema_version:int32 key:string dataset:string dataset_version:int64 dataset_args:string"
        " model:string model_version:int64 model_args:string optimizer:string lr:double"
        " momentum:double nesterov:bool betas:list<element: double> adam_eps:double"
        " weight_decay:double batch_size:int64 epochs:int64 drop_last:bool label_smoothing:double"
        " schedule:string schedule_at_epochs:list<element: int64> schedule_factor:double"
        " schedule_final:double schedule_warmup_updates:int64 schedule_low:double"
        " schedule_cycle_epochs:double schedule_cycle_updates:int64 schedule_cycles:int64"
        " schedule_growth:double schedule_pieces:list<element: list<element: double>>"
        " schedule_args:string schedule_version:int64 stop_rule:string"
        " stop_min_delta:double stop_patience:int64 keep:string keep_every:int64 precision:string"
        " updates:int64 batch_unit:string test_every:int64 rmsprop_alpha:double"
        " rmsprop_momentum:double rmsprop_eps:double rmsprop_centered:bool sam_rho:double"
        " sam_adaptive:bool clip_norm:double checkpoints:string objective:string objective_args:string"
        " objective_version:int64 prune_density:double prune_scope:string collect:string accumulate:int64 seed:int64 outcome:string"
        " diverged_epoch:int64 diverged_update:int64 epochs_run:int64 kept_epoch:int64"
        " stopped_epoch:int64 num_parameters:int64 train_loss:double train_accuracy_percent:double"
        " test_loss:double test_accuracy_percent:double updates_run:int64 best_test_loss:double"
        " best_test_loss_epoch:int64 best_test_accuracy_percent:double"
        " best_test_accuracy_epoch:int64 task:string num_classes:int64 pack_size:int64"
        " strategy:string checkpoint_sha256:string dataset_code_digest:string"
        " model_code_digest:string schedule_code_digest:string objective_code_digest:string objective_unit:string start_job:string"
        " start_artifact:string"
        " start_optimizer:string artifacts:string density:double created_at:timestamp[us, tz=UTC] seconds:double device:string device_name:string"
        " host:string phasegrid_version:string git_commit:string git_dirty:bool"
        " torch_version:string user_git_commit:string user_git_dirty:bool reproducible:bool"
    ),
    "histories": (
        "schema_version:int32 key:string epoch:int64 lr:double train_loss:double "
        "train_accuracy_percent:double test_loss:double test_accuracy_percent:double seconds:double"
    ),
    "plans": (
        "schema_version:int32 sweep:string plan_hash:string cell:int64 facet:string "
        "load_path:string load:double load_label:string temperature_path:string "
        "temperature:double temperature_label:string axis_names:string seed:int64 key:string"
        " stage:string"
    ),
    "plan_jobs": (
        "schema_version:int32 sweep:string cell:int64 metric:string key:string "
        "trials:list<element: string> inputs:string request:string args:string asked:string varied:string"
    ),
    "failures": (
        "schema_version:int32 id:string key:string pack:string kind:string exception:string "
        "traceback:string attempt:int64 host:string created_at:timestamp[us, tz=UTC]"
    ),
    "metrics/sharpness": (
        "schema_version:int32 key:string metric:string version:int64 args:string over:string"
        " trials:list<element: string> trial_a:string trial_b:string seed_a:int64 seed_b:int64"
        " outcome:string reason:string code_digest:string inputs:string artifacts:string measured_in:string value:double num_steps:int64 exact:bool"
        " layer:string t:list<element: double> surface:list<element: list<element: double>>"
        " created_at:timestamp[us, tz=UTC] seconds:double device:string device_name:string host:string"
        " phasegrid_version:string git_commit:string git_dirty:bool torch_version:string"
        " user_git_commit:string user_git_dirty:bool reproducible:bool"
    ),
}


@pytest.mark.parametrize("table", GOLDEN)
def test_a_schema_changes_only_on_purpose(table: str) -> None:
    found = " ".join(f"{field.name}:{field.type}" for field in SCHEMAS[table])
    assert found == GOLDEN[table]


def test_golden_schemas_cover_every_fixed_table() -> None:
    assert set(TABLES) < set(GOLDEN)


def test_every_built_in_metric_has_a_schema() -> None:
    assert METRICS
    for name, metric in METRICS.items():
        assert set(metric_schema(name, metric.columns).names) > {c.name for c in metric.columns}


def test_every_field_of_a_recipe_has_a_column() -> None:
    trial = Trial(
        "a" * 32,
        Part("moons", 1, {"n": 3}),
        Part("mlp", 2, {"width": 4}),
        dataclasses.asdict(Recipe()),
        5,
    )
    columns = trial_columns(trial)
    row = to_table("trials", TRIALS, [{**columns, "outcome": "done"}], "a trial").to_pylist()[0]
    assert row["schedule"] == "constant"
    assert row["stop_patience"] == 5
    assert row["betas"] == [0.9, 0.999]
    assert row["model_args"] == '{"width":4}'
    assert (row["model_version"], row["seed"]) == (2, 5)
    assert (row["updates"], row["batch_unit"], row["test_every"]) == (None, "examples", 0)


def test_a_recipe_without_a_stop_rule_has_nulls_there() -> None:
    recipe = dataclasses.asdict(Recipe(stop=None))
    trial = Trial("a" * 32, Part("moons", 1, {}), Part("mlp", 1, {}), recipe, 0)
    row = to_table("trials", TRIALS, [{**trial_columns(trial), "outcome": "done"}], "a trial")
    assert row["stop_rule"].null_count == 1


def _one(**values: Any) -> pa.Table:
    row = {**bare("metrics/sharpness", "a"), **values}
    return to_table("metrics/sharpness", METRIC, [row], "a metric")


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("value", 3, 3.0),
        ("value", np.float32(0.5), 0.5),
        ("value", np.int64(2), 2.0),
        ("value", float("inf"), float("inf")),
        ("num_steps", np.int32(4), 4),
        ("num_steps", 2**62 + 1, 2**62 + 1),
        ("exact", np.bool_(True), True),
        ("t", np.array([1.0, 2.0]), [1.0, 2.0]),
        ("t", (1, None), [1.0, None]),
        ("t", [], []),
        ("surface", np.ones((1, 2)), [[1.0, 1.0]]),
        ("value", None, None),
    ],
)
def test_a_value_of_the_declared_type_is_kept(column: str, value: Any, stored: Any) -> None:
    assert _one(**{column: value})[column].to_pylist() == [stored]


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("value", float("nan"), "found NaN"),
        ("value", np.float32("nan"), "found NaN"),
        ("t", [0.0, float("nan")], "found NaN"),
        ("surface", [[float("nan")]], "found NaN"),
        ("value", "1.5", "found '1.5' of type str"),
        ("value", True, "found True of type bool"),
        ("num_steps", 1.5, "found 1.5 of type float"),
        ("num_steps", 2.0, "found 2.0 of type float"),
        ("num_steps", True, "found True of type bool"),
        ("num_steps", 2**63, "column 'num_steps'"),
        ("exact", 1, "found 1 of type int"),
        ("layer", 3, "found 3 of type int"),
        ("t", 1.0, "found 1.0 of type float"),
        ("t", "ab", "found 'ab' of type str"),
        ("created_at", datetime(2026, 1, 1), "of type datetime"),
        ("created_at", "2026-01-01", "of type str"),
    ],
)
def test_a_value_of_another_type_is_refused_by_column(column: str, value: Any, found: str) -> None:
    with pytest.raises(StoreError, match=f"column '{column}'") as caught:
        _one(**{column: value})
    assert found in str(caught.value)


def test_a_time_is_kept_to_the_microsecond() -> None:
    assert _one(created_at=WHEN)["created_at"].to_pylist() == [WHEN]


def test_an_unknown_column_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StoreError, match="has no column 'num_step'; did you mean 'num_steps'"):
        _one(num_step=1)
    with pytest.raises(StoreError, match="has no column 'zzzz'; it has schema_version, key"):
        _one(zzzz=1)


def test_what_every_row_must_have_is_asked_for() -> None:
    with pytest.raises(StoreError, match="column 'outcome' must not be missing"):
        _one(outcome=None)


def test_no_rows_are_no_table() -> None:
    with pytest.raises(StoreError, match="there are no rows"):
        to_table("trials", TRIALS, [], "nothing")


@pytest.mark.parametrize("name", ["key", "seconds", "schema_version", "value"])
def test_a_metric_cannot_declare_a_column_twice(name: str) -> None:
    with pytest.raises(StoreError, match=f"declares column '{name}' twice"):
        metric_schema("m", (*COLUMNS, Column(name, "float64", "", "")))


def test_a_metric_cannot_declare_an_unknown_type() -> None:
    with pytest.raises(StoreError, match="column 'x': unknown type 'float16'"):
        metric_schema("m", (Column("x", "float16", "", ""),))  # type: ignore[arg-type]


def test_the_records_of_these_tests_fit_every_table() -> None:
    for table, schema in SCHEMAS.items():
        for row in (bare(table, text_key("a")), full(table, "a")):
            assert to_table(table, schema, [row], table).schema == schema
