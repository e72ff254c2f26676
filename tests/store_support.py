"""Records for a store: rows with nothing but what is required, and rows with every column set."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phasegrid.declare import Column
from phasegrid.jobs import Artifact
from phasegrid.keys import text_key
from phasegrid.store.schemas import FAILURES, HISTORIES, PLAN_JOBS, PLANS, TRIALS, metric_schema
from phasegrid.store.store import Store

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

COLUMNS = (
    Column("value", "float64", "nats", "a number"),
    Column("num_steps", "int64", "", "a count"),
    Column("exact", "bool", "", "a claim"),
    Column("layer", "string", "", "a name"),
    Column("t", "list<float64>", "", "points"),
    Column("surface", "list<list<float64>>", "", "a surface"),
)
METRIC = metric_schema("sharpness", COLUMNS)

BARE: dict[str, dict[str, Any]] = {
    "trials": {"dataset": "moons", "model": "mlp", "seed": 0, "outcome": "done"},
    "histories": {"epoch": 0},
    "plans": {"sweep": "toy", "cell": 0, "seed": 0},
    "plan_jobs": {"sweep": "toy", "cell": 0, "metric": "sharpness", "trials": [text_key("trial")]},
    "failures": {"kind": "app"},
    "metrics/sharpness": {
        "metric": "sharpness",
        "version": 1,
        "over": "trial",
        "trials": [text_key("trial")],
        "outcome": "done",
    },
}
SCHEMAS = {
    "trials": TRIALS,
    "histories": HISTORIES,
    "plans": PLANS,
    "plan_jobs": PLAN_JOBS,
    "failures": FAILURES,
    "metrics/sharpness": METRIC,
}
_VALUES: dict[str, Any] = {
    "string": "text",
    "double": 1.5,
    "int64": 7,
    "int32": 1,
    "bool": True,
    "timestamp[us, tz=UTC]": WHEN,
    "list<element: int64>": [1, 2],
    "list<element: double>": [0.5, 2.5],
    "list<element: string>": [text_key("trial")],
    "list<element: list<element: double>>": [[1.0], [2.0, 3.0]],
}


def rows_without_checksum(path: Path) -> pa.Table:
    """The rows of a file, to be written as a release without checksums did."""
    return pq.read_table(path).replace_schema_metadata(None)


def make_store(folder: Path) -> Store:
    return Store.open(str(folder / "store"), create=True)


def bare(table: str, name: str) -> dict[str, Any]:
    """A row of `table` with nothing but what must not be missing; `name` becomes its key or id."""
    return {("id" if table == "failures" else "key"): text_key(name), **BARE[table]}


def leave(store: Store, name: str, at: str, tensors: Mapping[str, Any]) -> dict[str, str]:
    """Publish the weights of a trial at a checkpoint; return what its row is to say of them."""
    artifact = Artifact(text_key(name), f"weights@{at}")
    return {artifact.name: store.publish(artifact, tensors)}


def full(table: str, name: str) -> dict[str, Any]:
    """A row of `table` with every column set."""
    schema: pa.Schema = SCHEMAS[table]
    values = {field.name: _VALUES[str(field.type)] for field in schema}
    del values["schema_version"]
    values |= {name: '{"n":3}' for name in values if name.endswith("args")}
    values |= {"facet": '[["model.name","mlp"]]'} if "facet" in values else {}
    return {**values, **bare(table, name)}


def put(store: Store, table: str, row: Mapping[str, Any]) -> None:
    """Store one row as a worker would."""
    if table == "trials":
        store.put_trial({k: v for k, v in row.items() if k != "checkpoint_sha256"}, [], {})
    elif table == "histories":
        store.put_trial(bare("trials", "x") | {"key": row["key"]}, [row], {})
    elif table == "plans":
        store.put_plan("sweep-" + row["key"][:8], [row])
    elif table == "plan_jobs":
        sweep = "jobs-" + row["key"][:8]
        store.put_plan(sweep, [bare("plans", "unused")], [row])
        store.files.delete(f"plans/{sweep}.parquet")
    elif table == "failures":
        store.put_failure(row)
    else:
        own = {column.name for column in COLUMNS}
        common = {name: value for name, value in row.items() if name not in own}
        rows = [{name: value for name, value in row.items() if name in own}]
        store.put_metric("sharpness", COLUMNS, common, rows)
