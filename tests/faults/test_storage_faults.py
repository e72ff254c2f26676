"""Storage that fails now and then, gives no answer, or is full: the run ends with the right exit
code and clear words, nothing half-written is visible, and run again when the storage is well it
stores what an undisturbed run stores.
"""

import errno
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from phasegrid.cli import main
from phasegrid.run.verify import verify
from phasegrid.store import store
from phasegrid.store.files import local
from phasegrid.store.files.retry import WAITS_S, PatientFiles
from phasegrid.store.store import Store
from tests.faults.comparing import assert_same_results
from tests.faults.test_kill_and_resume import run, write_sweep

SMALL = (("[2, 4, 8, 16]", "[2, 4]"), ("[0.01, 0.05, 0.1]", "[0.05]"))
LARGE = (
    ("[2, 4, 8, 16]", "[700, 800]"),
    ("[0.01, 0.05, 0.1]", "[0.05]"),
    ("depth: 1", "depth: 2"),
    ("  - hessian: {examples: 32, steps: 5}\n", ""),
)


class FaultySystem:
    """What `files` calls ``os``, with the three calls that make a write visible or durable going
    through `fault`.
    """

    def __init__(self, fault: Callable[[Callable[..., Any], Any], Any]) -> None:
        self.fault = fault

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in ("fsync", "link", "replace"):
            return call
        return lambda *args: self.fault(call, args)


def small_sweep(folder: Path, changes: tuple[tuple[str, str], ...] = SMALL) -> Path:
    path = write_sweep(folder, epochs=2)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_here(small_sweep(folder), folder / "store") == 0
    return folder / "store"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have stores wait in no time; the list says for how long they would have."""
    waits: list[float] = []
    steady = partial(PatientFiles, sleep=waits.append, draw=lambda: 0.5)
    monkeypatch.setattr(store, "PatientFiles", steady)
    return waits


def run_here(sweep: Path, storage: Path | None) -> int:
    """Run the real command line in this process, whose file system can be made to fail; return its
    exit code.
    """
    before = sys.argv
    where = [] if storage is None else ["--storage", str(storage)]
    sys.argv = ["phasegrid", "run", str(sweep), *where, "--serial", "--no-plot", "-q"]
    try:
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def _assert_whole(storage: Path) -> None:
    """Nothing that can be seen is half-written: what is missing is missing as a whole."""
    found = [str(p) for p in verify(Store.open(str(storage)), deep=True)]
    assert [text for text in found if "not stored" not in text] == []
    assert not any(path.is_file() for path in (storage / "_tmp").rglob("*"))


def _one_in_five(seed: int) -> Callable[[Callable[..., Any], Any], Any]:
    chance = random.Random(seed)

    def fault(call: Callable[..., Any], args: Any) -> Any:
        if call is os.fsync:  # of the calls of one write, the one that makes it visible
            return call(*args)
        fails, late = chance.random() < 0.2, chance.random() < 0.5
        answer = call(*args) if late or not fails else None
        if fails:
            raise OSError(chance.choice([errno.EIO, errno.ESTALE]), "the server hiccups")
        return answer

    return fault


def test_a_system_that_fails_one_write_in_five_costs_some_waiting_and_nothing_else(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    monkeypatch.setattr(local, "os", FaultySystem(_one_in_five(seed=3)))
    assert run_here(small_sweep(tmp_path), tmp_path / "store") == 0
    assert len(slept) > 3
    _assert_whole(tmp_path / "store")
    assert_same_results(tmp_path / "store", undisturbed)


def test_without_a_second_try_each_run_ends_with_exit_code_4_and_the_next_goes_on(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(store, "PatientFiles", lambda f: PatientFiles(f, waits_s=()))
    monkeypatch.setattr(local, "os", FaultySystem(_one_in_five(seed=5)))
    sweep, codes = small_sweep(tmp_path), [4]
    while codes[-1] == 4 and len(codes) < 100:
        codes.append(run_here(sweep, tmp_path / "store"))
        if codes[-1] == 4:
            assert "the server hiccups" in capsys.readouterr().err
        if (tmp_path / "store" / "meta" / "store.json").exists():
            _assert_whole(tmp_path / "store")
    assert codes[-1] == 0
    assert len(codes) > 4
    assert_same_results(tmp_path / "store", undisturbed)


def _after(num_writes: int, error: OSError) -> Callable[[Callable[..., Any], Any], Any]:
    """Be well for some writes, and then raise `error` for ever."""
    left = num_writes

    def fault(call: Callable[..., Any], args: Any) -> Any:
        nonlocal left
        left -= call is not os.fsync
        if left < 0:
            raise error
        return call(*args)

    return fault


@pytest.mark.parametrize("num_writes", [6, 9, 12])
def test_storage_that_gives_no_answer_ends_the_run_with_what_is_finished_kept(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    slept: list[float],
    capsys: pytest.CaptureFixture[str],
    num_writes: int,
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    with monkeypatch.context() as ill:
        error = OSError(errno.ETIMEDOUT, "Connection timed out")
        ill.setattr(local, "os", FaultySystem(_after(num_writes, error)))
        assert run_here(sweep, storage) == 4
    said = capsys.readouterr().err
    assert "Connection timed out" in said
    assert "(tried 4 times)" in said
    assert "Run the same command again when the storage is well" in said
    assert "Traceback" not in said
    assert slept[: len(WAITS_S)] == list(WAITS_S)
    assert len(slept) <= 3 * len(WAITS_S)  # it does not go on to fail with every job
    _assert_whole(storage)
    assert run_here(sweep, storage) == 0
    assert_same_results(storage, undisturbed)


def test_a_storage_that_is_full_ends_the_run_without_waiting(
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    slept: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    sweep, storage = small_sweep(tmp_path), tmp_path / "store"
    with monkeypatch.context() as ill:
        error = OSError(errno.ENOSPC, "No space left on device")
        ill.setattr(local, "os", FaultySystem(_after(9, error)))
        assert run_here(sweep, storage) == 4
    said = capsys.readouterr().err
    assert "the storage is full" in said
    assert "make room" in said
    assert "Run the same command again" in said
    assert slept == []
    _assert_whole(storage)
    assert run_here(sweep, storage) == 0
    assert_same_results(storage, undisturbed)


def test_a_limit_on_the_size_of_files_is_found_before_the_first_job(tmp_path: Path) -> None:
    """A real error of a real system, for everybody: this process may write files of 1 MB at
    most.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))

    arguments = [
        "run",
        str(small_sweep(tmp_path)),
        "--storage",
        str(tmp_path / "store"),
        "--serial",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "phasegrid", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )
    assert done.returncode == 4, done.stderr
    assert "the storage is full or takes no writes ([Errno 27] File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store" / "plans").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 9 MiB of its own; a skip where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=60)
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=60)


def _fills_up(run_it: Callable[[], tuple[int, str]], disk: Path) -> None:
    """Run until the disk is full, make it larger, run again."""
    storage = disk / "store"
    code, said = run_it()
    assert code == 4, said
    assert "the storage is full or takes no writes ([Errno 28] No space left" in said
    assert "Run the same command again" in said
    assert "Traceback" not in said
    assert list((storage / "trials").glob("*/*.parquet"))
    _assert_whole(storage)
    larger = ["mount", "-o", "remount,size=200m", str(disk)]
    subprocess.run(larger, check=True, timeout=60)
    code, said = run_it()
    assert code == 0, said
    assert verify(Store.open(str(storage)), deep=True) == []


def test_a_disk_that_fills_up_keeps_what_is_finished(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = small_sweep(tmp_path, LARGE)

    def run_it() -> tuple[int, str]:
        return run_here(sweep, small_disk / "store"), capsys.readouterr().err

    _fills_up(run_it, small_disk)


@pytest.mark.slow
def test_a_disk_that_fills_up_under_ray_ends_the_run_too(tmp_path: Path, small_disk: Path) -> None:
    sweep = small_sweep(tmp_path, LARGE)

    def run_it() -> tuple[int, str]:
        done = run(sweep, small_disk / "store", "--num-cpus", "2", "-q")
        return done.returncode, done.stderr

    _fills_up(run_it, small_disk)
