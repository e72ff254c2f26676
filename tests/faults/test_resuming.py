"""A long pack that is preempted goes on from its last snapshot and ends where it would have, bit
for bit.

The command is a user's, but that snapshots are saved three times a second, not once a minute
(`soak_command`).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phasegrid.store.store import Store
from tests.faults import commands
from tests.faults.commands import run, running, wait_until, what_it_said, workers_at_work
from tests.faults.comparing import assert_same_results, assert_whole

SWEEP = """\
schema: 1
name: long
dataset: {name: digits, fraction: 0.3}
model: {name: mlp, depth: 1, width: 8}
train: {batch_size: 16, epochs: 1500, stop: null}
load: {param: model.width, values: [8]}
seeds: 3
"""
SEEDS = 3


def with_many_snapshots(sweep: Path, storage: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "tests.faults.soak_command", "run", str(sweep), "--storage", str(storage), "--no-plot",
        "--strategy", "fused", *more,
    ]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def often() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "command", with_many_snapshots)
        yield


@pytest.fixture(scope="module")
def undisturbed(often: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(write_sweep(folder), folder / "store", "--serial")
    assert done.returncode == 0, done.stderr
    return folder / "store"


def write_sweep(folder: Path) -> Path:
    path = folder / "long.yaml"
    path.write_text(SWEEP)
    return path


def saved(storage: Path) -> dict[str, list[float]]:
    """Return, for each trial that has a snapshot, the seconds that its epochs up to there took."""
    found: dict[str, list[float]] = {}
    if not (storage / "snapshots").is_dir():
        return found
    snapshots = Store.open(str(storage)).snapshots()
    for path in sorted((storage / "snapshots").glob("*/*.safetensors")):
        trial, _, epoch = path.name.removesuffix(".safetensors").partition(".epoch-")
        kept = snapshots.load(trial, int(epoch))  # None where it has been replaced meanwhile
        if kept is not None:
            facts: Any = kept[1]
            seconds = [record["seconds"] for record in facts["member"]["history"]]
            found[trial] = max(found.get(trial, []), seconds, key=len)
    return found


def a_third(storage: Path) -> bool:
    found = saved(storage)
    return len(found) == SEEDS and all(len(seconds) >= 300 for seconds in found.values())


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()


def preempt_driver(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def kill_worker(process: subprocess.Popen[str]) -> None:
    (worker,) = workers_at_work(process.pid)
    os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "place", "code"),
    [
        (kill_driver, "--serial", -signal.SIGKILL),
        (preempt_driver, "--serial", 143),
        (preempt_driver, "--num-cpus=1", 143),
        (kill_worker, "--num-cpus=1", 0),
    ],
)
def test_a_preempted_pack_goes_on_where_it_was(
    tmp_path: Path,
    undisturbed: Path,
    how: Callable[[subprocess.Popen[str]], None],
    place: str,
    code: int,
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    with running(sweep, storage, place) as process:
        wait_until("snapshots were saved", lambda: a_third(storage), process)
        assert not list((storage / "trials").rglob("*.parquet"))
        before = saved(storage)
        in_common = min(
            map(len, before.values())
        )  # the kill may come between two trials' snapshots
        how(process)
        assert process.wait(timeout=300) == code, what_it_said(storage)
    if code:
        assert len(saved(storage)) == SEEDS
        assert run(sweep, storage, place).returncode == 0
    assert_same_results(storage, undisturbed)
    assert_whole(storage)
    histories = Store.open(str(storage)).read_table("histories").to_pandas()
    for trial, seconds in before.items():
        epochs = histories[histories["key"] == trial].sort_values("epoch")["seconds"]
        # of the first process: none was done again
        assert list(epochs)[:in_common] == seconds[:in_common]
    assert saved(storage) == {}
