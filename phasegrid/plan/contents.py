"""List the content of a plan: its keys, trials and metrics, and the key of the whole plan."""

from phasegrid.jobs import Plan, Trial
from phasegrid.keys import content_key


def plan_hash(plan: Plan) -> str:
    """Return the key of a plan: it changes exactly when one of its jobs does."""
    keys = sorted(all_keys(plan))
    return content_key("plan", 1, keys)


def all_keys(plan: Plan) -> set[str]:
    """Return the keys of every trial and metric job of a plan."""
    keys = {trial.key for cell in plan.cells for trial in cell.trials}
    keys.update(job.key for _, job in plan.metric_jobs())
    return keys


def trials_by_key(plan: Plan) -> dict[str, Trial]:
    """Return every distinct trial of a plan."""
    return {trial.key: trial for cell in plan.cells for trial in cell.trials}


def metric_names(plan: Plan) -> list[str]:
    """Return the names of the metrics of a plan, sorted."""
    return sorted({job.metric.name for _, job in plan.metric_jobs()})
