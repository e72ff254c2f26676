"""Compare a store with a plan: the basis of ``plan``, ``status`` and every run. No torch, no
ray.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from phasegrid.estimates import Guess
from phasegrid.jobs import MetricJob
from phasegrid.plan import cost
from phasegrid.plan.contents import Plan, metric_names, trials_by_key
from phasegrid.plan.devices import Device, device_of
from phasegrid.store.artifacts import inputs_of
from phasegrid.store.store import Store
from phasegrid.texts import counted


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of jobs of one kind: how many are planned, and how many of these are stored."""

    kind: str
    planned: int
    stored: int

    @property
    def missing(self) -> int:
        """How many are planned but not stored."""
        return self.planned - self.stored


def stored_keys(store: Store, metrics: list[str]) -> set[str]:
    """Return the keys of every stored trial and of every stored job of these metrics; each table is
    listed once.
    """
    keys = set(store.stored("trials"))
    for name in metrics:
        keys |= store.stored(f"metrics/{name}")
    return keys


def stored_jobs(store: Store, plan: Plan) -> set[str]:
    """Return the keys of the stored jobs of a plan, and of other jobs of its metrics.

    A measurement by an earlier release, which stored no artifacts, counts as not stored if another
    job reads its artifacts; it is done again.
    """
    keys = stored_keys(store, metric_names(plan))
    wanted: dict[str, set[str]] = {}
    for _, job in plan.metric_jobs():
        if job.request.wanted and job.key in keys:
            wanted.setdefault(job.metric.name, set()).add(job.key)
    for metric, jobs in wanted.items():
        columns = ["key", "outcome", "artifacts"]
        rows = store.read_table(f"metrics/{metric}", columns, jobs).to_pylist()
        done = (row for row in rows if row["outcome"] == "done")
        keys -= {row["key"] for row in done if row["artifacts"] is None}
    return keys


def name_in(plan: Plan) -> Callable[[str], str]:
    """Return a function from the key of a job of the plan to its name for people. The function
    makes the names at its first call.
    """
    names: dict[str, str] = {}

    def name_of(key: str) -> str:
        if not names:
            names.update(job_names(plan))
        return names.get(key, key)

    return name_of


def job_names(plan: Plan) -> dict[str, str]:
    """Return the name of each job of a plan for people: ``training, cell 3, seed 0``, ``hessian,
    cell 3, seed 0``.

    A job that several cells share is named after the first.
    """
    names: dict[str, str] = {}
    for cell in plan.cells:
        seeds = {}
        for stage, trial in cell.staged():
            seeds[trial.key] = str(trial.seed) if stage is None else f"{trial.seed} of {stage}"
        for key, seed in seeds.items():
            names.setdefault(key, f"training, cell {cell.index}, seed {seed}")
        for job in cell.metric_jobs:
            of = [seeds[key] for key in job.trials]
            which = f"seed {of[0]}" if len(of) == 1 else f"seeds {', '.join(of)}"
            names.setdefault(job.key, f"{job.metric.name}, cell {cell.index}, {which}{_at(job)}")
    for _, job in plan.across:
        which = f"across cells, {counted(len(job.trials), 'trial')}, the first {job.trials[0]}"
        names.setdefault(job.key, f"{job.metric.name}, {which}")
    return names


def _at(job: MetricJob) -> str:
    """Return, as text, the checkpoints of a trial that a measurement reads: ``, epoch-40``."""
    ats = [at for _, _, at in (network.name.partition("@") for network in job.networks) if at]
    return f", {' and '.join(ats)}" if ats else ""


def planned_jobs(store: Store, sweep: str) -> dict[str, set[str]]:
    """Return the keys of the measurements that a stored sweep plans, by metric; empty if it plans
    none or its plan does not say.
    """
    keys: dict[str, set[str]] = {}
    for row in store.read_table("plan_jobs", ["metric", "key"], [sweep]).to_pylist():
        keys.setdefault(row["metric"], set()).add(row["key"])
    return keys


def blocked_jobs(
    store: Store, sweep: str, done: Collection[str], failed: Collection[str]
) -> dict[str, str]:
    """Return the measurements of a stored sweep that wait for a job that has `failed`, each with
    the name of that job: ``trial <key>``, ``connectivity <key>``.
    """
    rows = store.read_table("plan_jobs", ["metric", "key", "trials", "inputs"], [sweep]).to_pylist()
    planned = {row["key"]: row for row in rows if row["key"] not in done}
    found: dict[str, str | None] = {}

    def culprit(key: str) -> str | None:
        row = planned.get(key)
        if key in failed:
            return f"{row['metric'] if row else 'trial'} {key}"
        return blame(key) if row else None

    def blame(key: str) -> str | None:
        if key not in found:
            row = planned[key]
            needs = [*row["trials"], *(artifact.job for artifact in inputs_of(row["inputs"]))]
            found[key] = next((who for need in needs if (who := culprit(need))), None)
        return found[key]

    return {key: who for key in planned if key not in failed and (who := blame(key))}


def tally(plan: Plan, stored: set[str]) -> list[Tally]:
    """Count planned and stored jobs by kind: trials first, then metrics by name."""
    by_kind: dict[str, set[str]] = {"trials": set(trials_by_key(plan))}
    for name in metric_names(plan):
        by_kind[name] = set()
    for _, job in plan.metric_jobs():
        by_kind[job.metric.name].add(job.key)
    return [Tally(kind, len(keys), len(keys & stored)) for kind, keys in by_kind.items()]


def learn_costs(store: Store, plan: Plan, device: Device | None = None) -> cost.Corrections:
    """Learn from the timings in the store how far cost guesses are off for the jobs of this plan.

    Only the timings of one kind of device are used: of `device`, or if it is None, of the kind that
    did most jobs.
    """
    jobs = {job.key: (cell.index, job) for cell, job in plan.jobs()}
    timings = [
        (jobs[key], made_on, seconds)
        for table in ["trials", *(f"metrics/{name}" for name in metric_names(plan))]
        for key, made_on, seconds in _timings(store, table, jobs)
    ]
    if device is None:
        if not timings:
            return cost.Corrections()
        device = Counter(made_on for _, made_on, _ in timings).most_common(1)[0][0]
    pairs: dict[str, list[tuple[Guess, float]]] = {}
    for (index, job), made_on, seconds in timings:
        if made_on == device:
            guess = cost.guess_cost(plan.cells[index], job, device)
            pairs.setdefault(cost.kind_of(job), []).append((guess, seconds))
    return cost.learn_corrections(pairs, device)


def _timings(
    store: Store, table: str, keys: Collection[str]
) -> Iterator[tuple[str, Device, float]]:
    """Yield key, device and seconds of those jobs for which a table has them."""
    columns = ["key", "device", "device_name", "seconds"]
    rows = store.read_table(table, columns, keys)
    if not {"key", "device", "seconds"} <= set(rows.column_names):
        return
    for row in rows.to_pylist():
        if row["seconds"] is not None and row["device"] is not None:
            device = device_of(row["device"], row.get("device_name"))
            yield row["key"], device, row["seconds"]
