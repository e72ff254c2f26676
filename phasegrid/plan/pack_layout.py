"""Decide once for the whole plan which jobs share a pack, and keep the decision in the store.

What is computed together is rounded together, and training amplifies rounding. So trainings, and
measurements that train something, keep their layout, however many of its jobs are stored, however
many workers there are, and whatever the timings in the store say. Jobs added to a plan later are
laid out among themselves, so that no stored job is done again. No torch.

On GPUs, jobs that were laid out for cores, with none of whose pack anything was done, are laid out
anew: a GPU would be idle with the few trainings of such a pack.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phasegrid.errors import StoreError
from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import Json
from phasegrid.packs import Pack
from phasegrid.plan.contents import Cell, Plan
from phasegrid.plan.packing import (
    PACK_SIZE,
    CostOf,
    is_laid_out,
    make_packs,
    measuring_packs,
    merged,
    start_depths,
    training_packs,
    trains_several,
)
from phasegrid.plan.shaping import Shaping, fill_gpus, shape_packs

VERSION = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys of jobs that share a pack, in order (trainings, or measurements of one metric), and
    their predicted seconds; whether they were laid out for GPUs. The measurements of one cell in it
    are computed together.
    """

    jobs: tuple[str, ...]
    cost_s: float
    for_gpus: bool = False


def is_wanted(packs: Sequence[Pack]) -> bool:
    """Say whether any of these packs depends on its layout; measurements that train nothing do
    not.
    """
    return any(is_laid_out(pack) for pack in packs)


def lay_out(
    plan: Plan,
    known: Sequence[Shape],
    cost: CostOf,
    workers: int,
    pack_size: int | None = None,
    shape: Shaping = shape_packs,
    stored: Collection[str] = (),
) -> list[Shape]:
    """Lay out the jobs of a plan that are in no known shape, for this many workers: cores, or GPUs
    with `fill_gpus` as their `shape`, which also do what is known and was not begun.
    """
    for_gpus = shape is fill_gpus
    if for_gpus:
        known = [s for s in known if s.for_gpus or not set(stored).isdisjoint(s.jobs)]
    laid_out = {key for shape in known for key in shape.jobs}
    if laid_out.issuperset(_keys_to_lay_out(plan)):
        return []
    new = make_packs(plan, laid_out, cost, pack_size or PACK_SIZE)
    packs = shape(new, workers, pack_size, start_depths(plan))
    return [Shape(pack.job_keys(), pack.cost_s, for_gpus) for pack in packs if is_laid_out(pack)]


def shaped(
    packs: Sequence[Pack],
    shapes: Sequence[Shape],
    plan: Plan,
    stored: Collection[str],
    cost: CostOf,
    pack_size: int | None = None,
) -> list[Pack]:
    """Return the packs of `make_packs`, which hold what is not stored, in the shapes of their
    layout.

    A training pack of more than `pack_size`, which may be smaller now, is cut; None: none is.
    """
    found: list[Pack] = []
    places = _places(plan)
    for shape in shapes:
        if all(key in stored or key not in places for key in shape.jobs):
            continue
        jobs = [places[key] for key in shape.jobs if key in places]
        members = [(cell, job) for cell, job in jobs if isinstance(job, Trial)]
        most = pack_size or max(1, len(members))
        for start in range(0, len(members), most):
            some = members[start : start + most]
            found += training_packs(some, stored, cost, shape.cost_s)
        measuring: list[Pack] = []
        for cell in {cell.index: cell for cell, _ in jobs}.values():
            mine = [job for c, job in jobs if c is cell and isinstance(job, MetricJob)]
            measuring += measuring_packs(cell, mine, stored, cost)
        found += [merged(measuring)] if measuring else []
    found += [pack for pack in packs if not is_laid_out(pack)]
    lost = {k for p in packs for k in p.job_keys()} - {k for p in found for k in p.job_keys()}
    assert not lost, f"packs lost {len(lost)} jobs on the way into their shapes"
    return found


def as_record(shapes: Sequence[Shape]) -> Json:
    """Return shapes that were laid out at once as JSON, to be kept."""
    packs: list[Json] = [{"cost_s": s.cost_s, "jobs": list(s.jobs)} for s in shapes]
    for_gpus = any(shape.for_gpus for shape in shapes)
    return {"version": VERSION, "packs": packs, **({"for": "gpus"} if for_gpus else {})}


def from_records(records: Iterable[Json]) -> list[Shape]:
    """Return the shapes of several records of `as_record`, one after the other. Of a job that is in
    several, or twice in one, the first counts, but one for GPUs counts instead of an earlier one
    for cores.

    Raises:
        StoreError: if a record is anything else, or of a newer version.
    """
    shapes: list[Shape] = []
    for record in records:
        shapes = with_new(shapes, _shapes_of(record))
    return shapes


def with_new(known: Sequence[Shape], new: Sequence[Shape]) -> list[Shape]:
    """Return known shapes and new ones, each job in one of them, as `from_records` says."""
    anew = {key for shape in new for key in shape.jobs if shape.for_gpus}
    kept = [shape if shape.for_gpus else _less(shape, anew) for shape in known]
    before = {key for shape in kept for key in shape.jobs}
    for shape in new:
        kept.append(_less(shape, before))
        before.update(kept[-1].jobs)
    return [shape for shape in kept if shape.jobs]


def _less(shape: Shape, keys: Collection[str]) -> Shape:
    return replace(shape, jobs=tuple(dict.fromkeys(key for key in shape.jobs if key not in keys)))


def _shapes_of(record: Json) -> list[Shape]:
    fields: Any = record
    try:
        if fields["version"] == VERSION:
            for_gpus = fields.get("for") == "gpus"
            return [
                Shape(tuple(map(str, pack["jobs"])), float(pack["cost_s"]), for_gpus)
                for pack in fields["packs"]
            ]
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise StoreError(
        "reading how the jobs of a sweep were laid out (meta/layouts): it is damaged, or was"
        " written by a newer phasegrid. Upgrade, or delete it: the next run then groups the"
        " missing jobs into new packs, whose results may differ by rounding"
    )


def _keys_to_lay_out(plan: Plan) -> set[str]:
    keys = {trial.key for cell in plan.cells for trial in cell.trials}
    keys.update(j.key for cell in plan.cells for j in cell.metric_jobs if trains_several(j))
    return keys


def _places(plan: Plan) -> dict[str, tuple[Cell, Trial | MetricJob]]:
    """Return every job that is laid out with its cell, the first that has it, by its key."""
    places: dict[str, tuple[Cell, Trial | MetricJob]] = {}
    for cell in plan.cells:
        for trial in cell.trials:
            places.setdefault(trial.key, (cell, trial))
        for job in cell.metric_jobs:
            if trains_several(job):
                places.setdefault(job.key, (cell, job))
    return places
