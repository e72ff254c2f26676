"""Joining and starting Ray: whatever goes wrong is one message, within a stated time."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from phasegrid.cli.main import app  # noqa: E402
from phasegrid.errors import ClusterError  # noqa: E402
from phasegrid.run import leftovers  # noqa: E402 - after the skip
from phasegrid.run.executors.ray import ray_thread  # noqa: E402 - after the skip
from phasegrid.run.executors.ray import start as ray_start  # noqa: E402
from phasegrid.run.executors.ray.auth_token import keep_one_token  # noqa: E402
from phasegrid.run.executors.ray.start import start_ray, stop_ray  # noqa: E402
from tests.test_session import SWEEP  # noqa: E402
from tests.test_submissions import TOKEN  # noqa: E402

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ray_start, "REFUSED_S", 0.2)
    monkeypatch.setattr(ray_thread, "CLEAR_S", 0.2)
    monkeypatch.setattr(ray_start, "JOIN_S", 0.6)
    monkeypatch.setattr(ray_start, "SAY_EVERY_S", 0.1)
    monkeypatch.setattr(ray_thread, "LOOK_EVERY_S", 0.02)
    yield
    stop_ray()
    assert leftovers.MARK not in os.environ


@pytest.fixture
def serve() -> Iterator[Callable[[bytes | None], str]]:
    """Listen on a port and answer everyone with some bytes, or with nothing; return the address."""
    servers: list[socket.socket] = []

    def listen(answer: bytes | None) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        if answer is not None:
            threading.Thread(target=accept, args=(server, answer), daemon=True).start()
        host, port = server.getsockname()
        return f"{host}:{port}"

    def accept(server: socket.socket, answer: bytes) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    client.recv(100)
                    client.sendall(answer)

    yield listen
    for server in servers:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


def free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def init_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[object]:
    """Have ``ray.init`` raise; return the list of what it is called with."""
    called: list[object] = []

    def init(**options: object) -> None:
        called.append(options)
        raise error

    monkeypatch.setattr(ray, "init", init)
    return called


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup."),
        RuntimeError("Failed to start GCS."),
        AssertionError(),
        KeyError("node_manager_port"),
        TimeoutError("of Ray's own"),
        SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_while_starting_is_one_message_after_a_second_try(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    said: list[str] = []
    called = init_raises(monkeypatch, error)
    with pytest.raises(ClusterError, match=r"^starting Ray on this machine: .*--serial$"):
        start_ray(None, say=said.append)
    assert len(called) == 2
    assert [text for text in said if "trying once more" in text]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_start_that_waits_for_a_dead_raylet_is_given_up_and_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    over, said, tries = threading.Event(), list[str](), list[subprocess.Popen[bytes]]()

    def init(**_: object) -> None:
        tries.append(subprocess.Popen([str(program), "600"]))
        if len(tries) == 1:
            tries[0].kill()
            over.wait(60)

    monkeypatch.setattr(ray, "init", init)
    try:
        start_ray(None, say=said.append)
        assert len(tries) == 2
        assert [text for text in said if "its raylet died while it started" in text]
        assert tries[1].poll() is None
        stop_ray()
        assert tries[1].wait(timeout=60) < 0
    finally:
        over.set()
        for each in tries:
            each.kill()
            each.wait(timeout=60)


@pytest.mark.parametrize("address", [None, "local", "head"])
def test_a_ray_that_never_comes_up_is_given_up(
    monkeypatch: pytest.MonkeyPatch, address: str | None, serve: Callable[[bytes | None], str]
) -> None:
    over, said = threading.Event(), list[str]()
    monkeypatch.setattr(ray, "init", lambda **_: over.wait(60))
    monkeypatch.setattr(ray_start, "START_S", 0.6)
    address = serve(SETTINGS) if address == "head" else address
    try:
        says = "has not let us in within.*phasegrid submit" if address not in (None, "local") else (
            "it is not up within.*--serial"
        )  # fmt: skip
        with pytest.raises(ClusterError, match=says):
            start_ray(address, say=said.append)
        assert said
        assert said[0].startswith("still ")
    finally:
        over.set()


def test_an_address_where_nobody_listens_is_told_with_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    (tmp_path / "s.yaml").write_text(SWEEP)
    address = free_address()
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_start, "REFUSED_S", 0.7)
    result = CliRunner().invoke(
        app, ["run", str(tmp_path / "s.yaml"), "--storage", str(tmp_path / "store"), "--no-plot"]
    )
    assert isinstance(result.exception, ClusterError)
    told = str(result.exception)
    assert told.startswith(f"joining Ray at {address} (from RAY_ADDRESS): connection refused")
    assert "check that the cluster is up" in told
    assert "leave RAY_ADDRESS out, to use this machine" in told
    assert f"still joining Ray at {address}" in result.output


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "no answer for"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not the head of a Ray cluster"),
        (b"-ERR wrong number of arguments\r\n", "is not the head of a Ray cluster"),
    ],
)
def test_a_head_that_is_silent_or_something_else_is_not_waited_for_long(
    serve: Callable[[bytes | None], str], answer: bytes | None, says: str
) -> None:
    with pytest.raises(ClusterError, match=says):
        start_ray(serve(answer), given_by="--address")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://127.0.0.1:10001", "Ray Client address"),
        ("http://head:8265", "phasegrid submit --address"),
        ("head", "HOST:PORT"),
        ("head:port", "HOST:PORT"),
        ("head:99999", "HOST:PORT"),
    ],
)
def test_what_is_no_address_of_a_head_is_refused_with_what_to_write(
    address: str, says: str
) -> None:
    with pytest.raises(ClusterError, match=says):
        start_ray(address)


def refused() -> BaseException:
    error = RuntimeError("Failed to connect to GCS.")
    error.__cause__ = ray.exceptions.AuthenticationError("no token")
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            ray.exceptions.AuthenticationError("no token"),
            "the cluster refuses us: set RAY_AUTH_MODE",
        ),
        (refused(), "the cluster refuses us: set RAY_AUTH_MODE"),
        (ConnectionError("Failed to connect."), "Failed to connect. .if it asks for a token: set"),
        (Exception(f"No: {TOKEN}"), r"No: \[token\]"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_a_message(
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[bytes | None], str],
    error: BaseException,
    why: str,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    init_raises(monkeypatch, error)
    address = serve(SETTINGS)
    with pytest.raises(ClusterError, match=f"joining Ray at {address}: {why}"):
        start_ray(address)


def test_drivers_that_start_at_once_share_one_token(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    seen: set[str] = set()
    barrier = threading.Barrier(8)

    def keep() -> None:
        barrier.wait(timeout=60)
        keep_one_token()
        seen.add(path.read_text())

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(seen) == 1
    assert len(seen.pop()) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_no_token_is_made_where_another_is_given_or_none_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "disabled")
    keep_one_token()
    assert not (tmp_path / ".ray").exists()
