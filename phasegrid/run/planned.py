"""Compare a sweep's plan with a store: what is stored, what is missing, how long that will take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phasegrid.config.load import Sweep
from phasegrid.plan import cost
from phasegrid.plan.contents import Plan
from phasegrid.plan.devices import CPU, Device
from phasegrid.plan.pack_layout import from_records
from phasegrid.plan.plan import make_plan
from phasegrid.run.code_changes import Change, find_changes
from phasegrid.run.forecast import Forecast, forecast
from phasegrid.run.lost_inputs import lost_inputs
from phasegrid.run.staleness import why_measured_anew, why_stale
from phasegrid.run.status import Tally, learn_costs, stored_jobs, tally
from phasegrid.store.store import Store
from phasegrid.texts import counted, duration

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class Planned:
    """The plan of a sweep, its jobs by kind, the forecast of a run, and changes since the last run:
    `stale` trials and measurements that are `measured_anew` (pairs of key and what changed),
    plug-ins whose code has changed (`changes`), and `lost` artifacts that missing jobs read.
    """

    plan: Plan
    tallies: Sequence[Tally]
    forecast: Forecast
    stale: Sequence[tuple[str, str]]
    changes: Sequence[Change]
    measured_anew: Sequence[tuple[str, str]] = ()
    lost: Sequence[str] = ()

    @property
    def table(self) -> "pd.DataFrame":
        """One row per kind of job: how many are planned, stored and missing, and the predicted
        seconds of the missing ones on one core or GPU.
        """
        import pandas as pd

        rows = [
            {
                "jobs": t.kind,
                "planned": t.planned,
                "stored": t.stored,
                "missing": t.missing,
                "predicted_s": self.forecast.kinds[t.kind].expected,
            }
            for t in self.tallies
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"{self._heading()}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._heading()}</p>{self.table.to_html(index=False)}"

    def _heading(self) -> str:
        cells, found = len(self.plan.cells), self.forecast
        what = f"{self.plan.sweep}: {counted(cells, 'cell')}"
        if not found.num_packs:
            return f"{what}; everything is stored"
        unit = "GPU" if found.device.kind == "cuda" else "core"
        workers = counted(found.slots, unit)
        return f"{what}; about {duration(found.makespan.expected)} on {workers}"


def look_at(sweep: Sweep, store: Store | None, slots: int, device: Device | None = None) -> Planned:
    """Plan a sweep, and compare it with a store, if there is one, for a run on `slots` workers of a
    kind of device (default: what did most of the stored jobs, else a core).
    """
    plan = make_plan(sweep)
    stored = stored_jobs(store, plan) if store else set()
    corrections = (
        learn_costs(store, plan, device) if store else cost.Corrections(device=device or CPU)
    )
    known = from_records(store.notes.read_layout(sweep.name)) if store else []
    return Planned(
        plan,
        tally(plan, stored),
        forecast(plan, stored, corrections, slots, sweep.run.pack_size, known),
        _stale(plan, store) if store else [],
        find_changes(store, sweep.code) if store else [],
        _measured_anew(plan, store) if store else [],
        lost_inputs(plan, store, stored) if store else [],
    )


def _stale(plan: Plan, store: Store) -> list[tuple[str, str]]:
    if plan.sweep not in store.sweeps():
        return []
    old = store.read_plan(plan.sweep).to_pylist()
    keys = {row["key"] for row in old}
    rows = store.read_table("trials", keys=keys).to_pylist()
    return list(why_stale(plan, old, {row["key"]: row for row in rows if row["key"] in keys}))


def _measured_anew(plan: Plan, store: Store) -> list[tuple[str, str]]:
    old = store.read_table("plan_jobs", keys=[plan.sweep]).to_pylist()
    keys = {row["key"] for row in old} - {job.key for _, job in plan.metric_jobs()}
    stored = {}
    for metric in sorted({row["metric"] for row in old if row["key"] in keys}):
        wanted = {row["key"] for row in old if row["metric"] == metric and row["key"] in keys}
        rows = store.read_table(f"metrics/{metric}", ["key", "version", "args", "inputs"], wanted)
        stored.update({row["key"]: row for row in rows.to_pylist()})
    return list(why_measured_anew(plan, old, stored))
