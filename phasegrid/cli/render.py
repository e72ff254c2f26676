"""The texts of ``plan``, ``status``, ``verify`` and ``query``: from values to lines, as tables or
JSON.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from phasegrid.config.load import Sweep
from phasegrid.config.unmeasured import left_out
from phasegrid.errors import StoreError, SweepError
from phasegrid.plan.contents import Plan
from phasegrid.plan.devices import DEVICES, Device
from phasegrid.run import code_changes
from phasegrid.run.cards import kept
from phasegrid.run.forecast import Forecast, Span
from phasegrid.run.lost_inputs import lost_text
from phasegrid.run.planned import look_at
from phasegrid.run.status import Tally, blocked_jobs, planned_jobs
from phasegrid.store.failures import FALLBACK
from phasegrid.store.store import Store
from phasegrid.texts import bytes_text, counted, duration

if TYPE_CHECKING:
    import pandas as pd

    from phasegrid.run.verify import Problem

WIDTH = 110


def plan_text(
    sweep: Sweep,
    store: Store | None,
    why: bool,
    slots: int,
    as_json: bool,
    device: Device | None = None,
) -> str:
    """Describe the plan of a sweep against a store: cells, jobs done, missing and stale, and the
    predicted cost on a kind of device.
    """
    planned = look_at(sweep, store, slots, device)
    plan, found, tallies = planned.plan, planned.forecast, planned.tallies
    stale, changes = planned.stale, planned.changes
    if as_json:
        record = _plan_record(sweep, plan, tallies, found, [*stale, *planned.measured_anew])
        return json.dumps({**record, "changed_code": [str(c) for c in changes]}, indent=2)
    lines = [_plan_table(sweep, plan, tallies, found)]
    if found.num_packs or not changes:
        lines += _forecast_lines(found, sweep.run.price_per_gpu_hour)
    if changes:
        lines += ["a run would be refused:", *(f"  {change}" for change in changes)]
    if planned.lost and store is not None:
        lines.append(lost_text(planned.lost, store.url))
    anew = planned.measured_anew
    if anew:
        lines.append(
            f"{len(anew)} measurements take the place of stored ones of the same trials"
            + ("" if why else " (--why names what changed)")
        )
    if stale:
        lines.append(
            f"{len(stale)} trials stand where the last plan had another one"
            + ("" if why else " (--why names what changed)")
        )
    lines += [f"note: {line}" for line in left_out(sweep)]
    if sweep.figures:
        own = ", ".join(request.name for request in sweep.figures)
        lines.append(f"figures of its own: {own}")
    if why:
        lines += _why_lines(stale, anew) if stale or anew or not changes else []
        lines += [code_changes.THREE_WAYS] if changes else []
        lines += _unknown_code_lines(store, sweep) if store else []
    return "\n".join(lines)


def _plan_record(
    sweep: Sweep,
    plan: Plan,
    tallies: Sequence[Tally],
    found: Forecast,
    stale: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    return {
        "sweep": sweep.name,
        "cells": len(plan.cells),
        "seeds": len(sweep.seeds),
        "jobs": [
            {
                "kind": t.kind,
                "planned": t.planned,
                "stored": t.stored,
                "missing": t.missing,
                "predicted_s": asdict(found.kinds[t.kind]),
            }
            for t in tallies
        ],
        "packs": found.num_packs,
        "slots": found.slots,
        "device": found.device.kind,
        "device_name": found.device.name,
        "gpu_memory_bytes": found.memory_bytes,
        "disk_bytes": found.disk_bytes,
        "forecast_error": None if found.error is None else found.error._asdict(),
        "predicted_work_s": asdict(found.work),
        "predicted_makespan_s": asdict(found.makespan),
        "stale": [{"key": key, "changed": change} for key, change in stale],
        "figures": [request.name for request in sweep.figures],
    }


def _plan_table(sweep: Sweep, plan: Plan, tallies: Sequence[Tally], found: Forecast) -> str:
    table = Table(title=f"{sweep.name}: {_grid(sweep, plan)}", title_justify="left")
    for name in ("jobs", "planned", "stored", "missing", "predicted"):
        table.add_column(name, justify="left" if name == "jobs" else "right")
    for t in tallies:
        predicted = duration(found.kinds[t.kind].expected) if t.missing else "-"
        table.add_row(t.kind, str(t.planned), str(t.stored), str(t.missing), predicted)
    return _render(table)


def _forecast_lines(found: Forecast, price: float | None) -> list[str]:
    if not found.num_packs:
        return ["everything is stored: a run would submit nothing"]
    device = found.device
    unit = "core" if device.kind == "cpu" else _gpu_name(device)
    lines = [
        f"{counted(found.num_packs, 'pack')}, {_hours(found.work)} {unit}-hours of work;"
        f" {_lasting(found.makespan)} on {counted(found.slots, unit)}"
    ]
    if found.memory_bytes is not None:
        lines.append(f"GPU memory: {bytes_text(found.memory_bytes)} for the largest pack")
        if found.memory_bytes > device.memory_bytes:
            lines[-1] += f", more than its {bytes_text(device.memory_bytes)}: packs would be halved"
    if found.disk_bytes is not None:
        lines.append(f"disk: {bytes_text(found.disk_bytes)} for weights, checkpoints and artifacts")
    if price is not None and device.kind != "cpu":
        money = [x / 3600 * price for x in (found.work.expected, found.work.low, found.work.high)]
        expected, low, high = (f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in money)
        lines.append(f"cost: {expected} [{low} to {high}] at {price:g} per GPU-hour")
    return [*lines, f"({_origin(found)})"]


def _gpu_name(device: Device) -> str:
    return f"{device.name.upper() if device.name in DEVICES else device.name} GPU"


def _origin(found: Forecast) -> str:
    """Say where a forecast comes from, and how far off it may be."""
    device = found.device
    if not found.num_timings:
        origin = "a first guess, nothing of this kind is timed yet"
        if device.kind != "cpu":
            source = (
                "fitted to readings of ResNet18 on this kind of GPU"
                if device.is_read
                else "scaled by data sheets from readings on an H200"
            )
            origin = f"a guess, {source}; nothing of this kind is timed yet"
        return f"{origin}; in brackets: {device.spread:g} times off"
    origin = (
        f"from {found.num_timings} timings in the store; in brackets: were all jobs as far off as"
        " one in ten is"
    )
    if found.error is not None:
        origin += (
            f"; the times of a fifth of the timed jobs, forecast by the others, were off by"
            f" {found.error.of_job:.0%} (median job) and {found.error.of_sum:+.0%} (their sum)"
        )
    if device.kind != "cpu":
        origin += "; at most, as if no packs had shared a GPU"
    return origin


def _hours(span: Span) -> str:
    """Write a span of work in hours, at least two digits each."""
    hours = [x / 3600 for x in (span.expected, span.low, span.high)]
    expected, low, high = (f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in hours)
    return f"{expected} [{low} to {high}]"


def _lasting(span: Span) -> str:
    return f"{duration(span.expected)} [{duration(span.low)} to {duration(span.high)}]"


def status_text(store: Store, sweep: str | None, as_json: bool) -> str:
    """Describe what is stored of the sweeps of a store, from the store alone."""
    names = store.sweeps()
    if sweep is not None and sweep not in names:
        raise SweepError(
            f"status of {store.url}: there is no sweep {sweep!r}; sweeps:"
            f" {', '.join(names) or 'none'}"
        )
    damaged: list[StoreError] = []
    read = partial(store.read_table, pass_over=damaged.append)
    failures = read("failures").to_pylist()
    trials = {row["key"]: row["outcome"] for row in read("trials", ["key", "outcome"]).to_pylist()}
    measured = {
        name: read(f"metrics/{name}", ["key", "trials"]).to_pylist() for name in store.metrics()
    }
    states = []
    for name in names if sweep is None else [sweep]:
        try:
            states.append(_state(store, name, trials, measured, failures))
        except StoreError as error:
            if sweep is not None or not error.damaged:
                raise
            damaged.append(error)
    told = list(dict.fromkeys(map(str, damaged)))
    states = [{**state, "damaged": told} for state in states]
    if as_json:
        return json.dumps(states, indent=2)
    if not states and not damaged:
        return f"{store.url}: no sweeps"
    lines = [f"damaged, and not counted: {text}" for text in told]
    return "\n".join([*lines, *(line for state in states for line in _lines_of(state))])


def _lines_of(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines about one sweep."""
    yield (
        f"{state['sweep']}: {state['trials_stored']}/{state['trials_planned']} trials stored"
        + (f", {state['diverged']} diverged" if state["diverged"] else "")
        + _attempts(state["failures"], state["failures_later_done"])
    )
    for name, count in state["metrics"].items():
        planned = state["metrics_planned"].get(name)
        of = "" if planned is None else f"/{planned}"
        yield f"  {name}: {count}{of} jobs stored"
    yield from (f"  last failure: {text}" for text in state["last_failures"])
    yield from (f"  blocked: {n} waiting for {who}" for who, n in state["blocked"].items())
    yield from (f"  done another way, {n} x: {text}" for text, n in state["fallbacks"].items())
    yield from kept.lines_of(state["gpus"])


def _state(
    store: Store,
    sweep: str,
    trials: dict[str, str],
    measured: dict[str, list[dict[str, Any]]],
    failures: list[dict[str, Any]],
) -> dict[str, Any]:
    planned = {row["key"] for row in store.read_plan(sweep).to_pylist()}
    jobs = planned_jobs(store, sweep)
    told = [f for f in failures if f["key"] in planned.union(*jobs.values())]
    own = [f for f in told if f["kind"] != FALLBACK]
    done = trials.keys() | {row["key"] for rows in measured.values() for row in rows}
    still = [f for f in own if f["key"] not in done]
    return {
        "sweep": sweep,
        "trials_planned": len(planned),
        "trials_stored": len(planned & trials.keys()),
        "diverged": sum(trials.get(key) == "diverged" for key in planned),
        "metrics": _measured(planned, jobs, measured),
        "metrics_planned": {name: len(keys) for name, keys in sorted(jobs.items())},
        "failures": len(own),
        "failures_later_done": len(own) - len(still),
        "blocked": Counter(blocked_jobs(store, sweep, done, {f["key"] for f in still}).values()),
        "last_failures": [f"{f['key']}: {f['exception']}" for f in still[-3:]],
        "fallbacks": Counter(f["exception"] for f in told if f["kind"] == FALLBACK),
        "gpus": kept.as_json(kept.read_kept(store, sweep), datetime.now(UTC)),
    }


def _attempts(failed: int, later_done: int) -> str:
    """Say how many attempts failed, and of how many of them the job was done later."""
    if not failed:
        return ""
    of_them = f", {'all' if later_done == failed else f'{later_done} of them'} later done"
    return f", {failed} failed attempts{of_them if later_done else ''}"


def _measured(
    trials: set[str], jobs: dict[str, set[str]], measured: dict[str, list[dict[str, Any]]]
) -> dict[str, int]:
    """Count the stored jobs of each metric: those planned, or, of a plan that does not tell, those
    over its trials.
    """
    if jobs:
        return {
            name: len(keys & {row["key"] for row in measured.get(name, ())})
            for name, keys in sorted(jobs.items())
        }
    return {
        name: len({row["key"] for row in rows if trials.issuperset(row["trials"])})
        for name, rows in measured.items()
    }


def problems_text(problems: Sequence["Problem"], as_json: bool) -> str:
    """List what ``verify`` found."""
    if as_json:
        return json.dumps([str(problem) for problem in problems], indent=2)
    return "\n".join([*(str(p) for p in problems), f"{len(problems)} problems"])


def table_text(table: "pd.DataFrame", as_json: bool) -> str:
    """Write a result as a plain table, or as JSON records."""
    if as_json:
        return str(table.to_json(orient="records", date_format="iso", indent=2))
    import pandas as pd  # half a second that `plan` need not wait for

    with pd.option_context("display.max_columns", None, "display.width", 160):
        return table.to_string(index=False, max_rows=200) if len(table) else "no rows"


def write_table(table: "pd.DataFrame", output: Path) -> None:
    """Write a result to a .csv or .parquet file."""
    if output.suffix == ".csv":
        table.to_csv(output, index=False)
    elif output.suffix == ".parquet":
        table.to_parquet(output, index=False)
    else:
        raise StoreError(f"writing the result of a query: {output} must end in .csv or .parquet")


def _why_lines(stale: Sequence[tuple[str, str]], anew: Sequence[tuple[str, str]]) -> list[str]:
    if not stale and not anew:
        return ["nothing in the store is stale"]
    trials, measured = (Counter(change for _, change in found) for found in (stale, anew))
    lines = [f"  {counted(count, 'trial')}: {change}" for change, count in trials.most_common()]
    return lines + [f"  {count} x {change}" for change, count in measured.most_common()]


def _unknown_code_lines(store: Store, sweep: Sweep) -> list[str]:
    """Say of which stored rows nobody knows by which code they were made."""
    counts = {one.name: code_changes.num_unknown(store, one) for one in sweep.code}
    known = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
    if not known:
        return []
    return [
        f"stored rows that do not say by which code they were made: {known} (written by an"
        f" earlier phasegrid; whether the code has changed since is unknown)"
    ]


def _grid(sweep: Sweep, plan: Plan) -> str:
    axes = [axis for axis in (sweep.load, sweep.temperature, *sweep.facets) if axis]
    shape = " x ".join(f"{len(axis.values)} {axis.path}" for axis in axes)
    return f"{counted(len(plan.cells), 'cell')} ({shape}) x {counted(len(sweep.seeds), 'seed')}"


def _render(table: Table) -> str:
    console = Console(
        file=io.StringIO(), width=WIDTH, no_color=True, markup=False, emoji=False, highlight=False
    )
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().rstrip()
