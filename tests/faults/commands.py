"""Start phasegrid as a user does, watch what it stores, and end its processes as accidents do."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ray_head import client_environment, processes_below

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 180.0
MARK = "TEST_RUN_MARK"


def command(sweep: Path, storage: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "phasegrid", "run", str(sweep), "--storage", str(storage), "--no-plot", *more,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return client_environment(PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1")


def run(sweep: Path, storage: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(sweep, storage, "-q", *more),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


@contextmanager
def running(
    sweep: Path, storage: Path, *more: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a run in a session of its own; whatever it has started is ended with the block, also
    what outlives it.
    """
    mark = f"{MARK}={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    with said_by(storage).open("w") as stream:
        process = subprocess.Popen(
            command(sweep, storage, "-q", *more),
            env=environment() | {name: value} | variables,
            stdout=stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )
    _marks[process.pid] = mark
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=60)
        _end_marked(mark)


_marks: dict[int, str] = {}


def started_by(process: subprocess.Popen[str]) -> set[int]:
    """Return what a run has started and still lives: Ray's own processes may outlive a driver."""
    return _marked(_marks[process.pid]) - {process.pid}


def _marked(mark: str) -> set[int]:
    """Return every process whose environment has a mark."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.add(int(entry.parent.name))
    return found


def _end_marked(mark: str) -> None:
    for _ in range(20):
        marked = _marked(mark)
        for pid in marked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not marked:
            return
        time.sleep(0.1)
    pytest.fail(f"the processes {marked} of a run survive SIGKILL")


def said_by(storage: Path) -> Path:
    return storage.parent / f"{storage.name}-said.txt"


def what_it_said(storage: Path) -> str:
    return said_by(storage).read_text()


def wait_until(what: str, holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something holds while a process runs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if holds():
            return
        if process.poll() is not None:
            pytest.fail(f"the run ended, with {process.returncode}, before {what}")
        time.sleep(0.02)
    pytest.fail(f"nothing came of waiting for {what}")


def wait_until_nothing_is_left(process: subprocess.Popen[str], within_s: float = 10.0) -> None:
    """Wait until nothing lives any more of what an ended run has started."""
    ends = time.monotonic() + within_s
    while left := started_by(process):
        if time.monotonic() >= ends:
            pytest.fail(f"the processes {left} outlive their run by {within_s:.0f} s")
        time.sleep(0.1)


def pid_of(program: str, process: subprocess.Popen[str]) -> int | None:
    """Return the process of a program that a run has started; None if there is none yet."""
    for pid in started_by(process):
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().partition("(")[2].startswith(f"{program})"):
                return pid
    return None


def num_stored(storage: Path, table: str = "trials") -> int:
    return len(list((storage / table).glob("*/*.parquet")))


def workers_at_work(root: int) -> set[int]:
    """Return the Ray workers, below a process, that are doing a pack right now: Ray writes that
    into their titles.
    """
    found = set()
    for pid in processes_below(root):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_do_pack"):
                found.add(pid)
    return found
