"""Chains of measurements and of stages that are killed in the middle and run again: the same rows
as of a run that was left alone.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.commands import num_stored, run, running, wait_until, wait_until_nothing_is_left
from tests.faults.comparing import assert_same_results, assert_whole

CHAIN = """\
schema: 1
name: chain
dataset: {name: digits, fraction: 0.3}
model: {name: mlp}
train: {epochs: 3, batch_size: 64, lr: 0.1, stop: null}
load: {param: model.width, values: [2, 4, 8]}
seeds: 2
metrics:
  - connectivity: {id: bend, epochs: 10, points: 5}
  - ensemble: {of: bend, points: 3}
  - plane: {of: bend, points: 25}
run: {pack_size: 1}
"""
STAGES = """\
schema: 1
name: stages
dataset: {name: digits, fraction: 0.3}
model: {name: mlp}
train: {epochs: 2, batch_size: 64, lr: 0.1, stop: null, keep: last}
stages:
  - {name: cycle, from: {stage: train, epoch: 1}, train: {epochs: 60}}
  - {name: settle, optimizer: kept, train: {epochs: 2, lr: 0.01}}
load: {param: model.width, values: [2, 4, 8]}
seeds: 2
metrics: [accuracy: {stage: cycle}, accuracy]
run: {pack_size: 1}
"""
NUM_CELLS, NUM_TRIALS = 3, 6


def in_the_chain(storage: Path) -> bool:
    """Say whether a curve is measured, and not every plane, which take seconds each."""
    return num_stored(storage, "metrics/connectivity") > 0


def in_the_second_stage(storage: Path) -> bool:
    """Say whether a trial of the second stage is stored beside all of the first."""
    return num_stored(storage) > NUM_TRIALS


CASES = [
    pytest.param(CHAIN, in_the_chain, "metrics/plane", NUM_CELLS, id="chain"),
    pytest.param(STAGES, in_the_second_stage, "trials", 3 * NUM_TRIALS, id="stages"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "reached", "last", "num"), CASES)
@pytest.mark.parametrize("how", [("--serial",), ("--num-cpus", "2")], ids=["serial", "ray"])
def test_a_run_killed_between_jobs_that_need_each_other_goes_on_to_the_same_rows(
    tmp_path: Path,
    text: str,
    reached: Callable[[Path], bool],
    last: str,
    num: int,
    how: tuple[str, ...],
) -> None:
    sweep, storage, alone = tmp_path / "sweep.yaml", tmp_path / "store", tmp_path / "alone"
    sweep.write_text(text)
    undisturbed = run(sweep, alone, "--serial")
    assert undisturbed.returncode == 0, undisturbed.stderr
    with running(sweep, storage, *how) as process:
        wait_until("it is in the middle", lambda: reached(storage), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        wait_until_nothing_is_left(process, within_s=60)
        assert num_stored(storage, last) < num
    assert process.returncode == -signal.SIGKILL
    again = run(sweep, storage, *how)
    assert again.returncode == 0, again.stderr
    assert_same_results(storage, alone)
    assert_whole(storage)
    third = run(sweep, storage, "--serial")
    assert third.returncode == 0
    assert "0 to do" in third.stderr
