"""Scale: 1,000, 10,000 and 100,000 no-op jobs through a real Ray: time of each, and what the
driver's memory grows by.

The driver is the real one (`run_packs` with `Scheduler`, `RayExecutor`, a store in a folder, the
bar of a terminal), in a process of its own for each figure. Jobs come packed as `phasegrid run`
packs them, and one a pack: as many Ray tasks as jobs, as where every job is long. ``python -m
tests.benchmarks scale``, or ``python -m tests.benchmarks.bench_scale 1000 10000``. Linux only.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phasegrid.run.executors.base import PackResult
    from phasegrid.run.executors.ray.executor import RayExecutor

NUM_JOBS = (1_000, 10_000, 100_000)
NUM_CPUS = 2
LIMIT_GB = 1.0
WARMING = 4  # jobs of another sweep, done first: the workers' start and imports are paid once a run
HERE = Path(__file__).resolve().parent
SWEEP = """\
schema: 1
name: scale
dataset: {{name: digits}}
model: {{name: mlp}}
train: {{batch_size: 32, epochs: 1, stop: null}}
load: {{param: model.width, start: 1, stop: {widths}, num: {widths}, scale: linear}}
temperature: {{param: train.lr, start: 0.001, stop: 0.1, num: {rates}, scale: log}}
seeds: 1
metrics: [{{"{noop}:NOOP": {{value: {value}}}}}]
"""
WAYS = {"packed": 2.0, "one a pack": 0.0}  # how many predicted seconds small packs are joined up to


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: seconds by the clock and CPU seconds of the driver in its loop, and its resident
    bytes before planning, before the loop, and at most.
    """

    packs: int
    seconds: float
    cpu_s: float
    before: int
    planned: int
    peak: int


def main(sizes: tuple[int, ...] = NUM_JOBS) -> Iterator[str]:
    """Yield one line for each number of jobs and way of packing."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for each in (WARMING, size):
                _store_trials(Path(folder), each)
            for way in WAYS:
                yield _line(size, way, _in_own_process(Path(folder), size, way))


def drive(folder: Path, size: int, way: str) -> Figures:
    """Plan and do the no-op jobs of one way in this process."""
    import time

    from rich.console import Console

    from phasegrid import load_sweep
    from phasegrid.config.types import RunOptions
    from phasegrid.plan.contents import metric_names
    from phasegrid.plan.packing import make_packs
    from phasegrid.plan.plan import make_plan
    from phasegrid.run.executors.base import PackOptions
    from phasegrid.run.executors.ray.executor import RayExecutor
    from phasegrid.run.executors.ray.start import start_ray, stop_ray
    from phasegrid.run.loop import run_packs
    from phasegrid.run.progress_bar import Watch
    from phasegrid.run.scheduler import Scheduler
    from phasegrid.run.status import stored_keys
    from phasegrid.run.stopping import Stop
    from phasegrid.store.store import Store

    store = Store.open(str(folder / "store"))
    start_ray(None, NUM_CPUS)
    try:
        executor = RayExecutor(store.url, PackOptions())
        _warm(executor, folder)
        before = _resident()
        plan = make_plan(load_sweep(_sweep(folder, size, way)))
        stored = stored_keys(store, metric_names(plan))
        packs = make_packs(plan, stored, lambda _cell, _job: 0.001, measure_s=WAYS[way])
        scheduler = Scheduler(packs, stored)
        planned, started, cpu = _resident(), time.perf_counter(), time.process_time()
        with (
            open(os.devnull, "w") as nowhere,
            Watch(Console(file=nowhere, force_terminal=True)) as watch,
        ):
            run_packs(scheduler, executor, watch, Stop(), RunOptions(), lambda *_: None)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    finally:
        stop_ray()
    assert scheduler.counts.done == size, scheduler.counts
    return Figures(len(packs), seconds, cpu_s, before, planned, _resident("VmHWM"))


def _in_own_process(folder: Path, size: int, way: str) -> Figures:
    command = [sys.executable, "-m", "tests.benchmarks.bench_scale", "--drive", str(folder)]
    done = subprocess.run(
        [*command, str(size), way],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=HERE.parent.parent,
    )
    return Figures(**json.loads(done.stdout))


def _line(size: int, way: str, figures: Figures) -> str:
    grown = (figures.peak - figures.before) / 1e9
    in_loop = (figures.peak - figures.planned) / 1e9
    return (
        f"scale: {size} no-op jobs, {way} ({figures.packs} tasks) | nothing | {figures.seconds:.1f}"
        f" s, {1e3 * figures.seconds / size:.2f} ms a job ({1e3 * figures.cpu_s / size:.2f} ms CPU"
        f" of the driver); driver's peak {figures.peak / 1e9:.2f} GB, grown by {grown:.2f} GB, in"
        f" its loop by {in_loop:.2f} GB | limit {LIMIT_GB} GB:"
        f" {'met' if grown < LIMIT_GB else 'missed'}; load of the machine {os.getloadavg()[0]:.1f}"
    )


def _sweep(folder: Path, size: int, way: str) -> Path:
    """Write the sweep of one way; the ways share their trials and differ in what they measure."""
    widths = math.isqrt(size)
    while size % widths:
        widths -= 1
    path = folder / f"{way.replace(' ', '-')}.yaml"
    value = -1.0 if size == WARMING else float(list(WAYS).index(way))
    path.write_text(
        SWEEP.format(widths=widths, rates=size // widths, noop=HERE / "noop.py", value=value)
    )
    return path


def _store_trials(folder: Path, size: int) -> None:
    """Make a store that holds the trials as rows, so that only the no-op measurements are
    missing.
    """
    from phasegrid import load_sweep
    from phasegrid.plan.plan import make_plan
    from phasegrid.store.provenance import provenance
    from phasegrid.store.schemas import trial_columns
    from phasegrid.store.store import Store

    store = Store.open(str(folder / "store"), create=True)
    about = {**provenance("cpu"), "seconds": 0.0, "outcome": "done", "epochs_run": 0}
    for cell in make_plan(load_sweep(_sweep(folder, size, next(iter(WAYS))))).cells:
        for trial in cell.trials:
            store.put_trial({**trial_columns(trial), **about}, [], {}, {})


def _warm(executor: "RayExecutor", folder: Path) -> None:
    from phasegrid import load_sweep
    from phasegrid.plan.packing import make_packs
    from phasegrid.plan.plan import make_plan
    from phasegrid.run.status import stored_keys
    from phasegrid.store.store import Store

    plan = make_plan(load_sweep(_sweep(folder, WARMING, "one a pack")))
    stored = stored_keys(Store.open(executor.storage), [])
    packs = make_packs(plan, stored, lambda _cell, _job: 0.001, measure_s=0.0)
    for pack in packs:
        executor.submit(pack)
    endings: list[PackResult] = []
    while len(endings) < len(packs):
        endings += executor.wait(1.0)
    assert all(outcome.status != "failed" for e in endings for outcome in e.outcomes), endings


def _resident(field: str = "VmRSS") -> int:
    """Return the resident bytes of this process, now or (``VmHWM``) at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        print(json.dumps(asdict(drive(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))))
    else:
        for line in main(tuple(int(text) for text in sys.argv[1:]) or NUM_JOBS):
            print(line, flush=True)
