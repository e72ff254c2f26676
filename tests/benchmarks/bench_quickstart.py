"""The quickstart sweep, all of it, against a folder of scripts: one plain-torch process per trial,
one per cell for what is between trials.

Ours is ``phasegrid run sweeps/quickstart.yaml --no-plot``, a fresh process with its Ray and as many
workers as cores, into an empty store: 280 trainings and all their metrics. The other way is
plain_scripts.py, as many fresh processes at a time as there are cores, for a sample of cells: every
`EVERY`th, whose mean is taken for all 56. Half of the sample is done before our run and half after.
By the clock, start-up included on both sides; memory is the largest sum over all processes at one
time.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from phasegrid import load_sweep
from phasegrid.plan.plan import make_plan
from tests.benchmarks.contest import descendants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
EVERY, SEEDS, TARGET = 4, 5, 5.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What some work took: seconds by the clock, CPU seconds and the peak memory of all its
    processes.
    """

    clock_s: float
    cpu_s: float
    peak_gib: float


def main() -> list[str]:
    """Return the ratio of the whole sweep, the other side extrapolated from its sample."""
    cells = cells_of_the_sweep()
    sample = cells[::EVERY]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = _watched(lambda: _scripts(sample[::2], folder))
        ours = _watched(lambda: _run_sweep(folder))
        after = _watched(lambda: _scripts(sample[1::2], folder))
    share, cores = len(cells) / len(sample), os.cpu_count()
    clock_s, cpu_s = before.clock_s + after.clock_s, before.cpu_s + after.cpu_s
    ratio = share * clock_s / ours.clock_s
    return [
        f"quickstart sweep in full, {cores} cores | fresh plain-torch processes, {cores} at a time,"
        f" {SEEDS} trials and 1 for pairs and simplex a cell; {len(sample)} of {len(cells)} cells"
        f" run ({clock_s:.0f} s), the rest extrapolated | {ratio:.1f}x by the clock"
        f" ({share * clock_s:.0f} s / {ours.clock_s:.0f} s), {share * cpu_s / ours.cpu_s:.1f}x in"
        f" CPU time ({share * cpu_s:.0f} s / {ours.cpu_s:.0f} s) | reach {TARGET}x:"
        f" {'met' if ratio >= TARGET else 'missed'}; peak memory of all processes"
        f" {ours.peak_gib:.2f} GiB, theirs {max(before.peak_gib, after.peak_gib):.2f} GiB"
    ]


def cells_of_the_sweep() -> list[tuple[int, int]]:
    """List width and batch size of every cell, in the order of the sweep."""
    plan = make_plan(load_sweep(ROOT / "sweeps" / "quickstart.yaml"))
    recipes = [(cell.trials[0].model.args, cell.trials[0].recipe) for cell in plan.cells]
    return [(int(str(args["width"])), int(str(recipe["batch_size"]))) for args, recipe in recipes]


def _scripts(cells: list[tuple[int, int]], folder: Path) -> None:
    """Do cells by scripts: a process per trial, then one per cell; a pool of as many as there are
    cores.
    """

    def script(*arguments: object) -> None:
        command = [
            sys.executable,
            str(HERE / "plain_scripts.py"),
            *map(str, arguments),
            str(folder),
        ]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        trials = [
            pool.submit(script, "trial", width, batch_size, seed)
            for width, batch_size in cells
            for seed in range(SEEDS)
        ]
        for trial in trials:
            trial.result()
        measured = [pool.submit(script, "cell", width, size, SEEDS) for width, size in cells]
        for cell in measured:
            cell.result()


def _run_sweep(folder: Path) -> None:
    command = [sys.executable, "-m", "phasegrid", "run", str(ROOT / "sweeps" / "quickstart.yaml")]
    options = ["--storage", str(folder / "store"), "--no-plot", "-q"]
    subprocess.run([*command, *options], check=True, cwd=folder, capture_output=True)


def _watched(work: Callable[[], None]) -> Cost:
    """Do something in child processes and look at them every 0.2 seconds: what a process does after
    the last look is lost.
    """
    seen: dict[int, float] = {}
    peak, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            family = descendants(os.getpid())
            seen.update({pid: cpu_s for pid, (cpu_s, _) in family.items()})
            peak = max(peak, sum(gib for _, gib in family.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        work()
    finally:
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    return Cost(seconds, sum(seen.values()), peak)


if __name__ == "__main__":
    print("\n".join(main()))
