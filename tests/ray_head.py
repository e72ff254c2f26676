"""A real Ray head for tests: on loopback, with ports, a temp folder and an authentication mode of
its own.

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
)  # fmt: skip
CLIENT_PORT = "--ray-client-server-port"  # of an extra that comes with the dashboard's
OPTIONS = (
    "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address", LOOPBACK, "--dashboard-host", LOOPBACK,
    "--num-cpus", "2", "--object-store-memory", "80000000", "--min-worker-port", "0", "--max-worker-port", "0",
    "--include-log-monitor", "false",
)  # fmt: skip
PATIENCE = {  # Ray gives its own processes seconds to start and to answer; a busy machine needs longer
    "RAY_agent_register_timeout_ms": "240000",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_health_check_failure_threshold": "20",
    "RAY_gcs_server_request_timeout_seconds": "240",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
}
START_S = 240


@dataclass(frozen=True)
class Head:
    """A head whose dashboard answers at `address` (if it has one), and its cluster to those who
    join it at `gcs`. The agent at `agent_port` is what starts submitted jobs.
    """

    address: str
    gcs: str
    agent_port: int
    process: subprocess.Popen[bytes]
    folder: Path

    def kill(self) -> None:
        """Kill it and everything that it started, at once."""
        for _ in range(20):
            found = processes_below(self.process.pid) | _mentioning(str(self.folder))
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
def ray_head(environment: Mapping[str, str], dashboard: bool = True) -> Iterator[Head]:
    """Start a head, wait until it answers, and kill it in the end; ports that others took
    meanwhile: once more.

    Without a dashboard it takes no submissions, and needs nothing beyond Ray itself.
    """
    if dashboard:
        skip_without_dashboard()
    for _ in range(3):
        head = _start(environment, dashboard)
        try:
            if _answers(head) if dashboard else _can_be_joined(head):
                yield head
                return
        finally:
            head.kill()
            shutil.rmtree(head.folder, ignore_errors=True)
    pytest.fail("no Ray head could be started in three tries")


def client_environment(**more: str) -> dict[str, str]:
    """Return the environment of a user of phasegrid: no Ray around it, no home with a token in
    it.
    """
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


def _start(environment: Mapping[str, str], dashboard: bool) -> Head:
    folder = Path(tempfile.mkdtemp(prefix="pg-ray-", dir="/tmp"))  # sockets have short names
    names = (*PORTS, CLIENT_PORT) if dashboard else PORTS
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    given = [text for name, port in ports.items() for text in (name, str(port))]
    given += ["--include-dashboard", str(dashboard).lower()]
    start = "from ray.scripts.scripts import main; main()"
    with (folder / "start.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *OPTIONS, *given, "--temp-dir", str(folder)],
            env=client_environment(**PATIENCE, **environment),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://{LOOPBACK}:{ports['--dashboard-port']}"
    agent_port = ports["--dashboard-agent-listen-port"]
    return Head(address, f"{LOOPBACK}:{ports['--port']}", agent_port, process, folder)


def _answers(head: Head) -> bool:
    """Wait for the dashboard and the agent; Ray waits for the latter only ten seconds when it is
    given a job.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and head.process.poll() is None:
        if _has_dashboard(head) and _has_agent(head):
            return True
        time.sleep(0.2)
    return False


def _has_dashboard(head: Head) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{head.address}/api/version", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it wants a token
    except OSError:
        return False


def _has_agent(head: Head) -> bool:
    try:
        with socket.create_connection((LOOPBACK, head.agent_port), timeout=5):
            return True
    except OSError:
        return False


def _can_be_joined(head: Head) -> bool:
    """Wait until ``ray start`` says that everything runs."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and head.process.poll() is None:
        if b"Ray runtime started" in (head.folder / "start.txt").read_bytes():
            return True
        time.sleep(0.1)
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


def processes_below(root: int) -> set[int]:
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
