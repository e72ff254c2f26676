"""Split packs: select what is left of a pack when some of its jobs have ended."""

from collections.abc import Collection
from dataclasses import replace

from phasegrid.keys import content_key
from phasegrid.packs import Pack, needs_of
from phasegrid.plan.packing import is_laid_out
from phasegrid.train.compat import parted


def is_alone(pack: Pack) -> bool:
    """Say whether a pack computes a single job; then that job can be blamed for a lost process."""
    if len(pack.job_keys()) > 1:
        return False
    layout = pack.layout
    return layout is None or (len(layout.trials) <= 1 and all(len(g) <= 1 for g in layout.groups))


def suspects(pack: Pack) -> list[list[str]]:
    """Return the keys of a lost pack in the parts that are tried next, to find the job to blame:
    each job alone, but first halves where trainings of several kinds share the pack, or
    measurements that train of several cells.
    """
    if pack.kind == "train":
        return [[trial.key for trial in part] for part in parted(pack.trials)]
    cells = pack.layout.groups if pack.layout and is_laid_out(pack) else ()
    if len(cells) <= 1:
        return [[key] for key in pack.job_keys()]
    first = {job.key for cell in cells[: len(cells) // 2] for job in cell}
    parts = [[key for key in pack.job_keys() if (key in first) == half] for half in (True, False)]
    return [part for part in parts if part]


def torn_out(pack: Pack, keys: Collection[str]) -> Pack:
    """Return a pack with only these jobs, computed apart from those that they were laid out
    with.
    """
    return replace(part_of(pack, keys), layout=None)


def without(pack: Pack, failed: str) -> Pack:
    """Return a pack whose layout has no job that needs one that failed."""
    if pack.layout is None:
        return pack
    groups = (tuple(j for j in group if failed not in j.needs) for group in pack.layout.groups)
    trials = tuple(trial for trial in pack.layout.trials if failed not in trial.needs)
    return replace(pack, layout=replace(pack.layout, groups=tuple(groups), trials=trials))


def part_of(pack: Pack, keys: Collection[str]) -> Pack:
    """Return a pack with only these jobs, computed in the shape of the original layout."""
    wanted = set(keys)
    share = pack.cost_s * len(wanted) / max(1, len(pack.job_keys()))
    key = content_key("pack", 1, [k for k in pack.job_keys() if k in wanted])
    if pack.kind == "train":
        trials = tuple(trial for trial in pack.trials if trial.key in wanted)
        return replace(pack, key=key, trials=trials, needs=needs_of(trials), cost_s=share)
    jobs = tuple(job for job in pack.metric_jobs if job.key in wanted)
    groups = tuple(
        group
        for group in (pack.layout.groups if pack.layout else ())
        if any(job.key in wanted for job in group)
    )
    involved = [*jobs, *(job for group in groups for job in group)]
    about = {name for job in involved for name in job.trials}
    return replace(
        pack,
        key=key,
        metric_jobs=jobs,
        trials=tuple(trial for trial in pack.trials if trial.key in about),
        needs=needs_of(involved),
        cost_s=share,
        layout=replace(pack.layout, groups=groups) if pack.layout else None,
    )
