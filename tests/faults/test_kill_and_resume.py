"""A run that is killed and started again stores the same rows as one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.comparing import assert_same_results

SWEEP = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: EPOCHS, stop: null}
load: {param: model.width, values: [2, 4, 8, 16]}
temperature: {param: train.lr, values: [0.01, 0.05, 0.1]}
seeds: 2
metrics:
  - accuracy
  - distance
  - hessian: {examples: 32, steps: 5}
  - cka: {examples: 64}
"""


def write_sweep(folder: Path, epochs: int = 5) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(SWEEP.replace("EPOCHS", str(epochs)))
    return path


def command(sweep: Path, storage: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "phasegrid", "run", str(sweep), "--storage", str(storage), "--no-plot", *more,
    ]  # fmt: skip


def run(sweep: Path, storage: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(sweep, storage, *more), capture_output=True, text=True, timeout=300
    )


def wait_for_trials(storage: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a running process has stored some trials, by looking at its files."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((storage / "trials").glob("*/*.parquet"))) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"the run ended or stood still before it had stored {count} trials")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(write_sweep(folder), folder / "store", "--serial", "-q")
    assert done.returncode == 0, done.stderr
    return folder / "store"


def test_sigkill_and_run_again_gives_the_same_rows(tmp_path: Path, undisturbed: Path) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    process = subprocess.Popen(
        command(sweep, storage, "--serial", "-q"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        wait_for_trials(storage, 3, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = run(sweep, storage, "--serial", "-q")
    assert again.returncode == 0, again.stderr
    assert_same_results(storage, undisturbed)
    third = run(sweep, storage, "--serial", "-q")
    assert third.returncode == 0
    assert "0 to do" in third.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, undisturbed: Path, signum: signal.Signals, code: int
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    process = subprocess.Popen(
        command(sweep, storage, "--serial", "-q"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        wait_for_trials(storage, 2, process)
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Run the same command again" in said
    assert run(sweep, storage, "--serial", "-q").returncode == 0
    assert_same_results(storage, undisturbed)
