"""The step ``memory`` of the script for a GPU: what trainings in lanes take, beside the planner's
estimate.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from phasegrid.plan.gpu_memory import lane_bytes
from phasegrid.run.worker.lane_memory import memory_of
from phasegrid.train.loop import train_pack
from phasegrid.train.stack_plan import StackPlan
from tests.benchmarks.bench_packing import random_data

if TYPE_CHECKING:
    from tests.benchmarks.gpu_steps import Record, Sizes

LANES = 4


def memory(device: torch.device, sizes: "Sizes") -> "Iterator[Record]":
    """Train in lanes; tell the MiB of a lane, and how many times as much the estimate is."""
    from tests.benchmarks.gpu_steps import resnet, trials_of, workload

    for precision in ("bf16", "fp32"):
        for width in sizes.widths:
            case = resnet(width, sizes)
            trials = trials_of(case, sizes.updates[0], precision, LANES)
            data = random_data(case, sizes.updates[0] * case.batch_size, str(device))
            found = memory_of(device, 1.0)
            if found is not None:
                found.begin()
            plans = [StackPlan("loop", 1, LANES)] * LANES
            train_pack(trials, [data] * LANES, device=device, plans=plans, lanes=LANES)
            took = None if found is None else found.taken_bytes() / LANES
            estimate = lane_bytes(trials[0], workload(case))
            yield {
                "width": width,
                "precision": precision,
                "lanes": LANES,
                "mib_of_a_lane": None if took is None else took / 2**20,
                "estimated_mib": estimate / 2**20,
                "estimate_over_measured": None if not took else estimate / took,
            }
