"""A real Ray: packs as tasks, lost workers, a store like the serial executor's."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import phasegrid
from phasegrid import load_sweep
from tests.faults.commands import (
    num_stored,
    pid_of,
    running,
    wait_until,
    wait_until_nothing_is_left,
    what_it_said,
)
from tests.faults.comparing import assert_same_results
from tests.faults.test_kill_and_resume import run
from tests.faults.test_kill_and_resume import write_sweep as write_any_sweep


def write_sweep(folder: Path) -> Path:
    """Write a sweep whose packs are of one cell each, however many workers there are: rows tell the
    size of their pack.
    """
    path = write_any_sweep(folder)
    path.write_text(f"{path.read_text()}run: {{pack_size: 2}}\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(write_sweep(folder), folder / "store", "--serial", "-q")
    assert done.returncode == 0, done.stderr
    return folder / "store"


def test_ray_and_serial_store_the_same_rows_and_a_second_run_submits_nothing(
    tmp_path: Path, undisturbed: Path
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    first = run(sweep, storage, "--num-cpus", "2")
    assert first.returncode == 0, first.stderr
    assert_same_results(storage, undisturbed)
    second = run(sweep, storage)
    assert second.returncode == 0, second.stderr
    assert "0 to do" in second.stderr
    assert "starting Ray" not in second.stderr


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for temporary files with a short name, as Ray's sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_raylet_ends_the_run_blames_no_job_and_leaves_nothing_behind(
    tmp_path: Path, undisturbed: Path, short_folder: Path
) -> None:
    sweep, storage = write_sweep(tmp_path), tmp_path / "store"
    temporary = {"TMPDIR": str(short_folder)}
    with running(sweep, storage, "--num-cpus", "2", **temporary) as process:
        wait_until("some trials are stored", lambda: num_stored(storage) >= 2, process)
        assert list(short_folder.glob("phasegrid-*"))
        raylet = pid_of("raylet", process)
        assert raylet is not None
        os.kill(raylet, signal.SIGKILL)
        assert process.wait(timeout=60) == 4, what_it_said(storage)
        wait_until_nothing_is_left(process)
    said = what_it_said(storage)
    assert said.count("its raylet on this machine has died") == 1
    assert "what is finished is stored" in said
    assert "Run the same command again" in said
    for raw in ("state-dump", "Traceback", "(raylet)", "failed", "lost"):
        assert raw not in said
    assert not list(short_folder.glob("phasegrid-*"))
    assert len(phasegrid.open(str(storage)).failures()) == 0
    again = run(sweep, storage, "--serial")
    assert again.returncode == 0, again.stderr
    assert_same_results(storage, undisturbed)


def test_a_ray_client_address_is_refused_with_the_reason(tmp_path: Path) -> None:
    refused = run(write_sweep(tmp_path), tmp_path / "store", "--address", "ray://127.0.0.1:10001")
    assert refused.returncode == 4
    assert "Ray Client" in refused.stderr
    assert "Traceback" not in refused.stderr


DEADLY = '''\
"""A metric whose process dies: once at width 4, every time at width 8."""
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    marker: str = ""

def compute(models, data, rng, marker):
    width = models[0].classifier.in_features
    first = Path(marker + str(width))
    if width == 8 or (width == 4 and not first.exists()):
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"width": float(width)}

WIDTH = Metric(over="trial", args=Args, columns=(Column("width", "float64", "", "units"),), compute=compute)
'''


def test_a_killed_worker_is_replaced_and_a_poison_job_is_blamed_by_name(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        "schema: 1\nname: deadly\ndataset: {name: digits, fraction: 0.1}\nmodel: {name: mlp,"
        " depth: 1}\ntrain: {batch_size: 32, epochs: 1, stop: null}\nseeds: 1\nrun: {retries:"
        " {infra: 1}}\nload: {param: model.width, values: [2, 4, 8]}\nmetrics: [accuracy,"
        f" {{'deadly.py:WIDTH': {{marker: {tmp_path / 'died'}}}}}]\n"
    )
    done = run(sweep, tmp_path / "store", "--num-cpus", "1")
    assert done.returncode == 1, done.stderr
    assert "1 failed" in done.stderr
    results = phasegrid.open(str(tmp_path / "store"))
    measured = results.metric("deadly.py:WIDTH")
    assert sorted(measured["width"]) == [2.0, 4.0]
    assert set(measured["code_digest"]) == {load_sweep(sweep).code[0].code.digest}  # as it is here
    assert len(results.metric("accuracy")) == 3
    failures = results.failures()
    assert set(failures["kind"]) == {"infra"}
    assert failures["exception"].str.contains("WorkerCrashedError").all()
