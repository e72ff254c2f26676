"""Every check finds what is wrong, says how to repair it, and changes nothing."""

import http.server
import json
import os
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from store_support import make_store
from typer.testing import CliRunner

from phasegrid.cli import doctor, machine_checks
from phasegrid.cli.machine_checks import GIB, Check
from phasegrid.cli.main import app
from phasegrid.errors import ClusterError, StoreError
from phasegrid.store.files.local import LocalFiles
from phasegrid.store.files.opening import open_files

Usage = namedtuple("Usage", "total used free")


def _one(checks: Any, name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


# --- this machine


def test_a_sound_machine_has_nothing_bad() -> None:
    checks = list(machine_checks.check_machine())
    assert len(checks) > 15
    assert [check for check in checks if check.state == "bad"] == []
    assert all(check.repair for check in checks if check.state == "note")
    assert not any(check.repair for check in checks if check.state == "ok")


def test_versions_are_held_against_the_bounds_of_the_package() -> None:
    bounds = [f"torch>={version('torch')}", "pyarrow>=999", "duckdb>=1; extra == 'query'"]
    checks = list(machine_checks._versions(bounds))
    assert _one(checks, "torch").state == "ok"
    found = _one(checks, "pyarrow")
    assert (found.state, found.repair) == ("bad", "pip install 'pyarrow>=999'")
    assert ">=999 is needed" in found.found


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_MAIN", ("nosuchpackage",))
    found = list(machine_checks._versions(["nosuchpackage>=1"]))[1]
    assert found.state == "bad"
    assert found.repair == "pip install 'nosuchpackage>=1'"


def test_without_an_installation_there_are_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(_name: str) -> None:
        raise PackageNotFoundError

    assert machine_checks.requires_or_none()
    monkeypatch.setattr(machine_checks, "requires", missing)
    assert machine_checks.requires_or_none() is None
    assert "is not installed" in list(machine_checks._versions(None))[1].found


def test_a_gpu_that_torch_does_not_see_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_checks.shutil, "which", lambda _name: None)
    monkeypatch.setattr(machine_checks.Path, "exists", lambda _path: False)
    assert machine_checks._gpu().found == "none: work is done on the CPU"
    monkeypatch.setattr(machine_checks.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    assert machine_checks._gpu().state == "note"


@pytest.mark.parametrize(
    ("kind", "processor", "state"),
    [("AVX2", "x86_64", "note"), ("AVX512", "x86_64", "ok"), ("DEFAULT", "arm64", "ok")],
)
def test_a_cpu_whose_convolutions_can_end_the_process_is_named(
    kind: str, processor: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: kind)
    monkeypatch.setattr("platform.machine", lambda: processor)
    (found,) = machine_checks._convolutions()
    assert found.state == state
    assert found.found.startswith(kind)
    assert ("numbers are right" in found.repair) == (state == "note")


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    properties = namedtuple("properties", "name total_memory")("H200", 141 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    assert machine_checks._gpu().found == "H200 (141 GiB), H200 (141 GiB)"


@pytest.mark.parametrize(
    ("usage", "state"),
    [
        (Usage(100 * GIB, 50 * GIB, 50 * GIB), "ok"),
        (Usage(100 * GIB, 90 * GIB, 4 * GIB), "note"),
        (Usage(1000 * GIB, 960 * GIB, 40 * GIB), "note"),  # Ray stops writing at 95%
    ],
)
def test_a_disk_that_is_nearly_full_is_told(
    monkeypatch: pytest.MonkeyPatch, usage: Usage, state: str
) -> None:
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _folder: usage)
    found = machine_checks.check_disk("disk", Path("/x"), "use another")
    assert found.state == state
    assert ("phasegrid gc" in found.repair) == (state == "note")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert machine_checks.check_disk("disk", missing, "x").state == "bad"
    found = machine_checks._temporary(missing)
    assert (found.state, "TMPDIR" in found.repair) == ("bad", True)


def test_a_temporary_folder_too_deep_for_sockets_is_told(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    assert "too long for Ray's sockets" in machine_checks._temporary(deep).found


def test_memory_is_what_the_kernel_and_the_container_leave(tmp_path: Path) -> None:
    kernel = tmp_path / "meminfo"
    kernel.write_text("MemTotal: 9 kB\nMemAvailable:    4194304 kB\n")
    assert machine_checks.available_memory(kernel, tmp_path) == 4 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_checks.available_memory(kernel, tmp_path) == 4 * GIB
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{2 * GIB}\n")
    found = machine_checks.available_memory(kernel, tmp_path)
    assert found == GIB
    assert machine_checks._memory(found).state == "note"
    assert machine_checks._memory(4 * GIB).state == "ok"
    unknown = machine_checks.available_memory(tmp_path / "none", tmp_path / "none")
    assert machine_checks._memory(unknown).state == "skipped"


def test_little_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert list(machine_checks._shared_memory(tmp_path / "none")) == []
    monkeypatch.setattr(
        machine_checks.shutil, "disk_usage", lambda _f: Usage(64 * 2**20, 0, 64 * 2**20)
    )
    (found,) = machine_checks._shared_memory(tmp_path)
    assert (found.state, "--shm-size" in found.repair) == ("note", True)


@pytest.mark.parametrize(("setting", "state"), [(None, "ok"), ("1", "ok"), ("8", "note")])
def test_many_threads_a_worker_are_told(setting: str | None, state: str) -> None:
    assert machine_checks._threads(setting, 8).state == state


def test_few_open_files_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 8192))
    found = machine_checks._open_files()
    assert (found.state, found.repair) == ("note", "ulimit -n 8192")
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, resource.RLIM_INFINITY))
    assert machine_checks._open_files().repair == "ulimit -n 65536"
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _what: infinite)
    assert machine_checks._open_files().state == "ok"


def test_an_extra_that_is_missing_is_told() -> None:
    found = machine_checks._extra("query", "nosuchpackage")
    assert (found.state, "phasegrid[query]" in found.repair) == ("note", True)


# --- storage


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_store_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    before = _files(tmp_path)
    checks = doctor.check_storage(store.url)
    assert [check.state for check in checks] == ["ok"] * 4
    assert _one(checks, "storage").found == f"{store.url}: 0 sweeps"
    assert _files(tmp_path) == before


@pytest.mark.parametrize("kind", ["missing", "empty", "memory"])
def test_a_place_without_a_store_is_tried_and_gets_none(tmp_path: Path, kind: str) -> None:
    url = {
        "missing": str(tmp_path / "x" / "y"),
        "empty": str(tmp_path),
        "memory": f"memory://doctor-{time.time_ns()}",
    }[kind]
    checks = doctor.check_storage(url)
    assert "`phasegrid run` makes" in checks[0].found
    assert not [check for check in checks if check.state == "bad"]
    assert open_files(url).names("") == []
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (found,) = doctor.check_storage(str(tmp_path / "file" / "store"))
    assert (found.state, found.place) == ("bad", "storage")
    assert doctor.exit_code([found]) == 4


def test_storage_that_fails_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = make_store(tmp_path)

    def fails(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(LocalFiles, "create", fails)
    found = doctor.check_storage(store.url)[-1]
    assert (found.state, found.place) == ("bad", "storage")
    assert "permission denied (read-only file system)" in found.found


def test_a_damaged_store_is_bad(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    Path(store.files.path("meta/store.json")).write_text("{")
    found = doctor.check_storage(store.url)[-1]
    assert found.state == "bad"
    assert "is damaged" in found.found


def test_an_unknown_kind_of_storage_is_bad() -> None:
    assert "nosuch" in doctor.check_storage("nosuch://bucket/x")[0].found


def test_a_storage_where_two_writers_win_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = make_store(tmp_path)

    def overwrite(files: LocalFiles, name: str, data: bytes) -> bool:
        Path(files.path(name)).parent.mkdir(exist_ok=True)
        Path(files.path(name)).write_bytes(data)
        return True

    monkeypatch.setattr(LocalFiles, "create", overwrite)
    found = _one(doctor.check_storage(store.url), "atomic create")
    assert (found.state, found.found) == ("note", "4 of 4 writers won")


@pytest.mark.parametrize(
    ("seconds", "state"), [(0.0, "ok"), (4.9, "ok"), (-5.1, "note"), (None, "skipped")]
)
def test_a_clock_that_is_off_is_told(seconds: float | None, state: str) -> None:
    assert doctor._skew(seconds).state == state


def test_the_clock_of_the_store_is_compared_with_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = make_store(tmp_path)
    monkeypatch.setattr(LocalFiles, "modified", lambda *_: time.time() - 100)
    found = _one(doctor.check_storage(store.url), "clock")
    assert found.found.startswith("the storage's is -100")


# --- clusters


class _Head(http.server.BaseHTTPRequestHandler):
    """A head's dashboard: what is asked of it is kept, the answer is that of its server."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("Authorization")))
        code, body, location = server.answer
        self.send_response(code)
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _serve(answer: tuple[int, bytes, str | None]) -> Any:
    server: Any = http.server.HTTPServer(("127.0.0.1", 0), _Head)
    server.asked, server.answer = [], answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = _serve((200, json.dumps({"ray_version": version("ray")}).encode(), None))
    yield server
    server.shutdown()
    server.server_close()


def _url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_a_head_of_our_version_is_fine(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (found,) = doctor.check_cluster(_url(head) + "/")
    assert found.state == "ok"
    assert head.asked == [("/api/version", None)]


def test_a_head_of_another_version_is_bad(head: Any) -> None:
    head.answer = (200, b'{"ray_version": "2.9.0"}', None)
    (found,) = doctor.check_cluster(_url(head))
    assert (found.state, found.place) == ("bad", "cluster")
    assert "ray==2.9.0" in found.repair


@pytest.mark.parametrize(("code", "word"), [(401, "RAY_AUTH_TOKEN_PATH"), (500, "tunnel")])
def test_a_head_that_refuses_is_bad_and_says_what_to_do(head: Any, code: int, word: str) -> None:
    head.answer = (code, b"", None)
    (found,) = doctor.check_cluster(_url(head))
    assert found.found.endswith(f"HTTP {code}")
    assert word in found.repair


def test_what_is_no_head_is_bad(head: Any) -> None:
    head.answer = (200, b"<html>", None)
    assert doctor.check_cluster(_url(head))[0].state == "bad"


def test_the_token_goes_to_the_head_alone_and_is_never_shown(
    head: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-of-a-test")
    other = _serve((200, b'{"ray_version": "0"}', None))
    try:
        head.answer = (302, b"", _url(other) + "/api/version")
        checks = doctor.check_cluster(_url(head))
    finally:
        other.shutdown()
        other.server_close()
    assert head.asked == [("/api/version", "Bearer secret-of-a-test")]
    assert other.asked == [("/api/version", None)]
    assert "secret" not in str(checks)


def _closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_an_address_where_nothing_listens_is_bad_at_once(scheme: str) -> None:
    started = time.monotonic()
    (found,) = doctor.check_cluster(f"{scheme}127.0.0.1:{_closed_port()}")
    assert (found.state, doctor.exit_code([found])) == ("bad", 4)
    assert "refused" in found.found
    assert time.monotonic() - started < 10


def test_ray_client_addresses_and_passwords_are_refused() -> None:
    assert "Ray Client" in doctor.check_cluster("ray://127.0.0.1:10001")[0].found
    (found,) = doctor.check_cluster("http://me:hunter2@127.0.0.1:8265")
    assert found.state == "bad"
    assert "hunter2" not in str(found)


def test_every_node_tries_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from phasegrid.run.executors.ray import nodes, start

    store, called = make_store(tmp_path), []
    monkeypatch.setattr(start, "start_ray", lambda address: called.append(address))
    monkeypatch.setattr(start, "stop_ray", lambda: called.append("stopped"))
    monkeypatch.setattr(nodes, "probe_storage", lambda url, _id: called.append(url) or [])
    checks = doctor.check_cluster("auto", store.url)
    assert [check.state for check in checks] == ["ok", "ok"]
    assert called == ["auto", store.url, "stopped"]

    def fails(_url: str, _id: str) -> None:
        raise StoreError("node n1: permission denied")

    monkeypatch.setattr(nodes, "probe_storage", fails)
    found = doctor.check_cluster("auto", store.url)[-1]
    assert (found.state, found.place, found.found) == (
        "bad",
        "storage",
        "node n1: permission denied",
    )


def test_a_cluster_that_cannot_be_joined_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    from phasegrid.run.executors.ray import start

    def fails(_address: str) -> None:
        raise ClusterError("joining Ray at auto: there is none")

    monkeypatch.setattr(start, "start_ray", fails)
    (found,) = doctor.check_cluster("auto")
    assert (found.state, found.place) == ("bad", "cluster")


# --- the command


def _invoke(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *options], env={"RAY_AUTH_MODE": ""})
    return result.exit_code, result.output


def test_the_command_exits_4_for_storage_and_cluster_only(tmp_path: Path) -> None:
    code, output = _invoke("--storage", str(tmp_path))
    assert code == 0
    assert output.splitlines()[-1].startswith("0 bad")
    (tmp_path / "file").write_text("x")
    code, output = _invoke("--storage", str(tmp_path / "file" / "store"))
    assert code == 4
    assert "-> name another folder" in output
    code, output = _invoke("--address", f"127.0.0.1:{_closed_port()}", "--json")
    assert code == 4
    record = json.loads(output)
    assert record[-1]["place"] == "cluster"
    assert set(record[0]) == {"name", "state", "found", "repair", "place"}


def test_a_bad_package_alone_does_not_exit_4() -> None:
    assert doctor.exit_code([Check("torch", "bad", "not installed", "pip install torch")]) == 0


def test_the_doctor_leaves_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    doctor.examine(str(tmp_path))
    assert dict(os.environ) == before
