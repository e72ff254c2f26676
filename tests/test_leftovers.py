"""Processes that outlive a run are found by its mark, whoever their parent is, and ended; nobody
else's are.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from phasegrid.run import leftovers
from phasegrid.run.worker import node_folder

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")

PARENT = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
)
print(child.pid, flush=True)
"""
DRIVER = """
import os, sys
from phasegrid.run import leftovers
from phasegrid.run.worker import node_folder
node_folder.drive(sys.argv[1])
os.environ[leftovers.MARK] = sys.argv[1]
exec(sys.stdin.read())
sys.stdout.close()
import signal
signal.pause()
"""


def exists(pid: int) -> bool:
    """Say whether a process runs: one that has ended may wait to be looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def orphan() -> Iterator[tuple[str, int]]:
    """A process of a run, whose parent has ended, in a session of its own."""
    run = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, "-c", PARENT],
        env=os.environ | {leftovers.MARK: run},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    pid = int(done.stdout)
    yield run, pid
    leftovers.end(run)


def test_what_a_run_started_is_found_when_its_parent_is_gone_and_ended(
    orphan: tuple[str, int],
) -> None:
    run, pid = orphan
    assert leftovers.marked(run) == {pid}
    assert leftovers.marked(run[:-1]) == set()
    leftovers.end(uuid.uuid4().hex)
    assert exists(pid)
    leftovers.end(run)
    assert not exists(pid)
    assert leftovers.marked(run) == set()


def test_what_ends_by_itself_in_time_is_not_killed() -> None:
    run = uuid.uuid4().hex
    code = "import sys; print(flush=True); sys.stdin.read(); sys.exit(7)"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {leftovers.MARK: run},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert child.stdin is not None
    child.stdin.close()
    leftovers.end(run, grace_s=60.0)
    assert child.wait(timeout=60) == 7
    child.stdout.close()


def test_a_program_that_this_process_started_and_that_died_is_seen(tmp_path: Path) -> None:
    program = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    child = subprocess.Popen([str(program), "600"])
    names = frozenset({"raylet"})
    assert child.pid not in leftovers.dead_children(names)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert leftovers.dead_children(names)[child.pid] == "raylet"
    assert child.pid not in leftovers.dead_children(frozenset({"other"}))
    child.wait(timeout=60)


@pytest.mark.skipif(node_folder.fcntl is None, reason="needs POSIX file locks")
def test_a_killed_driver_is_cleaned_up_after_by_the_next_run_and_a_living_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second, third = (uuid.uuid4().hex for _ in range(3))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(PARENT)
        driver.stdin.close()
        started = int(driver.stdout.readline())
        node_folder.enter(second)
        assert node_folder.folder_of(first).is_dir()
        assert exists(started)
        driver.kill()
        driver.wait(timeout=60)
        node_folder.enter(third)
        assert not exists(started)
        assert not node_folder.folder_of(first).exists()
        assert node_folder.folder_of(second).is_dir()
    finally:
        driver.kill()
        driver.wait(timeout=60)
        driver.stdout.close()  # type: ignore[union-attr]
        leftovers.end(first)
        for run in (second, third):
            node_folder.forget(run)
