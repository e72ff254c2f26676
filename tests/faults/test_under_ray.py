"""Processes that die under Ray: a worker in the middle of a pack, the driver, a whole node, the
head.

Each time the run ends, what was not finished is done, and the store holds what an undisturbed run's
does.
"""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phasegrid.run import leftovers
from phasegrid.store.store import Store
from tests.faults.commands import (
    num_stored,
    pid_of,
    run,
    running,
    wait_until,
    wait_until_nothing_is_left,
    what_it_said,
    workers_at_work,
)
from tests.faults.comparing import assert_same_results, assert_whole
from tests.ray_head import ray_head

pytestmark = pytest.mark.slow

SWEEP = """\
schema: 1
name: tiny
dataset: {name: digits, fraction: 0.2}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 90, stop: null}
load: {param: model.width, values: [2, 4, 8]}
temperature: {param: train.lr, values: [0.01, 0.1]}
seeds: 2
metrics: [accuracy, distance, hessian: {examples: 32, steps: 5}, cka: {examples: 64}]
run: {pack_size: PACK_SIZE}
"""
NUM_TRIALS = 12


def write_sweep(folder: Path, pack_size: int = 1) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(SWEEP.replace("PACK_SIZE", str(pack_size)))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(write_sweep(folder), folder / "store", "--serial")
    assert done.returncode == 0, done.stderr
    return folder / "store"


def written_at(storage: Path) -> dict[Path, int]:
    """Return when each result was written: one that is done twice would be written again."""
    folders = ("trials", "histories", "metrics")
    return {p: p.stat().st_mtime_ns for f in folders for p in (storage / f).rglob("*.parquet")}


def assert_finished_by_another_run(sweep: Path, storage: Path, undisturbed: Path) -> None:
    before = written_at(storage)
    again = run(sweep, storage, "--num-cpus", "2")
    assert again.returncode == 0, again.stderr
    assert {path: written_at(storage)[path] for path in before} == before
    assert_same_results(storage, undisturbed)
    assert_whole(storage)
    third = run(sweep, storage)
    assert third.returncode == 0
    assert " 0 to do in 0 packs" in third.stderr


def write_uneven_sweep(folder: Path) -> Path:
    """Write a sweep of two packs of two, of which the first member of the second stops early and
    the other goes on for seconds.
    """
    text = SWEEP.replace("PACK_SIZE", "2").replace("[2, 4, 8]", "[8]")
    path = folder / "uneven.yaml"
    path.write_text(text.replace("90, stop: null", "3000, stop: {min_delta: 1.0e-4, patience: 5}"))
    return path


def test_a_worker_killed_in_the_middle_of_a_pack_costs_only_what_it_had_not_published(
    tmp_path: Path,
) -> None:
    sweep, storage, alone = write_uneven_sweep(tmp_path), tmp_path / "store", tmp_path / "alone"
    assert run(sweep, alone, "--serial", "--strategy", "loop").returncode == 0
    with running(sweep, storage, "--num-cpus", "1", "--strategy", "loop") as process:
        wait_until(
            "one of the second pack is published",
            lambda: num_stored(storage) == 3 and len(workers_at_work(process.pid)) == 1,
            process,
        )
        before = written_at(storage)
        (worker,) = workers_at_work(process.pid)
        os.kill(worker, signal.SIGKILL)
        assert process.wait(timeout=300) == 0, what_it_said(storage)
    said = what_it_said(storage)
    assert "lost training, cell " in said
    assert "to be tried again: WorkerCrashedError: its process died" in said
    assert {path: written_at(storage)[path] for path in before} == before
    assert_same_results(storage, alone)
    assert_whole(storage)
    (failure,) = Store.open(str(storage)).read_table("failures").to_pylist()
    assert failure["kind"] == "infra"
    assert failure["key"] is None  # which of the two was running nobody knows


@pytest.mark.parametrize(
    ("signum", "to_group", "code"),
    [
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),  # as a batch system does: Ray's own processes die of it
        (signal.SIGINT, True, 130),  # as a terminal does: Ray's own processes get it too
    ],
    ids=["killed", "terminated", "all terminated", "interrupted"],
)
def test_a_driver_that_is_ended_loses_nothing_that_is_stored(
    tmp_path: Path, undisturbed: Path, signum: signal.Signals, to_group: bool, code: int
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    with running(sweep, storage, "--num-cpus", "2") as process:
        wait_until("some trials are stored", lambda: num_stored(storage) >= 3, process)
        (os.killpg if to_group else os.kill)(process.pid, signum)
        assert process.wait(timeout=120) == code, what_it_said(storage)
    said = what_it_said(storage)
    assert "Traceback" not in said
    if signum != signal.SIGKILL:
        assert "what is finished is stored" in said
        assert "Run the same command again to go on." in said
    assert num_stored(storage) < NUM_TRIALS
    assert_finished_by_another_run(sweep, storage, undisturbed)


@pytest.mark.parametrize("moment", ["starting", "running"])
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGKILL", "gcs_server", "raylet"])
def test_nothing_outlives_a_run_however_it_ends(tmp_path: Path, how: str, moment: str) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    temporary = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # sockets have short names
    try:
        with running(sweep, storage, "--num-cpus", "2", TMPDIR=str(temporary)) as process:
            if moment == "starting":
                wait_until(
                    "a raylet is there", lambda: pid_of("raylet", process) is not None, process
                )
            else:
                wait_until("a trial is stored", lambda: num_stored(storage) >= 1, process)
            if how.startswith("SIG"):
                process.send_signal(signal.Signals[how])
            else:
                os.kill(pid_of(how, process) or 0, signal.SIGKILL)
            code = process.wait(timeout=90)
            if how != "SIGKILL":
                wait_until_nothing_is_left(process)
        said = what_it_said(storage)
        if "trying once more" in said and not how.startswith("SIG"):
            assert code == 0, said  # Ray was not up yet, and is started once more
        else:
            assert code == {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -9}.get(how, 4), said
        assert "Traceback" not in said
        left = list(temporary.glob("phasegrid-*"))
        assert bool(left) == (how == "SIGKILL")
        if left:  # the next run there deletes it, and ends what still lives of the first
            with running(sweep, storage, "--num-cpus", "2", TMPDIR=str(temporary)) as process:
                wait_until(
                    "a raylet is there", lambda: pid_of("raylet", process) is not None, process
                )
                assert not left[0].exists()
                assert not leftovers.marked(left[0].name.rpartition("-")[2])
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def test_stacks_that_lost_driver_and_workers_go_on_elsewhere_bit_for_bit(tmp_path: Path) -> None:
    """Laid out for two workers; then one of these dies, then the driver, and one worker alone does
    the rest.
    """
    sweep, storage, whole = tmp_path / "stacks.yaml", tmp_path / "store", tmp_path / "whole"
    text = SWEEP.replace("run: {pack_size: PACK_SIZE}\n", "").replace("[2, 4, 8]", "[8]")
    rates = "[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]"
    sweep.write_text(text.replace("[0.01, 0.1]", rates).replace("seeds: 2", "seeds: 3"))
    assert run(sweep, whole, "--num-cpus", "2").returncode == 0
    trials = Store.open(str(whole)).read_table("trials").to_pandas()
    assert (trials["pack_size"] == 3).all()
    assert set(trials["strategy"]) == {"fused"}
    with running(sweep, storage, "--num-cpus", "2") as process:
        wait_until("workers train", lambda: num_stored(storage) >= 3, process)
        os.kill(min(workers_at_work(process.pid)), signal.SIGKILL)
        wait_until("more trials are stored", lambda: num_stored(storage) >= 6, process)
        process.kill()
        process.wait(timeout=120)
    assert num_stored(storage) < 24
    again = run(sweep, storage, "--num-cpus", "1")
    assert again.returncode == 0, again.stderr
    assert_same_results(storage, whole)
    assert_whole(storage)


@contextmanager
def two_nodes() -> Iterator[tuple[str, int, Callable[[], None]]]:
    """Raise a cluster of two nodes with one core each; give its address, the second node's process,
    and what removes that node.
    """
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(
        initialize_head=True, connect=False, head_node_args={**small, "include_dashboard": False}
    )
    try:
        second = cluster.add_node(**small)
        raylet = second.all_processes["raylet"][0].process.pid
        yield cluster.address, raylet, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def test_the_jobs_of_a_removed_node_are_done_by_the_other(
    tmp_path: Path, undisturbed: Path
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    with (
        two_nodes() as (address, second, remove_second),
        running(sweep, storage, "--address", address) as process,
    ):
        wait_until(
            "some trials are stored and the second node trains",
            lambda: num_stored(storage) >= 2 and bool(workers_at_work(second)),
            process,
        )
        remove_second()
        assert process.wait(timeout=300) == 0, what_it_said(storage)
    said = what_it_said(storage)
    assert "to be tried again: " in said
    assert f"{NUM_TRIALS * 3 + 12} of {NUM_TRIALS * 3 + 12} jobs stored" in said
    assert_same_results(storage, undisturbed)
    assert_whole(storage)


def test_a_lost_head_is_a_clear_error_and_another_cluster_does_the_rest(
    tmp_path: Path, undisturbed: Path
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    with (
        ray_head({}, dashboard=False) as head,
        running(sweep, storage, "--address", head.gcs) as process,
    ):
        wait_until("some trials are stored", lambda: num_stored(storage) >= 3, process)
        head.kill()
        assert process.wait(timeout=120) == 4, what_it_said(storage)
    said = what_it_said(storage)
    # The head's node is this machine too: whichever of its parts is missed first is named.
    silent = rf"its head at {re.escape(head.gcs)} has not answered for 30 s"
    assert re.search(rf"running on Ray: ({silent}|its raylet on this machine has died)", said)
    assert "what is finished is stored" in said
    assert "Run the same command again when a cluster is up." in said
    assert "Traceback" not in said
    before = written_at(storage)
    with ray_head({}, dashboard=False) as other:
        again = run(sweep, storage, "--address", other.gcs)
    assert again.returncode == 0, again.stderr
    assert {path: written_at(storage)[path] for path in before} == before
    assert_same_results(storage, undisturbed)
    assert_whole(storage)
