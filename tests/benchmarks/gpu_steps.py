"""The steps of ``python -m tests.benchmarks gpu``: each in a process of its own, JSON a line.

    python -m tests.benchmarks.gpu_steps STEP DEVICE [--tiny]

A step yields records as it goes, so that one that is ended early has still said what it knows. Data
are random images of CIFAR-10's shape: what they show costs nothing more. ``--tiny`` makes every
size so small that a CPU does a step in seconds; its times mean nothing.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phasegrid.declare import DatasetFacts
from phasegrid.estimates import Workload, passes
from phasegrid.jobs import Part, Trial
from phasegrid.keys import content_key
from phasegrid.models.counting import count_work
from phasegrid.plan.devices import device_of
from phasegrid.run.worker.queues import open_queues
from phasegrid.train.autotune import measure_choice
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Recipe
from tests.benchmarks import gpu_cells
from tests.benchmarks.bench_packing import Case, plain_way, random_data
from tests.benchmarks.gpu_kernels import deterministic, kernels, profile
from tests.benchmarks.gpu_lanes import lanes, ms_per_member
from tests.benchmarks.gpu_memory import memory
from tests.benchmarks.gpu_metrics import metrics, product

Record = Mapping[str, Any]
PRECISIONS = ("fp32", "tf32", "bf16")
SEEDS = 5
EPOCHS, NUM_TRAIN = 100, 50_000
"""A trial of the published grid, for trials an hour."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a step does."""

    widths: tuple[int, ...] = (8, 2, 64, 16, 128)
    narrow: tuple[int, ...] = (1, 2, 3, 5)
    pixels: int = 32
    batch: int = 128
    updates: tuple[int, int] = (20, 60)
    examples: int = 200
    wide: int = 64
    large_batch: int = 512


TINY = Sizes((2,), (1, 2), 8, 8, (2, 4), 16, 2, 16)


def correct(device: torch.device, sizes: Sizes) -> Iterator[Record]:
    """Train narrow networks for some updates here and on the CPU; compare the training loss."""
    for width in sizes.narrow:
        case = resnet(width, sizes)
        for strategy in ("loop", "fused", "merged"):
            losses = {}
            for place in (torch.device("cpu"), device):
                data = random_data(case, 4 * case.batch_size, str(place))
                trials = trials_of(case, 4, "fp32", 2)
                done = train_pack(trials, [data] * 2, device=place, strategy=strategy)
                losses[place.type] = [result.history[-1].train_loss for result in done]
            pairs = zip(losses["cpu"], losses[device.type], strict=True)
            worst = max(abs(a / b - 1) for a, b in pairs)
            yield {"width": width, "strategy": strategy, "off": worst, "loss": losses["cpu"][0]}


def updates(device: torch.device, sizes: Sizes) -> Iterator[Record]:
    """Time an update of the product, one member and five, in each precision, and its forecast."""
    _warm_up(device, sizes)
    for width in sizes.widths:
        for precision in PRECISIONS:
            for members in (1, SEEDS):
                yield _update(device, resnet(width, sizes), precision, members, sizes)


def _update(device: torch.device, case: Case, precision: str, members: int, sizes: Sizes) -> Record:
    data = [random_data(case, sizes.updates[0] * case.batch_size, str(device))] * members
    way = "loop" if members == 1 else "auto"
    seconds = []
    for count in sizes.updates:
        trials = trials_of(case, count, precision, members)
        train = partial(train_pack, trials, data, device=device, strategy=way)
        seconds.append(_timed(train, device))
    update_s = (seconds[1] - seconds[0]) / (sizes.updates[1] - sizes.updates[0]) / members
    return {
        "width": case.model.args["width"],
        "batch": case.batch_size,
        "precision": precision,
        "members": members,
        "ms_per_member": 1e3 * update_s,
        "forecast_ms": 1e3 * forecast_s(device, case, precision),
        "tflops": flops_of_update(case) / update_s / 1e12,
        "peak_gib": _peak_gib(device),
    }


def peers(device: torch.device, sizes: Sizes) -> Iterator[Record]:
    """Compare trials an hour with a careful plain script, its data on the device, and with one
    process per trial and a DataLoader.
    """
    _warm_up(device, sizes)
    for width in [w for w in sizes.widths if w <= 16]:
        case = resnet(width, sizes)
        data = random_data(case, sizes.updates[0] * case.batch_size, str(device))
        epoch = plain_way(case, data, 1, Recipe(batch_size=case.batch_size, epochs=1, lr=0.01))
        _timed(epoch, device)
        plain = _timed(epoch, device) / sizes.updates[0]
        best = plain
        for precision in ("bf16", "tf32"):
            choice, _ = measure_choice(trials_of(case, 1, precision, 1)[0], data, device)
            members = max(choice.lanes or 1, choice.stack_size or 1, SEEDS)
            ours = ms_per_member(device, [case] * members, precision, choice, sizes) / 1e3
            yield {
                "width": width,
                "precision": precision,
                "way": f"{choice.strategy}, {choice.lanes} lanes, stacks of {choice.stack_size}",
                "trials_an_hour": 3600 / (ours * EPOCHS * (NUM_TRAIN // sizes.batch)),
                "over_plain": plain / ours,
                "seconds": ours,
            }
            best = min(best, ours)
        script = Path(__file__).with_name("plain_loader.py")
        arguments = [device.type, str(width), str(sizes.batch), str(sizes.updates[1]), "2"]
        said = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
        )
        loader = float(json.loads(said.stdout.splitlines()[-1])["update_s"])
        yield {"width": width, "loader_s": loader, "plain_s": plain, "over_loader": loader / best}


STEPS: Mapping[str, tuple[Callable[[torch.device, Sizes], Iterator[Record]], float]] = {
    "correct": (correct, 40.0),
    "lanes": (lanes, 90.0),
    "peers": (peers, 80.0),
    "metrics": (metrics, 60.0),
    "product": (product, 20.0),
    "deterministic": (deterministic, 35.0),
    "profile": (profile, 35.0),
    "memory": (memory, 30.0),
    "kernels": (kernels, 60.0),
    "updates": (updates, 110.0),
    "cells": (lambda device, sizes: gpu_cells.cells(device, sizes == TINY), 240.0),
    "precision": (lambda device, sizes: gpu_cells.precision(device, sizes == TINY), 240.0),
}
"""Every step with its limit in seconds, the most important first; the first seven take 6 minutes
at most.
"""


def resnet(width: int, sizes: Sizes) -> Case:
    """Return the case of a ResNet18."""
    shape = (3, sizes.pixels, sizes.pixels)
    return Case(f"w{width}", Part("resnet18", 1, {"width": width}), shape, sizes.batch)


def trials_of(case: Case, count: int, precision: str, members: int) -> list[Trial]:
    """Return trials of `count` updates that differ in their seeds."""
    recipe = asdict(
        Recipe(
            lr=0.05,
            batch_size=case.batch_size,
            updates=count,
            stop=None,
            drop_last=True,
            precision=precision,  # type: ignore[arg-type]
        )
    )
    part = Part("random", 1, {})
    return [
        Trial(content_key("trial", 1, [case.name, seed]), part, case.model, recipe, seed)
        for seed in range(members)
    ]


def forecast_s(device: torch.device, case: Case, precision: str) -> float:
    """Forecast the seconds of an update, per member."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    work = workload(case)
    guess = passes(work, case.batch_size, case.batch_size, 3)
    return device_of(device.type, name).guess(guess, precision, is_recorded=True).seconds


def flops_of_update(case: Case) -> float:
    """Return the FLOPs of an update of one member."""
    return 3.0 * case.batch_size * workload(case).forward_flops


def workload(case: Case) -> Workload:
    """Return the size of the case's jobs."""
    counts = count_work(case.model, DatasetFacts(NUM_TRAIN, 10_000, case.shape, 10))
    assert counts is not None
    return Workload(NUM_TRAIN, 10_000, 10, *counts[:3], layers=counts.layers)


def _warm_up(device: torch.device, sizes: Sizes) -> None:
    """Let the libraries initialise themselves before anything is timed."""
    case = resnet(sizes.widths[0], sizes)
    data = random_data(case, case.batch_size, str(device))
    train_pack(trials_of(case, sizes.updates[0], "fp32", 1), [data], device=device)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, all its kernels done."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def main() -> None:
    open_queues()
    name, device = sys.argv[1], torch.device(sys.argv[2])
    for record in STEPS[name][0](device, TINY if "--tiny" in sys.argv else Sizes()):
        print(json.dumps({"step": name, **record}), flush=True)


if __name__ == "__main__":
    main()
