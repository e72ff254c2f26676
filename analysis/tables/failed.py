"""Tabulate which planned jobs of a sweep have failed or are blocked, so that figures and tables say
so instead of showing nothing.
"""

import json
from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from phasegrid.analysis.tables.grid import FAILURE_COLUMNS
from phasegrid.analysis.tables.quantities import (
    Quantity,
    base_of,
    quantity,
)
from phasegrid.analysis.tables.variants import Ways, way_of
from phasegrid.store.failures import FALLBACK
from phasegrid.store.placing import WAYS

_READ = ("of", "at", "varied", *WAYS)
FAILED_COLUMNS = ("cell", "table", "args", "num_trials", "blocked", "error", *_READ)


def no_failures() -> pd.DataFrame:
    """Return the table of a sweep without failures."""
    return pd.DataFrame(columns=list(FAILED_COLUMNS))


def failed_jobs(
    plan: pd.DataFrame, jobs: pd.DataFrame, failures: pd.DataFrame, stored: Collection[str]
) -> pd.DataFrame:
    """Return one row for each job without a result that failed or whose input failed: its cell, its
    table (``trials``, or the metric), its arguments (JSON text, null if the store does not say),
    its number of trials, whether it is blocked, the first line of the error, and what it reads
    (`of`, `at`, `varied`, `runs` and `networks`, as in `Results.metric`).

    `plan` and `jobs` are the planned trials and measurements, `failures` the rows of `Results`,
    `stored` the keys of the measurements that are stored.
    """
    real = failures[(failures["kind"] != FALLBACK) & (failures["later_done"] == False)]  # noqa: E712  # null is neither
    errors = {
        str(key): str(text).partition("\n")[0]
        for key, text in zip(real["key"], real["exception"], strict=True)
    }
    if not errors:
        return no_failures()
    rows = [
        (cell, "trials", None, 1, False, errors[key], *(None for _ in _READ))
        for cell, key in zip(plan["cell"], plan["key"], strict=True)
        if key in errors
    ]
    needs = {str(row["key"]): _needs(row) for row in jobs.to_dict("records")}
    blocked = _blocked(needs, errors, stored)
    for row in jobs.to_dict("records"):
        key = str(row["key"])
        error = errors.get(key) or blocked.get(key)
        if error is not None and not pd.isna(row["cell"]):
            what = int(row["cell"]), row["metric"], row["args"], len(row["trials"])
            read = [row.get(name) for name in _READ]
            rows.append((*what, key in blocked, error, *read))
    return pd.DataFrame(rows, columns=list(FAILED_COLUMNS))


def failures_of(
    failed: pd.DataFrame,
    quantities: Mapping[str, Quantity],
    found: Mapping[str, Ways],
    measured: Collection[str],
    main_figure: Collection[str],
) -> pd.DataFrame:
    """Return the failures of each quantity and cell (`FAILURE_COLUMNS` of
    `phasegrid.analysis.tables.grid`).

    Failures count for quantities that are `measured` in another cell. If a way of measuring has no
    number at all, they count for the first quantity of its metric and those of the main figure.
    """
    by_way: dict[tuple[str, str], list[str]] = {}
    for name in sorted(measured):
        what = quantity(name, quantities)
        by_way.setdefault((base_of(what).name, way_of(name, what.axes)), []).append(name)
    rows = []
    for _, jobs in failed.groupby(["table", "args", "cell"], dropna=False):
        table, args, cell = jobs.iloc[0][["table", "args", "cell"]]
        way = found[table].suffixes[args] if table in found and isinstance(args, str) else ""
        count = int(jobs["blocked"].sum())
        counts = (len(jobs) - count, count, jobs["error"].iloc[0])
        own = [what.name for what in quantities.values() if what.table == table]
        main = [name for name in own if name in main_figure] or own[:1]
        shown = [name for base in own for name in by_way.get((base, way), ())]
        shown = shown or [f"{name}[{way}]" if way else name for name in main]
        rows += [(name, cell, *counts) for name in shown]
    return pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))


def _needs(job: Mapping[object, object]) -> set[str]:
    """Return the keys of the jobs whose results a measurement reads."""
    trials = job["trials"]
    assert isinstance(trials, Iterable)
    keys = {str(key) for key in trials}
    inputs = job.get("inputs")
    if isinstance(inputs, str):
        keys |= {str(artifact[0]) for artifact in json.loads(inputs)}
    return keys


def _blocked(
    needs: Mapping[str, set[str]], errors: Mapping[str, str], stored: Collection[str]
) -> dict[str, str]:
    """Return the error that blocks each job, directly or through other jobs."""
    found: dict[str, str] = {}
    waiting = {key for key in needs if key not in stored and key not in errors}
    while True:
        known = {**errors, **found}
        new = {
            key: known[culprit]
            for key in waiting
            if (culprit := min(needs[key] & known.keys(), default=None)) is not None
        }
        if not new:
            return found
        found.update(new)
        waiting -= new.keys()
