"""From a store to a grid: the only room of the analysis that reads one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.grid import CELL_COLUMNS, CURVE_COLUMNS, VALUE_COLUMNS, Grid
from analysis.quantities import QUANTITIES, Quantity, plain_quantity
from phasegrid.datasets import FIXED_FACTS
from phasegrid.errors import SweepError
from phasegrid.jobs import canonical_json
from phasegrid.results import open_results

if TYPE_CHECKING:
    from phasegrid.results import Results

NOT_MEASURED = frozenset(
    {"trial_a", "trial_b", "seed_a", "seed_b", "seconds", "num_trials", "load", "temperature"}
)
"""Columns of numbers that every metric's rows have beside what was measured (and ``arg.*``, ``facet.*``)."""


def open_store(path: str | Path) -> "Results":
    """Open a store for reading.

    Raises:
        StoreError: if there is none at `path`, or it cannot be read.
    """
    return open_results(str(path))


def load_grid(results: "Results", sweep: str | None = None) -> Grid:
    """Load one sweep (None: the only one in the store).

    Raises:
        SweepError: if the sweep is not in the store, or none is named and there are several.
    """
    name = _chosen(list(results.sweeps()), sweep)
    metrics = {metric: results.metric(metric, sweep=name) for metric in results.metrics()}
    return build_grid(name, results.plan(name), results.trials(), metrics)


def build_grid(
    sweep: str, plan: pd.DataFrame, trials: pd.DataFrame, metrics: Mapping[str, pd.DataFrame]
) -> Grid:
    """Put the tables of a store together into the grid of one sweep.

    `plan` and `trials` are as `Results` gives them, `metrics` the rows of each metric in this sweep, with their
    ``cell``.

    A metric stored in several ways (different `args`) becomes variants of its quantities: the way that covers most
    of this sweep keeps the plain name (ties: the declared defaults), the others are named by what differs,
    ``cka[mixup_alpha=4]``.
    """
    stored = plan.merge(trials.drop(columns=["seed"], errors="ignore"), on="key", how="left")
    cells = _cells(stored)
    parts = [_trial_values(stored), *(_metric_values(m, t) for m, t in metrics.items())]
    values = pd.concat([part for part in parts if not part.empty] or parts[:1], ignore_index=True)
    place = cells.drop(columns=["num_classes", "n_planned", "n_done", "n_diverged"])
    values = values.merge(place, on="cell")[list(VALUE_COLUMNS)]
    return Grid(
        sweep,
        _path(plan, "load_path"),
        _path(plan, "temperature_path"),
        cells,
        values,
        _curves(metrics.get("connectivity")),
    )


def _chosen(sweeps: list[str], wanted: str | None) -> str:
    if wanted is None and len(sweeps) == 1:
        return sweeps[0]
    there = ", ".join(sorted(sweeps)) or "none"
    if wanted is None:
        raise SweepError(f"which sweep is meant? give one of those in the store: {there}")
    if wanted not in sweeps:
        raise SweepError(f"the store has no sweep {wanted!r}; there are: {there}")
    return wanted


def _cells(stored: pd.DataFrame) -> pd.DataFrame:
    done = stored["outcome"] == "done"
    counted = stored.assign(
        num_classes=_num_classes(stored["dataset"]),
        done=done,
        diverged=stored["outcome"] == "diverged",
    )
    cells = counted.groupby("cell", as_index=False, sort=True).agg(
        facet=("facet", "first"),
        load=("load", "first"),
        load_label=("load_label", "first"),
        temperature=("temperature", "first"),
        temperature_label=("temperature_label", "first"),
        num_classes=("num_classes", "first"),
        n_planned=("seed", "size"),
        n_done=("done", "sum"),
        n_diverged=("diverged", "sum"),
    )
    labels = ["load_label", "temperature_label"]
    cells[labels] = cells[labels].astype(object).where(cells[labels].notna(), "")
    numbers = ["load", "temperature", "num_classes"]
    cells[numbers] = cells[numbers].astype(float)
    return cells[list(CELL_COLUMNS)]


def _num_classes(datasets: pd.Series) -> pd.Series:
    known = {name: facts.num_classes for name, facts in FIXED_FACTS.items()}
    return datasets.map(known).astype(float)


def _trial_values(stored: pd.DataFrame) -> pd.DataFrame:
    rows = stored[stored["outcome"].notna()]
    parts = []
    for what in QUANTITIES.values():
        if what.table != "trials":
            continue
        part = rows[["cell", "outcome"]].assign(
            quantity=what.name,
            seed_a=rows["seed"].astype(float),
            seed_b=np.nan,
            value=rows[what.column].astype(float),
            stderr=np.nan,
        )
        parts.append(part[(part["outcome"] != "done") | part["value"].notna()])
    return pd.concat(parts, ignore_index=True)


def _metric_values(metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return pd.DataFrame()
    suffixes = _variants(metric, rows)
    parts = []
    for what in _quantities_of(metric, rows):
        if what.column not in rows:
            continue
        part = rows.assign(
            quantity=[_full_name(what, *row) for row in zip(suffixes, _layers(rows), strict=True)],
            seed_a=rows["seed_a"].astype(float),
            seed_b=rows["seed_b"].astype(float),
            value=rows[what.column].astype(float),
            stderr=rows[what.stderr_column].astype(float) if what.stderr_column else np.nan,
        )
        parts.append(part[["quantity", "cell", "seed_a", "seed_b", "value", "stderr", "outcome"]])
    if not parts:
        return pd.DataFrame()
    values = pd.concat(parts, ignore_index=True)
    values["value"] = values["value"].where(values["outcome"] == "done")
    return values


def _quantities_of(metric: str, rows: pd.DataFrame) -> list[Quantity]:
    """Return what is declared of a metric, or every column of real numbers of one that is not."""
    declared = [what for what in QUANTITIES.values() if what.table == metric]
    if declared:
        return declared
    columns = [
        str(column)
        for column, kind in rows.dtypes.items()
        if kind == np.dtype("float64")
        and column not in NOT_MEASURED
        and not str(column).startswith(("arg.", "facet."))
    ]
    return [plain_quantity(metric, column) for column in columns]


def _layers(rows: pd.DataFrame) -> list[str | None]:
    if "layer" not in rows:
        return [None] * len(rows)
    return [layer if isinstance(layer, str) else None for layer in rows["layer"]]


def _full_name(what: Quantity, suffix: str, layer: str | None) -> str:
    parts = [suffix] if suffix else []
    if layer is not None and layer != what.layer:
        parts.append(f"layer={layer}")
    return f"{what.name}[{', '.join(parts)}]" if parts else what.name


def _variants(metric: str, rows: pd.DataFrame) -> list[str]:
    """Return, for each row, how its arguments differ from the plain ones; empty for the plain ones."""
    counts = rows["args"].value_counts()
    if len(counts) == 1:
        return [""] * len(rows)
    default = _default_args(metric)
    plain = min(counts.index, key=lambda text: (-counts[text], text != default, text))
    base = json.loads(plain)
    names = {}
    for text in counts.index:
        args = json.loads(text)
        changed = {
            k: args.get(k) for k in sorted(base.keys() | args.keys()) if args.get(k) != base.get(k)
        }
        names[text] = ", ".join(f"{key}={_plainly(value)}" for key, value in changed.items())
    return [names[text] for text in rows["args"]]


def _default_args(metric: str) -> str | None:
    from dataclasses import asdict

    from phasegrid.metrics import METRICS

    return canonical_json(asdict(METRICS[metric].args())) if metric in METRICS else None


def _plainly(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curves(rows: pd.DataFrame | None) -> pd.DataFrame:
    if rows is None or rows.empty:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    plain = np.array([not name for name in _variants("connectivity", rows)])
    rows = rows[plain & (rows["outcome"] == "done") & rows["t"].notna()]
    points = rows[list(CURVE_COLUMNS)].explode(["t", "train_error_percent"], ignore_index=True)
    return points.dropna().astype(dict.fromkeys(CURVE_COLUMNS[1:], float))


def _path(plan: pd.DataFrame, column: str) -> str | None:
    paths = plan[column].dropna().unique()
    return str(paths[0]) if len(paths) else None
