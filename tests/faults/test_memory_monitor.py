"""A job that takes the memory of its node, under Ray's own memory monitor: its process is killed,
every other job is done.
"""

import subprocess
from pathlib import Path

import pytest

import phasegrid
from tests.faults.commands import command, environment, run
from tests.faults.comparing import assert_same_results, assert_whole

GIB = 2**30
ROOM = 3 * GIB  # above what is used now until Ray's monitor kills: a run itself needs less than one
GREED = 6 * GIB  # what the job takes, in slow steps, so that the monitor is there first
GREEDY = f'''\
"""Takes memory without end at width 3 while the file `trouble-is-on` is beside this one."""
import time
from dataclasses import dataclass
from pathlib import Path

from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    pass

def take():
    held = []
    while sum(map(len, held)) < {GREED}:
        held.append(b"1" * {GIB // 8})
        time.sleep(0.1)
    time.sleep(5)

def compute(models, data, rng):
    if models[0].classifier.in_features == 3 and Path(__file__).with_name("trouble-is-on").exists():
        take()
    return {{"value": float(models[0].classifier.in_features)}}

GREEDY = Metric(over="trial", args=Args, columns=(Column("value", "float64", "", "units"),), compute=compute)
'''
SWEEP = """\
schema: 1
name: greedy
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 2, stop: null}
seeds: 1
load: {param: model.width, values: [2, 3, 4]}
metrics: [accuracy, "greedy.py:GREEDY"]
run: {retries: {infra: 1}}
"""


def memory_of_this_machine() -> tuple[int, int]:
    """Return the bytes of memory, and those that are available."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    return found["MemTotal"], found["MemAvailable"]


@pytest.mark.slow
def test_what_takes_the_memory_of_its_node_is_killed_and_every_other_job_is_done(
    tmp_path: Path,
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    sweep = tmp_path / "greedy.yaml"
    sweep.write_text(SWEEP)
    undisturbed = run(sweep, tmp_path / "undisturbed", "--serial")
    assert undisturbed.returncode == 0, undisturbed.stderr
    total, available = memory_of_this_machine()
    if available < ROOM + GREED:
        pytest.skip(f"needs {(ROOM + GREED) / GIB:.0f} GiB of free memory")
    (tmp_path / "trouble-is-on").touch()
    threshold = (total - available + ROOM) / total
    disturbed = subprocess.run(
        command(sweep, tmp_path / "store", "-q", "--num-cpus", "2"),
        env=environment()
        | {
            "RAY_memory_usage_threshold": f"{threshold:.4f}",
            "RAY_memory_monitor_refresh_ms": "50",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert disturbed.returncode == 1, disturbed.stderr
    failures = phasegrid.open(str(tmp_path / "store")).failures()
    rows = phasegrid.open(str(tmp_path / "undisturbed")).metric("greedy.py:GREEDY")
    (greedy,) = rows.loc[rows["value"] == 3.0, "key"]
    assert set(failures["kind"]) == {"oom"}, failures.to_string()
    assert failures["exception"].str.contains("the memory of its node ran out").all()
    tries = failures["key"].value_counts()
    assert tries.pop(greedy) == 2
    assert (tries <= 1).all()  # what ran beside it may be killed in its stead, but not again
    named = [line for line in disturbed.stderr.splitlines() if line.startswith("failed ")]
    assert len(named) == 1
    assert named[0].startswith(f"failed greedy.py:GREEDY, cell 1, seed 0 ({greedy}): ")
    assert_same_results(tmp_path / "store", tmp_path / "undisturbed", {greedy})
    assert_whole(tmp_path / "store", {greedy})
