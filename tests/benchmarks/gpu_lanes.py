"""The step ``lanes`` of the script for a GPU: an update of a ResNet18 by every way to share a card.

Ways: lone trainings in lanes, with torch's kernels and with merged ones, and one stack. Then a pack
of unlike trainings with the choice that a run makes, timed and counted in trials an hour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.train.autotune import measure_choice, to_record
from phasegrid.train.loop import train_pack
from phasegrid.train.stack_plan import StackPlan
from tests.benchmarks.bench_packing import Case, random_data

if TYPE_CHECKING:
    from tests.benchmarks.gpu_steps import Record, Sizes


@dataclass(frozen=True, slots=True)
class Way:
    """How members of one kind are trained."""

    name: str
    plan: StackPlan
    members: int


def ways(lanes: int) -> list[Way]:
    """Return the ways to compare, the most promising first."""
    return [
        Way(f"{lanes} lanes, merged", StackPlan("merged", 1, lanes), lanes),
        Way(f"{lanes} lanes", StackPlan("loop", 1, lanes), lanes),
        Way("1 lane", StackPlan("loop", 1, 1), 1),
        Way("5 as one stack", StackPlan("fused", 5, 1), 5),
        Way("5 as one stack, merged", StackPlan("merged", 5, 1), 5),
    ]


def lanes(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Time an update per member by every way, in the precisions that are worth it."""
    from tests.benchmarks.gpu_steps import flops_of_update, forecast_s, resnet

    wide_lanes = {128: 4, 64: 8}
    for precision in ("bf16", "tf32"):
        for width in sizes.widths:
            case = resnet(width, sizes)
            found = ways(wide_lanes.get(width, 20) if sizes.pixels > 8 else 2)
            for way in found if precision == "bf16" else found[:2]:
                took = ms_per_member(device, [case] * way.members, precision, way.plan, sizes)
                yield {
                    "width": width,
                    "precision": precision,
                    "way": way.name,
                    "ms_per_member": took,
                    "forecast_ms": 1e3 * forecast_s(device, case, precision),
                    "tflops": flops_of_update(case) / took / 1e9,
                    "peak_gib": _peak_gib(device),
                }
    yield from _chosen(device, sizes)


def _chosen(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Time a pack of unlike trainings with what a run chooses for each kind."""
    from tests.benchmarks.gpu_steps import resnet, trials_of

    narrow = [width for width in sizes.widths if width <= 16]
    cases = [
        replace(resnet(width, sizes), batch_size=batch)
        for width in narrow
        for batch in (sizes.batch // 2, sizes.batch)
    ]
    plans = {}
    for case in cases:
        data = random_data(case, 4 * case.batch_size, str(device))
        choice, timings = measure_choice(trials_of(case, 1, "bf16", 1)[0], data, device)
        plans[id(case)] = choice
        yield {
            "width": case.model.args["width"],
            "batch": case.batch_size,
            **_said(choice, timings),
        }
    members = [case for case in cases for _ in range(5)]
    chosen = [plans[id(case)] for case in members]
    yield {
        "pack": [f"{case.name} batch {case.batch_size}" for case in cases],
        "ms_per_member": ms_per_member(device, members, "bf16", chosen, sizes),
    }


def _said(choice: StackPlan, timings: Any) -> dict[str, Any]:
    record: Any = to_record(choice, timings)
    return {"choice": record["choice"], "timings": record["timings"]}


def ms_per_member(
    device: torch.device,
    members: Sequence[Case],
    precision: str,
    plans: StackPlan | Sequence[StackPlan],
    sizes: "Sizes",
) -> float:
    """Return the milliseconds of an update per member: the difference of a shorter and a longer
    training, without what begins and ends both.
    """
    from tests.benchmarks.gpu_steps import _timed, trials_of

    by_trial = [plans] * len(members) if isinstance(plans, StackPlan) else list(plans)
    data: dict[int, Dataset] = {
        id(case): random_data(case, sizes.updates[0] * case.batch_size, str(device))
        for case in {id(case): case for case in members}.values()
    }
    seconds, counts = [], (sizes.updates[0], 5 * sizes.updates[0])
    for count in counts:
        trials = [
            replace(trials_of(case, count, precision, 1)[0], seed=i, key=f"{case.name}-{i}")
            for i, case in enumerate(members)
        ]
        sets = [data[id(case)] for case in members]
        seconds.append(
            _timed(lambda: train_pack(trials, sets, device=device, plans=by_trial), device)  # noqa: B023
        )
    updates = (counts[1] - counts[0]) * len(members)
    return 1e3 * (seconds[1] - seconds[0]) / updates


def _peak_gib(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    peak = torch.cuda.max_memory_reserved(device) / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return peak
