"""Try a metric: measure untrained networks on made-up examples."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.declare import DatasetFacts, Metric, import_function
from phasegrid.errors import StoreError
from phasegrid.jobs import MetricJob, Part
from phasegrid.metrics.measured import Measured
from phasegrid.models.build import build_model
from phasegrid.registry import resolve_metric
from phasegrid.run.worker.contract_trials.trying import NUM, FaultError, made_up, start_of, told
from phasegrid.run.worker.inputs import arguments_of
from phasegrid.store.records import to_table
from phasegrid.store.schemas import metric_schema

_MISTAKES = (TypeError, NameError, AttributeError, ImportError)
"""Errors that a metric would raise on any input; others may be due to the two examples and
untrained networks.
"""


def check_metric(job: MetricJob, networks: Sequence[Part], facts: DatasetFacts) -> str | None:
    """Raise `FaultError` if a metric breaks its contract; return what may be sound as a note."""
    metric = resolve_metric(job.metric.name)
    built = [
        build_model(part, facts.input_shape, facts.num_classes, seed, facts.task, facts.form).eval()
        for seed, part in enumerate(networks)
    ]
    compute = import_function(metric.compute)
    place = start_of(compute)
    arguments = arguments_of(job, metric)
    if metric.reads:
        arguments["sources"] = []
    rng = torch.Generator().manual_seed(0)
    try:
        rows = compute(built, _made_up_data(facts), rng, **arguments)
    except _MISTAKES as error:
        raise told("measuring fails", error) from error
    except Exception as error:
        return (
            f"{told(f'on {NUM} made-up examples and untrained networks it raises', error)}; it may"
            " not on trained ones"
        )
    return _check_rows(job, metric, rows, place)


def _check_rows(job: MetricJob, metric: Metric, rows: object, place: str) -> str | None:
    rows = rows.rows if isinstance(rows, Measured) else rows
    several: list[Any] = rows if isinstance(rows, list) else [rows]
    if not several or not all(isinstance(row, Mapping) for row in several):
        found = "an empty list" if rows == [] else f"a {type(rows).__name__}"
        raise FaultError(
            f"it returns {found}; allowed: a row (a mapping from columns to values), or a list of"
            " rows",
            place,
        )
    for column in metric.columns:
        if column.colours and column.colours not in matplotlib.colormaps:
            raise FaultError(
                f"column {column.name!r}: colours is {column.colours!r}; allowed: a colour map of"
                " matplotlib, as viridis",
                place,
            )
    required = {"key": "0" * 32, "metric": job.metric.name, "version": 1, "over": metric.over}
    required |= {"trials": ["0" * 32], "outcome": "done"}
    table = f"metrics/{job.metric.name}"
    try:
        schema = metric_schema(job.metric.name, metric.columns)
        to_table(table, schema, [required | _without_nan(row) for row in several], "its rows")
    except StoreError as error:
        raise FaultError(str(error).removeprefix("writing its rows: "), place) from error
    missing = [c.name for c in metric.columns if not any(c.name in row for row in several)]
    if missing:
        return f"returned no {', '.join(missing)}, which it declares"
    axes = [column.name for column in metric.columns if column.role == "axis"]
    places = {tuple(row.get(axis) for axis in axes) for row in several}
    if len(places) < len(several):
        return (
            f"returned {len(several)} rows, but no column tells them apart, so figures and tables"
            ' leave them out; set role="axis" on the column that does, as in Column("class",'
            ' "int64", "", "the class", role="axis")'
        )
    return None


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out values that are not finite: on two examples they mean nothing."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def _made_up_data(facts: DatasetFacts) -> Dataset:
    inputs, labels = made_up(facts)[0]
    unit = torch.full((1,) * len(facts.input_shape), 1 / 255)
    return Dataset(
        "made up",
        inputs,
        labels,
        inputs.flip(0),
        labels.flip(0),
        facts.num_classes,
        unit,
        torch.zeros_like(unit),
        task=facts.task,
        form=facts.form,
    )
