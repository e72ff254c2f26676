"""The processes of a soak: runs and the cluster that some of them join. All of them can be found
again and ended.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import soak_hook
from tests.faults.commands import REPOSITORY, environment
from tests.faults.soak_noop import PAUSE

SOAK_MARK = "SOAK_MARK"  # in the environment of every process of a soak
RUN_MARK = "SOAK_RUN_MARK"  # in that of one run and of the Ray that it started
PATIENCE_S = 180.0


class SoakError(Exception):
    """A soak cannot go on."""


@dataclass(slots=True)
class Driver:
    """A run that was started. `allowed` are the exit codes that what was done to it explains;
    `address` is the cluster it joined.
    """

    process: subprocess.Popen[bytes]
    mark: str
    said: Path
    address: str | None
    allowed: set[int] = field(default_factory=lambda: {0})

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def words(self) -> str:
        """Return what it has said so far."""
        return self.said.read_text(errors="replace")


def prepare_environment(folder: Path, storage: Path, pause_s: float) -> str:
    """Give this process, and so all that it starts, the environment of a soak; return the mark that
    all of them have.

    Whoever starts a soak may give the mark, to be able to end what the soak started.
    """
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(soak_hook.LOADER)
    temporary = folder / "tmp"
    temporary.mkdir()
    mark = os.environ.get(SOAK_MARK) or uuid.uuid4().hex
    own = {
        SOAK_MARK: mark,
        soak_hook.VARIABLE: str(storage),
        PAUSE: str(pause_s),
        "PYTHONPATH": os.pathsep.join([str(hook), str(REPOSITORY)]),
        "TMPDIR": str(temporary),
        "RAY_TMPDIR": str(temporary),
    }
    given = environment() | own
    os.environ.clear()
    os.environ.update(given)
    return f"{SOAK_MARK}={mark}"


def start(sweep: Path, storage: Path, said: Path, address: str | None) -> Driver:
    """Start a run on a Ray of its own, or on the cluster at `address`."""
    where = ["--num-cpus", "2"] if address is None else ["--address", address]
    arguments = ["run", str(sweep), "--storage", str(storage), "--no-plot", "-q", *where]
    mark = uuid.uuid4().hex
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.soak_command", *arguments],
            env=os.environ | {RUN_MARK: mark},
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return Driver(process, f"{RUN_MARK}={mark}", said, address)


def kill(driver: Driver) -> None:
    """Kill a run, and then, by process id, the Ray that it had started."""
    driver.allowed.add(-signal.SIGKILL)
    driver.process.kill()
    driver.process.wait(timeout=60)
    end_marked(driver.mark)


def end_marked(mark: str) -> None:
    """Kill every other process whose environment has a mark."""
    ended = wait_for(lambda: not _killed(mark), 30)
    if not ended:
        raise SoakError(f"the processes {marked(mark)} survive SIGKILL")


def marked(mark: str) -> set[int]:
    """Return every other process whose environment has a mark."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in entry.read_bytes().split(b"\0"):
                found.add(int(entry.parent.name))
    return found - {os.getpid()}


def names_of(processes: set[int]) -> str:
    """Return the beginnings of the command lines of processes."""
    names = []
    for pid in sorted(processes):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            names.append(f"{pid} {text[:80].decode(errors='replace').strip()}")
    return "; ".join(names)


def wait_for(holds: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """Wait until something holds; say whether it came to that."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@dataclass(slots=True)
class TwoNodes:
    """A cluster of two nodes with one core each, raised when a run needs it."""

    address: str | None = None
    _cluster: Any = None
    _second: Any = None

    def up(self) -> str:
        """Raise it, and return its address."""
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 1, "object_store_memory": 80_000_000}
        self._cluster = Cluster(
            initialize_head=True,
            connect=False,
            head_node_args={**small, "include_dashboard": False},
        )
        self._second = self._cluster.add_node(**small)
        self.address = str(self._cluster.address)
        return self.address

    def second(self) -> int | None:
        """Return the process under which the workers of the second node are; None where there is no
        second node.
        """
        if self._second is None:
            return None
        return int(self._second.all_processes["raylet"][0].process.pid)

    def remove_second(self) -> None:
        """Remove the second node with its workers."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def down(self) -> None:
        """End what is left of it."""
        if self._cluster is not None:
            self._cluster.shutdown()
        self.address, self._cluster, self._second = None, None, None


def _killed(mark: str) -> set[int]:
    found = marked(mark)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found
