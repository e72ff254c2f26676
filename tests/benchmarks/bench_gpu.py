"""Trials an hour on one GPU, the narrow half of sweeps/taxonomy/f03.yaml, against one process per
trial with a DataLoader.

A trial is that of the sweep: ResNet18, 100 epochs of 50,000 images 3x32x32. Of each sampled cell a
number of updates is timed and the rest extrapolated: five seeds as a pack, the way a worker trains
them (strategy and stack size measured, CUDA graphs), and one process with two loading processes
(`plain_loader`), one trial after another. Images are random: what they show costs nothing more.
Needs a GPU.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from phasegrid.jobs import Part, Trial
from phasegrid.keys import content_key
from phasegrid.train.autotune import measure_choice
from phasegrid.train.loop import train_pack
from phasegrid.train.recipe import Recipe
from tests.benchmarks.bench_packing import Case, random_data

WIDTHS, BATCHES = (1, 2, 4, 8, 16), (16, 128, 1024)
GRID_WIDTHS, GRID_BATCHES = (1, 2, 3, 4, 6, 8, 11, 16), 15
SEEDS, EPOCHS, NUM_TRAIN, LOADERS, TARGET = 5, 100, 50_000, 2, 10.0
UPDATES = (40, 240)
"""Ours is timed with so many updates and so many: the difference is free of what happens once."""


def main(
    device: str = "cuda",
    widths: tuple[int, ...] = WIDTHS,
    batches: tuple[int, ...] = BATCHES,
    updates: tuple[int, int] = UPDATES,
) -> list[str]:
    """Return seconds of a trial in each sampled cell, the ratio of trials an hour, and the hours of
    the narrow half.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return ["gpu: not run: torch sees no GPU here"]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    lines, ours_s, theirs_s = [], 0.0, 0.0
    for width in widths:
        for batch in batches:
            ours, how = _ours(device, width, batch, updates)
            theirs = _theirs(device, width, batch, updates[1] - updates[0])
            ours_s, theirs_s = ours_s + ours, theirs_s + theirs
            lines.append(
                f"{name}, a trial of ResNet18 w{width}, batch {batch}: ours {ours:.0f} s ({how}), a"
                f" process with a DataLoader {theirs:.0f} s | {theirs / ours:.1f}x"
            )
    cells = len(widths) * len(batches)
    hours = ours_s / cells * len(GRID_WIDTHS) * GRID_BATCHES * SEEDS / 3600
    ratio = theirs_s / ours_s
    lines.append(
        f"{name}, trials an hour over these cells: {3600 * cells / ours_s:.0f} against"
        f" {3600 * cells / theirs_s:.0f} | {ratio:.1f}x | reach {TARGET:.0f}x:"
        f" {'met' if ratio >= TARGET else 'missed'}; the trainings of the narrow half take about"
        f" {hours:.1f} h, extrapolated"
    )
    if device == "cuda":
        lines.append(
            f"{name}: peak memory of ours {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
        )
    return lines


def _updates_of_a_trial(batch: int) -> int:
    return EPOCHS * (NUM_TRAIN // batch)


def _ours(device: str, width: int, batch: int, updates: tuple[int, int]) -> tuple[float, str]:
    """Return seconds of one trial among five that train as a pack, and how they do."""
    case = Case(f"resnet18-{width}", Part("resnet18", 1, {"width": width}), (3, 32, 32), batch)
    place = torch.device(device)
    data = random_data(case, updates[0] * batch, "cpu").to(place)
    choice, _ = measure_choice(_trials(case, 1)[0], data, place)
    seconds = []
    for count in updates:
        trials = _trials(case, count)
        started = time.perf_counter()
        train_pack(
            trials,
            [data] * SEEDS,
            device=place,
            strategy=choice.strategy,
            stack_size=choice.stack_size,
        )
        seconds.append(time.perf_counter() - started)
    update_s = (seconds[1] - seconds[0]) / (updates[1] - updates[0]) / SEEDS
    once_s = max(0.0, seconds[0] / SEEDS - updates[0] * update_s)
    how = f"{choice.strategy}, stacks of {min(choice.stack_size, SEEDS)}"
    return once_s + _updates_of_a_trial(batch) * update_s, how


def _trials(case: Case, updates: int) -> list[Trial]:
    recipe = asdict(
        Recipe(lr=0.1, batch_size=case.batch_size, updates=updates, stop=None, drop_last=True)
    )
    part = Part("random", 1, {})
    return [
        Trial(content_key("trial", 1, [case.name, seed]), part, case.model, recipe, seed)
        for seed in range(SEEDS)
    ]


def _theirs(device: str, width: int, batch: int, updates: int) -> float:
    """Return seconds of one trial in a process of its own."""
    script = Path(__file__).with_name("plain_loader.py")
    arguments = [device, str(width), str(batch), str(updates), str(LOADERS)]
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return float(told["start_s"] + _updates_of_a_trial(batch) * told["update_s"])
