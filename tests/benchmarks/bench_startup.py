"""What a user waits for: ``--help``, a plan of the largest figure, and a run up to its first
training step.

Whole processes by the clock, from start to end, medians. The parts of a run come from notes: the
driver's from wrapped functions, the worker's from a data set and a model that say when they are
used (first_step.py). Linux only.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.first_step_network import VARIABLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMMAND_ROUNDS, RUN_ROUNDS = 7, 3
SWEEP = f"""\
schema: 1
name: first
dataset: {{name: "{HERE / "first_step.py"}:DIGITS"}}
model: {{name: "{HERE / "first_step.py"}:MLP"}}
train: {{batch_size: 64, epochs: 1, stop: null}}
seeds: 1
"""
DRIVER = """\
import json, os, sys, time
notes = {"born": time.time()}
from phasegrid.cli import main as cli
from phasegrid.run import run as session
notes["imported"] = time.time()
if "--serial" not in sys.argv:
    from phasegrid.run.executors.ray import start as on_ray
    notes["ray imported"] = time.time()
    start = on_ray.start_ray
    def start_ray(*args):
        notes["ray"] = time.time()
        start(*args)
        notes["ray started"] = time.time()
    on_ray.start_ray = start_ray
try:
    cli.main()
finally:
    notes["torch in driver"] = "torch" in sys.modules
    with open(os.environ["DRIVER_NOTES"], "w") as file:
        json.dump(notes, file)
"""


def main() -> list[str]:
    """Return one line a command and one for each way to run."""
    phasegrid = shutil.which("phasegrid", path=str(Path(sys.executable).parent))
    assert phasegrid is not None
    figure = str(ROOT / "sweeps" / "taxonomy" / "f02.yaml")
    with tempfile.TemporaryDirectory() as folder:
        shown = {
            "phasegrid --help": ([phasegrid, "--help"], 0.5),
            "phasegrid plan sweeps/taxonomy/f02.yaml, empty store": (
                [phasegrid, "plan", figure, "--storage", f"{folder}/none"],
                1.0,
            ),
        }
        lines = [_command(what, command, limit) for what, (command, limit) in shown.items()]
        ways = {"--serial": ["--serial"], "Ray": []}
        return lines + [_first_step(Path(folder), way, more) for way, more in ways.items()]


def _command(what: str, command: list[str], limit_s: float) -> str:
    """Time a whole process, by the clock and in CPU seconds."""
    wall, cpu = [], []
    for _ in range(COMMAND_ROUNDS):
        before, started = _children_cpu_s(), time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        wall.append(time.perf_counter() - started)
        cpu.append(_children_cpu_s() - before)
    seconds = statistics.median(wall)
    return (
        f"start-up: {what} | nothing | {seconds:.2f} s by the clock, {statistics.median(cpu):.2f}"
        f" CPU s (medians of {COMMAND_ROUNDS}) | limit {limit_s} s:"
        f" {'met' if seconds <= limit_s else 'missed'}"
    )


def _first_step(folder: Path, way: str, more: list[str]) -> str:
    """Time a run from the start of its process to the first forward pass of training, and its
    parts.
    """
    runs = [_parts(folder / f"{way}{i}", more) for i in range(RUN_ROUNDS)]
    parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = parts.pop("total")
    said = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
    return (
        f"start-up: phasegrid run to the first training step, {way} | nothing | {total:.2f} s:"
        f" {said} (medians of {RUN_ROUNDS}) | no limit"
    )


def _parts(folder: Path, more: list[str]) -> dict[str, float]:
    folder.mkdir()
    (folder / "first.yaml").write_text(SWEEP)
    notes, driver = folder / "notes", folder / "driver.json"
    environment = os.environ | {
        VARIABLE: str(notes),
        "DRIVER_NOTES": str(driver),
        "PYTHONPATH": str(ROOT),
    }
    arguments = [
        "run",
        "first.yaml",
        "--storage",
        "store",
        "--no-plot",
        "-q",
        "--device",
        "cpu",
        *more,
    ]
    started = time.time()
    subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
    )
    at = json.loads(driver.read_text())
    seen: dict[str, float] = {}
    for line in notes.read_text().splitlines():
        name, _, when = line.partition(" ")
        seen.setdefault(name, float(when))
    parts = {"python and imports": at["imported"] - started}
    if more:
        parts["plan, store and torch"] = seen["load"] - at["imported"]
    else:
        assert not at["torch in driver"]
        parts["import of ray"] = at["ray imported"] - at["imported"]
        parts["plan and store"] = at["ray"] - at["ray imported"]
        parts["ray.init"] = at["ray started"] - at["ray"]
        parts["worker, from ray.init to the data set, its import of torch included"] = (
            seen["load"] - at["ray started"]
        )
    parts["data set"] = seen["loaded"] - seen["load"]
    parts["to the first step"] = seen["step"] - seen["loaded"]
    return parts | {"total": seen["step"] - started}


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print("\n".join(main()))
