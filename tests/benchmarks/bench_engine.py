"""Engine: cost of a no-op job from plan to stored row against a Ray Tune trial; time and memory of
planning.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NUM_JOBS = 10_000
NUM_TUNE = 60
HERE = Path(__file__).resolve().parent
NOOP_SWEEP = f"""\
schema: 1
name: noop
dataset: {{name: digits}}
model: {{name: mlp}}
train: {{batch_size: 32, epochs: 1, stop: null}}
load: {{param: model.width, start: 1, stop: 100, num: 100, scale: linear}}
temperature: {{param: train.lr, start: 0.001, stop: 0.1, num: 100, scale: log}}
seeds: 1
metrics: ["{HERE / "noop.py"}:NOOP"]
"""
PLAN_SWEEP = """\
schema: 1
name: large
dataset: {name: cifar10}
model: {name: resnet18}
load: {param: model.width, start: 1, stop: 200, num: 200, scale: linear}
temperature: {param: train.lr, start: 0.0001, stop: 1.0, num: 100, scale: log}
seeds: 5
metrics: [accuracy, distance, hessian, cka, connectivity, simplex]
"""


def main() -> list[str]:
    """Return one line for each figure."""
    return [*planning(), *noop_jobs()]


def planning() -> list[str]:
    """Plan 20,000 cells x 5 seeds with all metric jobs in a fresh process; its peak memory is its
    own.
    """
    code = (
        "import json, resource, sys, time\nstarted = time.perf_counter()\nfrom phasegrid import"
        " load_sweep\nfrom phasegrid.plan.contents import all_keys\n"
        "from phasegrid.plan.packing import make_packs\n"
        "from phasegrid.plan.plan import make_plan\nplan = make_plan(load_sweep(sys.argv[1]))\n"
        "planned = time.perf_counter() - started\npacks = make_packs(plan, set(), lambda cell, job: 1.0)\nprint(json.dumps([planned,"
        " time.perf_counter() - started, len(all_keys(plan)), len(packs),"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "large.yaml"
        sweep.write_text(PLAN_SWEEP)
        run = subprocess.run(
            [sys.executable, "-c", code, str(sweep)], capture_output=True, text=True, check=True
        )
    planned, packed, keys, packs, peak_kb = json.loads(run.stdout)
    return [
        f"planning 100000 trials with {keys - 100_000} metric jobs: {planned:.1f} s, {packed:.1f} s"
        f" with packing into {packs} packs (limit 10 s); peak memory {peak_kb / 2**20:.2f} GiB"
        " (limit 2 GB)"
    ]


def noop_jobs() -> list[str]:
    """Run 10,000 no-op metric jobs through a real Ray, and no-op Ray Tune trials in the same
    Ray.
    """
    from phasegrid.run.executors.ray.executor import RayExecutor
    from phasegrid.run.executors.ray.start import start_ray, stop_ray
    from phasegrid.store.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store, plan = _prepared(Path(folder))
        start_ray(None)
        try:
            from phasegrid.run.executors.base import PackOptions

            executor = RayExecutor(store.url, PackOptions())
            _warm(executor, plan, store)
            started = time.perf_counter()
            _run(plan, store, executor)
            ours = (time.perf_counter() - started) / (NUM_JOBS - 2)
            rows = len(Store.open(store.url).stored(f"metrics/{_metric_name(plan)}"))
            tune = _tune_trial_seconds(Path(folder))
        finally:
            stop_ray()
    assert rows == NUM_JOBS, rows
    return [
        f"no-op job, plan to stored row: {ours * 1e3:.2f} ms each over {NUM_JOBS} (limit 3 ms)",
        (
            f"no-op job against a Ray Tune trial ({tune * 1e3:.0f} ms over {NUM_TUNE}):"
            f" {tune / ours:.0f}x (goal 40x)"
        ),
    ]


def _prepared(folder: Path) -> tuple[Any, Any]:
    """Make a store that holds the plan's trials as rows, so that only the no-op measurements are
    missing.
    """
    from phasegrid import load_sweep
    from phasegrid.plan.plan import make_plan
    from phasegrid.store.provenance import provenance
    from phasegrid.store.schemas import trial_columns
    from phasegrid.store.store import Store

    sweep = folder / "noop.yaml"
    sweep.write_text(NOOP_SWEEP)
    plan = make_plan(load_sweep(sweep))
    store = Store.open(str(folder / "store"), create=True)
    about = {
        **provenance("cpu"),
        "created_at": datetime.now(UTC),
        "seconds": 0.0,
        "outcome": "done",
        "epochs_run": 0,
    }
    for cell in plan.cells:
        for trial in cell.trials:
            store.put_trial({**trial_columns(trial), **about}, [], {}, {})
    return store, plan


def _metric_name(plan: Any) -> str:
    return str(plan.cells[0].metric_jobs[0].metric.name)


def _warm(executor: Any, plan: Any, store: Any) -> None:
    """Start the workers and their imports: a run of hours pays this once."""
    from phasegrid.plan.packing import make_packs

    stored = store.stored("trials")
    for pack in make_packs(plan, stored, lambda _cell, _job: 3.0)[:2]:
        executor.submit(pack)
    ended = 0
    while ended < 2:
        ended += len(executor.wait(1.0))


def _run(plan: Any, store: Any, executor: Any) -> None:
    from phasegrid.config.types import RunOptions
    from phasegrid.plan.contents import metric_names
    from phasegrid.plan.packing import make_packs
    from phasegrid.run.loop import run_packs
    from phasegrid.run.scheduler import Scheduler
    from phasegrid.run.status import stored_keys
    from phasegrid.run.stopping import Stop

    stored = stored_keys(store, metric_names(plan))
    packs = make_packs(plan, stored, lambda _cell, _job: 0.001)
    scheduler = Scheduler(packs, stored)
    run_packs(scheduler, executor, lambda *_: None, Stop(), RunOptions(), lambda *_: None)
    assert scheduler.counts.failed == 0, scheduler.failures


def _tune_trial_seconds(folder: Path) -> float:
    """Return the seconds of one no-op Ray Tune trial with its defaults, in the Ray that is
    running.
    """
    import os

    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0")
    from ray import tune

    def noop(config: dict[str, Any]) -> None:
        tune.report({"value": config["value"]})

    tuner = tune.Tuner(
        noop,
        param_space={"value": tune.grid_search(list(range(NUM_TUNE)))},
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    seconds = (time.perf_counter() - started) / NUM_TUNE
    assert results.num_errors == 0
    return seconds


if __name__ == "__main__":
    for line in main():
        print(line)
