"""A real Ray head for tests: on loopback, with ports, a temp folder and an authentication mode of its own.

It is ended by killing its own process ids; ``ray stop`` would end every Ray on the machine.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for "whatever address others reach me at"
PORTS = (
    "--port", "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port", "--metrics-export-port", "--object-manager-port", "--node-manager-port",
    "--ray-client-server-port",
)  # fmt: skip
OPTIONS = (
    "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", LOOPBACK, "--dashboard-host", LOOPBACK,
    "--num-cpus", "2", "--object-store-memory", "100000000", "--min-worker-port", "0", "--max-worker-port", "0",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A head that answers at `address`."""

    address: str
    process: subprocess.Popen[bytes]
    folder: Path

    def kill(self) -> None:
        """Kill it and everything that it started, at once."""
        for _ in range(20):
            found = _descendants(self.process.pid) | _mentioning(str(self.folder))
            if self.process.poll() is None:
                found.add(self.process.pid)
            if not found:
                return
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)
        pytest.fail(f"the processes {found} of a Ray head survive SIGKILL")


def skip_without_dashboard() -> None:
    """Skip, with the reason, where Ray has no dashboard (and so no jobs)."""
    pytest.importorskip(
        "ray.dashboard.optional_deps", reason="needs ray[default]: pip install 'phasegrid[cluster]'"
    )


@contextmanager
def ray_head(environment: Mapping[str, str]) -> Iterator[Head]:
    """Start a head, wait until it answers, and kill it in the end; ports that others took meanwhile: once more."""
    skip_without_dashboard()
    for _ in range(3):
        head = _start(environment)
        try:
            if _answers(head):
                yield head
                return
        finally:
            head.kill()
            shutil.rmtree(head.folder, ignore_errors=True)
    pytest.fail("no Ray head could be started in three tries")


def client_environment(**more: str) -> dict[str, str]:
    """Return the environment of a user of phasegrid: no Ray around it, no home with a token in it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PHASEGRID_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {
        **kept,
        "PATH": path,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "NO_PROXY": "*",
        **more,
    }


def _start(environment: Mapping[str, str]) -> Head:
    folder = Path(tempfile.mkdtemp(prefix="pg-ray-", dir="/tmp"))  # sockets have short names
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    given = [text for name, port in ports.items() for text in (name, str(port))]
    start = "from ray.scripts.scripts import main; main()"
    with (folder / "start.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *OPTIONS, *given, "--temp-dir", str(folder)],
            env=client_environment(**environment),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Head(f"http://{LOOPBACK}:{ports['--dashboard-port']}", process, folder)


def _answers(head: Head) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and head.process.poll() is None:
        try:
            with opener.open(f"{head.address}/api/version", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True  # it wants a token
        except OSError:
            time.sleep(0.2)
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _descendants(root: int) -> set[int]:
    parents = {pid: parent for pid in _pids() if (parent := _parent(pid)) is not None}
    found: set[int] = set()
    new = {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _mentioning(text: str) -> set[int]:
    """Return the processes that name our temp folder, which is nobody else's."""
    found = set()
    for pid in _pids() - {os.getpid()}:
        with suppress(OSError):
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def _pids() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()}


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)
