"""What a store holds of a plan: the basis of ``plan``, ``status`` and of every run. No torch, no ray."""

from collections.abc import Mapping
from dataclasses import dataclass

from phasegrid import cost
from phasegrid.jobs import MetricJob, Plan, Trial
from phasegrid.plan import metric_names, trials_by_key
from phasegrid.store import Store


@dataclass(frozen=True, slots=True)
class Tally:
    """Jobs of one kind: how many are planned, how many of them stored."""

    kind: str
    planned: int
    stored: int

    @property
    def missing(self) -> int:
        """Planned and not stored."""
        return self.planned - self.stored


def stored_keys(store: Store, metrics: list[str]) -> set[str]:
    """Return the keys of every stored trial and of every stored job of these metrics: one listing a table."""
    keys = set(store.stored("trials"))
    for name in metrics:
        keys |= store.stored(f"metrics/{name}")
    return keys


def tally(plan: Plan, stored: set[str]) -> list[Tally]:
    """Count planned and stored jobs by kind: trials first, then metrics by name."""
    by_kind: dict[str, set[str]] = {"trials": set(trials_by_key(plan))}
    for name in metric_names(plan):
        by_kind[name] = set()
    for cell in plan.cells:
        for job in cell.metric_jobs:
            by_kind[job.metric.name].add(job.key)
    return [Tally(kind, len(keys), len(keys & stored)) for kind, keys in by_kind.items()]


def learn_costs(store: Store, plan: Plan) -> cost.Corrections:
    """Learn from the store's own timings how far cost guesses are off for the jobs of this plan."""
    jobs: dict[str, tuple[int, Trial | MetricJob]] = {}
    for cell in plan.cells:
        jobs.update({trial.key: (cell.index, trial) for trial in cell.trials})
        jobs.update({job.key: (cell.index, job) for job in cell.metric_jobs})
    pairs: dict[str, list[tuple[float, float]]] = {}
    for table in ["trials", *(f"metrics/{name}" for name in metric_names(plan))]:
        for key, seconds in _timings(store, table).items():
            if key in jobs:
                index, job = jobs[key]
                guess = cost.guess_seconds(plan.cells[index], job)
                pairs.setdefault(cost.kind_of(job), []).append((guess, seconds))
    return cost.learn_corrections(pairs)


def _timings(store: Store, table: str) -> Mapping[str, float]:
    rows = store.read_table(table, columns=["key", "seconds"])
    if "seconds" not in rows.column_names:
        return {}
    keys, seconds = rows.column("key").to_pylist(), rows.column("seconds").to_pylist()
    return {key: value for key, value in zip(keys, seconds, strict=True) if value is not None}
