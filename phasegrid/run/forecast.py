"""Forecast how long the missing jobs of a plan will take, from the store's timings, with an
uncertainty. No torch, no ray.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from phasegrid.packs import Pack
from phasegrid.plan import cost
from phasegrid.plan.contents import Plan, metric_names
from phasegrid.plan.devices import Device
from phasegrid.plan.disk import left_bytes
from phasegrid.plan.gpu_memory import pack_bytes
from phasegrid.plan.pack_layout import Shape, is_wanted, lay_out, shaped, with_new
from phasegrid.plan.packing import PACK_SIZE, make_packs
from phasegrid.plan.shaping import shaping_for
from phasegrid.run.makespan import simulate_makespan


@dataclass(frozen=True, slots=True)
class Span:
    """Expected seconds, with a range from `low` to `high`: at its ends, every job of a kind
    deviates as much as the worst tenth of the timed jobs.
    """

    expected: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: "Span") -> "Span":
        """Return the forecast of doing one after the other."""
        return Span(self.expected + other.expected, self.low + other.low, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The work of a run on `device` (per core, or per GPU): seconds of each kind of job
    (``trials``, and metrics by name), their sum, and the time until the last job ends on `slots`
    workers under the real policy.

    `memory_bytes` is the largest pack's on a GPU, `disk_bytes` what the jobs leave in the store;
    both are None if a plug-in does not say. `error` is that of the forecast itself, by the timings
    in the store.
    """

    device: Device
    kinds: dict[str, Span]
    work: Span
    makespan: Span
    slots: int
    num_packs: int
    num_timings: int
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    error: cost.TimingError | None = None


def forecast(
    plan: Plan,
    stored: Collection[str],
    corrections: cost.Corrections,
    slots: int,
    pack_size: int | None,
    known: Sequence[Shape] = (),
) -> Forecast:
    """Forecast a run of everything that is not in `stored` on `slots` workers of the device of
    `corrections`; `known` are the packs that are already laid out.
    """
    seconds = cost.predictor(corrections)
    kinds = {"trials": Span(), **dict.fromkeys(metric_names(plan), Span())}
    for cell, job in plan.jobs():
        if job.key not in stored:
            kind = cost.kind_of(job)
            span = _span(seconds(cell, job), corrections.of(kind))
            kinds["trials" if kind == "trial" else kind] += span
    work = sum(kinds.values(), Span())
    packs = make_packs(plan, stored, seconds, pack_size or PACK_SIZE)
    if is_wanted(packs):
        shape = shaping_for(corrections.device)
        new = lay_out(plan, known, seconds, slots, pack_size, shape, stored)
        packs = shaped(packs, with_new(known, new), plan, stored, seconds, pack_size)
    return Forecast(
        corrections.device,
        kinds,
        work,
        _makespan(packs, stored, slots, work),
        slots,
        len(packs),
        sum(correction.count for correction in corrections.kinds.values()),
        _peak_bytes(plan, packs, corrections.device),
        _disk_bytes(plan, stored),
        corrections.error,
    )


def _peak_bytes(plan: Plan, packs: Sequence[Pack], device: Device) -> int | None:
    if device.kind == "cpu":
        return None
    works = {trial.key: cell.work for cell in plan.cells for trial in cell.trials}
    needed = [pack_bytes(pack, works, device.memory_bytes) for pack in packs]
    known = [size for size in needed if size is not None]
    return max(known, default=0) if len(known) == len(needed) else None


def _disk_bytes(plan: Plan, stored: Collection[str]) -> int | None:
    left = [left_bytes(cell, job) for cell, job in plan.jobs() if job.key not in stored]
    known = [size for size in left if size is not None]
    return sum(known) if len(known) == len(left) else None


def _span(expected: float, correction: cost.Correction) -> Span:
    return Span(expected, expected * correction.low, expected * correction.high)


def _makespan(packs: Sequence[Pack], stored: Collection[str], slots: int, work: Span) -> Span:
    """Simulate once; a factor on the times of all jobs scales the whole in proportion."""
    expected = simulate_makespan(packs, stored, slots)
    share = expected / work.expected if work.expected else 0.0
    return Span(expected, share * work.low, share * work.high)
