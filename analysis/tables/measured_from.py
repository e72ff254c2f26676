"""Tell apart measurements of one metric by what they were measured from."""

import json
from collections.abc import Collection, Hashable, Mapping
from typing import Any

import pandas as pd

from phasegrid.analysis.tables.quantities import BUILT_IN
from phasegrid.analysis.tables.variants import ways as ways_of
from phasegrid.declare import Shown
from phasegrid.keys import canonical_json
from phasegrid.store.placing import WAYS


def named_rows(rows: pd.DataFrame, cells: pd.DataFrame, stages: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows with arguments that also name their inputs and stages (`naming_inputs`,
    `naming_stages`).
    """
    return naming_stages(naming_inputs(rows, cells), stages)


def naming_inputs(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Add the inputs of each measurement to its arguments, in the words of a sweep: ``modes``, the
    number of trials, unless all of the cell; ``runs``, where the cell has a measurement for each so
    many, or for ``all`` that another request left; ``networks``, where the sweep names them;
    ``of``, the request whose artifacts it read; ``at``, the places along its trials. Leave out the
    arguments that vary from cell to cell, whose values those of the cell are.
    """
    rows = _without_varied(rows)
    planned = rows["cell"].map(cells.set_index("cell")["n_planned"])
    ways = [name for name in WAYS if name in rows]
    is_said = rows[ways].notna().any(axis=1)
    of_some = (rows["over"] == "cell") & (rows["num_trials"] < planned) & ~is_said
    modes = rows["num_trials"].where(of_some)
    named = {"modes": modes, **{name: rows[name] for name in ("of", "at", *ways) if name in rows}}
    for name in ("modes", "runs"):
        if name in named and "varied" in rows:
            varied = rows["varied"].astype(object).fillna("").str.split("+")
            varies = varied.map(lambda of, name=name: name in of)
            named[name] = named[name].mask(varies)
    more = pd.DataFrame(named, index=rows.index)
    if more.isna().all(axis=None):
        return rows
    found = more.to_dict("records")
    args = [
        canonical_json({**json.loads(text), **_told(one)})
        for text, one in zip(rows["args"], found, strict=True)
    ]
    return rows.assign(args=args)


def _without_varied(rows: pd.DataFrame) -> pd.DataFrame:
    varies = rows["varied"].notna() if "varied" in rows else pd.Series(dtype=bool)
    if not varies.any():
        return rows
    args = [
        text if pd.isna(names) else canonical_json(_left(json.loads(text), names.split("+")))
        for text, names in zip(rows["args"], rows["varied"], strict=True)
    ]
    return rows.assign(args=args)


def _left(args: dict[str, Any], varied: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in args.items() if name not in varied}


def _told(named: Mapping[Hashable, Any]) -> dict[str, Any]:
    found = {str(key): value for key, value in named.items() if pd.notna(value)}
    return {key: v if isinstance(v, str) else int(v) for key, v in found.items()}


def naming_inputs_of_failed(
    failed: pd.DataFrame, declared: Mapping[str, Shown], cells: pd.DataFrame
) -> pd.DataFrame:
    """Do for jobs that failed what `naming_inputs` does for measurements."""
    over = [declared[table].over if table in declared else "" for table in failed["table"]]
    return naming_inputs(failed.assign(over=over), cells)


def variants(
    metric: str, rows: pd.DataFrame, plan: pd.DataFrame, declared: Mapping[str, Shown]
) -> "pd.Series[str]":
    """Name the way of measuring of each row of a metric in a sweep, as `Results.metric` gives them;
    None across cells. `declared` is what users' metrics declare.
    """
    own = rows[~rows["across"]]
    if own.empty:
        return pd.Series(None, index=rows.index, dtype=object)
    counted = of_last_stage(plan).groupby("cell", as_index=False).agg(n_planned=("seed", "size"))
    named = named_rows(own, counted, earlier_stages(plan))
    suffixes = ways_of({**BUILT_IN, **declared}.get(metric), named).suffixes
    return named["args"].map(suffixes).reindex(rows.index).astype(object)


def earlier_stages(plan: pd.DataFrame) -> dict[str, str]:
    """Return the stage of each trial that is not of the last stage; empty without stages."""
    earlier = plan[plan["stage"] != last_stage(plan)] if last_stage(plan) else plan.iloc[:0]
    return {} if earlier.empty else dict(zip(earlier["key"], earlier["stage"], strict=True))


def last_stage(plan: pd.DataFrame) -> str:
    """Return the name of the last stage; empty without stages."""
    if "stage" not in plan or plan["stage"].isna().all():
        return ""
    return str(plan["stage"].iloc[-1])


def of_last_stage(plan: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last training of each cell; a plan lists stages in order."""
    name = last_stage(plan)
    return plan[plan["stage"] == name].reset_index(drop=True) if name else plan


def naming_stages(rows: pd.DataFrame, stages: Mapping[str, str]) -> pd.DataFrame:
    """Add the stage to the arguments of each measurement that is not of the last stage."""
    if rows.empty or not stages:
        return rows
    of = rows["trial_a"].map(stages)
    args = [
        text if pd.isna(stage) else canonical_json({**json.loads(text), "stage": stage})
        for text, stage in zip(rows["args"], of, strict=True)
    ]
    return rows.assign(args=args)
