"""The sweeps of a soak: many jobs that do nothing over trials that are stored, and a few short
trainings.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phasegrid import load_sweep
from phasegrid.plan.plan import make_plan
from phasegrid.store.provenance import provenance
from phasegrid.store.schemas import trial_columns
from phasegrid.store.store import Store
from tests.faults.soak_counting import Planned

VALUES = 10  # no-op measurements of one trial
WIDTHS = 25
NOOP_FILE = Path(__file__).with_name("soak_noop.py")
NOOP_SWEEP = """\
schema: 1
name: noop-{lap}
dataset: {{name: digits}}
model: {{name: mlp}}
train: {{batch_size: 32, epochs: 1, stop: null}}
load: {{param: model.width, start: 1, stop: {widths}, num: {widths}, scale: linear}}
temperature: {{param: train.lr, start: 0.001, stop: 0.1, num: {rates}, scale: log}}
seeds: 1
metrics: [{metrics}]
"""
TINY_SWEEP = """\
schema: 1
name: tiny-{lap}
dataset: {{name: digits, fraction: 0.2}}
model: {{name: mlp, depth: 1}}
train: {{batch_size: 32, epochs: 800, stop: null}}
load: {{param: model.width, values: [4, 8]}}
temperature: {{param: train.lr, values: [0.01, 0.1]}}
seeds: [{first}, {second}]
metrics: [accuracy, distance, hessian: {{examples: 32, steps: 5}}, cka: {{examples: 64}}]
run: {{pack_size: 1}}
"""
TINY_JOBS = (
    8 * 3 + 2 * 4
)  # trainings with accuracy and Hessian; distance and CKA of the pair of each of four cells


@dataclass(frozen=True, slots=True)
class SoakSweep:
    """A sweep file, and the keys that it plans, by table."""

    path: Path
    planned: Planned


def noop_jobs(at_least: int) -> int:
    """Return how many jobs a no-op sweep has that is to have at least so many."""
    return VALUES * WIDTHS * math.ceil(at_least / (VALUES * WIDTHS))


def write_noop(folder: Path, lap: int, at_least: int) -> SoakSweep:
    """Write a no-op sweep over the same trials as those of the other laps."""
    values = range(VALUES * lap, VALUES * (lap + 1))
    metrics = ", ".join(f'{{"{NOOP_FILE}:NOOP": {{value: {float(value)}}}}}' for value in values)
    rates = noop_jobs(at_least) // (VALUES * WIDTHS)
    text = NOOP_SWEEP.format(lap=lap, widths=WIDTHS, rates=rates, metrics=metrics)
    return _written(folder / f"noop-{lap}.yaml", text)


def write_tiny(folder: Path, lap: int) -> SoakSweep:
    """Write a sweep of trainings of its own seeds."""
    text = TINY_SWEEP.format(lap=lap, first=2 * lap, second=2 * lap + 1)
    return _written(folder / f"tiny-{lap}.yaml", text)


def store_trials(storage: Path, sweep: SoakSweep) -> None:
    """Make a store that holds the trials of a no-op sweep as rows, so that only its measurements
    are missing.
    """
    store = Store.open(str(storage), create=True)
    about = {
        **provenance("cpu"), "seconds": 0.0, "outcome": "done", "epochs_run": 0, "pack_size": 1, "strategy": "loop",
    }  # fmt: skip
    for cell in make_plan(load_sweep(sweep.path)).cells:
        for trial in cell.trials:
            store.put_trial({**trial_columns(trial), **about}, [], {})


def _written(path: Path, text: str) -> SoakSweep:
    path.write_text(text)
    planned: dict[str, set[str]] = {}
    for table, key in _jobs(path):
        planned.setdefault(table, set()).add(key)
    return SoakSweep(path, planned)


def _jobs(path: Path) -> Iterator[tuple[str, str]]:
    for cell in make_plan(load_sweep(path)).cells:
        for trial in cell.trials:
            yield "trials", trial.key
        for job in cell.metric_jobs:
            yield f"metrics/{job.metric.name}", job.key
