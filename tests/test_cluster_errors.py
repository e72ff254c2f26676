"""What a user is told where a cluster cannot be used: every message says what to do."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest

from phasegrid.cli import remote as cli_remote
from phasegrid.errors import ClusterError, SweepError
from phasegrid.store import submissions
from phasegrid.store.store import Store
from phasegrid.store.submissions import Job
from phasegrid.submit import ray_jobs
from phasegrid.submit.bundle import Bundle
from phasegrid.submit.endings import exit_code_of, hint
from phasegrid.submit.ray_jobs import Cluster
from phasegrid.submit.targets import check_address, checked_storage
from tests.test_session import SWEEP
from tests.test_submissions import ID, RUNNING, TOKEN, invoke

JobSubmissionClient = pytest.importorskip("ray.job_submission").JobSubmissionClient


@pytest.fixture(autouse=True)
def _no_cluster_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


class Answers(BaseHTTPRequestHandler):
    """Answers every request with the server's `status` and `body`."""

    def do_GET(self) -> None:
        server: Any = self.server
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(server.body)

    do_POST = do_PUT = do_GET  # noqa: N815 - names of the standard library

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        found.status, found.body = 200, b'{"ray_version": "2.60.0"}'  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def address_of(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ray://head:10001", "Ray Client, which ends the run.*write http://head:8265"),
        ("head:8265", "over HTTP.*write http://head:8265"),
        ("10.0.0.1:6379", "not to Ray's own port.*write http://10.0.0.1:8265"),
        ("auto", "write http://HEAD:8265"),
        ("ftp://head", "write http://HEAD:8265 or https://HEAD"),
        ("http://", "write http://HEAD:8265"),
        ("http://head:port", "write http://HEAD:8265"),
        ("http://me:secret@head:8265", "holds credentials"),
    ],
)
def test_an_address_that_jobs_have_not_is_refused_with_what_to_write(
    address: str, says: str
) -> None:
    with pytest.raises(SweepError, match=says) as caught:
        check_address(address)
    assert "secret" not in str(caught.value)


def test_http_and_https_addresses_are_taken() -> None:
    for address in ("http://head:8265", "https://ray.example.org", "http://[::1]:8265/"):
        check_address(address)


@pytest.mark.parametrize(
    ("storage", "shared", "found"),
    [
        ("s3://bucket/results", False, "s3://bucket/results"),
        ("/shared/../shared/results", False, "/shared/results"),
        ("file:///shared/results", False, "/shared/results"),
        ("file:///shared/my%20results", False, "/shared/my results"),
        ("results", True, os.path.join(os.getcwd(), "results")),
    ],
)
def test_storage_is_told_as_every_node_understands_it(
    storage: str, shared: bool, found: str
) -> None:
    assert checked_storage(storage, shared) == found


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("results", "another folder on every node.*add --shared-storage"),
        ("~/results", "another folder on every node"),
        ("file://results", "names a machine, 'results'"),
        ("memory://results", "memory belongs to one process"),
        ("s3://key:secret@bucket", "holds credentials"),
    ],
)
def test_storage_that_nodes_would_not_share_is_refused_with_the_reason(
    storage: str, says: str
) -> None:
    with pytest.raises(SweepError, match=says):
        checked_storage(storage, shared=False)


def test_nothing_listening_says_what_to_check() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(ClusterError, match=r"nothing answers there.*phasegrid\[cluster\]"):
        ray_jobs.connect(f"http://127.0.0.1:{port}")


def test_a_cluster_that_stays_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        port = silent.getsockname()[1]
        with pytest.raises(ClusterError, match=r"no answer within .*ssh -L 8265"):
            ray_jobs.connect(f"http://127.0.0.1:{port}")


def test_a_network_that_drops_everything_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def dropped(*_: object, timeout: float) -> None:
        assert timeout == ray_jobs.ANSWER_S
        raise URLError(TimeoutError("timed out"))

    monkeypatch.setattr(ray_jobs, "urlopen", dropped)
    with pytest.raises(ClusterError, match=r"http://head:8265: no answer within 20 s"):
        ray_jobs.connect("http://head:8265")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_says_which_variables_to_set(
    server: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    server.status, server.body = status, f"no: {TOKEN}".encode()
    with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE=token.*RAY_AUTH_TOKEN_PATH") as caught:
        ray_jobs.connect(address_of(server))
    assert TOKEN not in str(caught.value)


def test_a_client_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.dashboard.modules.job.sdk.requests", None)
    with pytest.raises(ClusterError, match=r"pip install 'phasegrid\[cluster\]'"):
        ray_jobs.connect("http://127.0.0.1:9")


def test_a_server_without_jobs_is_named(server: Any) -> None:
    server.status = 404
    with pytest.raises(ClusterError, match=r"reaching the cluster at .*404"):
        ray_jobs.connect(address_of(server))


def test_the_address_that_is_given_wins_over_the_environment(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    cluster = ray_jobs.connect(address_of(server))
    assert cluster.client.get_address() == address_of(server)
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


def test_a_traceback_of_the_server_becomes_one_line(server: Any) -> None:
    cluster = ray_jobs.connect(address_of(server))
    server.status, server.body = 500, b"Traceback:\n  File x\nValueError: id is taken\n"
    request = ray_jobs.Request(ID, ("true",), Bundle("s.yaml", b"PK", (), 0))
    for ask in (cluster.jobs, lambda: cluster.log(ID), lambda: cluster.stop(ID), lambda: cluster.submit(request)):  # fmt: skip
        with pytest.raises(ClusterError, match="500") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's client, newest aiohttp
def test_a_log_that_cannot_be_followed_is_a_cluster_error(server: Any) -> None:
    cluster = ray_jobs.connect(address_of(server))
    server.status = 500
    with pytest.raises(ClusterError, match="following the log of"):
        cluster.follow(ID, print)


def info(status: str, code: int | None = None, message: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        submission_id=ID, status=status, driver_exit_code=code, message=message, metadata={"phasegrid_sweep": "small"}
    )  # fmt: skip


class Client:
    """A cluster's client that gives prepared answers, one a call."""

    def __init__(self, *answers: list[SimpleNamespace]) -> None:
        self._answers = list(answers)
        self.submitted: dict[str, Any] = {}

    def list_jobs(self) -> list[SimpleNamespace]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def submit_job(self, **given: Any) -> str:
        assert Path(given["runtime_env"]["working_dir"]).read_bytes() == b"PK"
        self.submitted = given
        return ID

    def stop_job(self, submission_id: str) -> bool:
        return submission_id == ID

    def get_job_logs(self, _: str) -> str:
        return f"hello {TOKEN}\n"

    async def tail_job_logs(self, _: str) -> Any:
        for text in ("hello ", TOKEN):
            yield text


def test_waiting_ends_with_the_job_and_says_so_if_the_cluster_forgets_it() -> None:
    cluster = Cluster("http://head", Client([info("PENDING")], [info("RUNNING")], [info("FAILED", 3)]))  # fmt: skip
    assert cluster.wait(ID, poll_s=0).exit_code == 3
    with pytest.raises(ClusterError, match=r"does not know it.*submit the sweep again"):
        Cluster("http://head", Client([])).wait(ID, poll_s=0)


def test_a_cluster_that_stops_answering_is_waited_for_and_then_given_up_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moody(Client):
        """Fails to answer at first, and for good after a word."""

        def list_jobs(self) -> list[SimpleNamespace]:
            found = super().list_jobs()
            if not found:
                raise ConnectionError("HTTPConnectionPool: Max retries exceeded")
            return found

    now = iter(range(0, 10_000, 10))
    cluster = Cluster("http://head", Moody([], [], [info("RUNNING")], []))
    with pytest.raises(ClusterError, match=r"http://head has not answered for 30 s") as caught:
        cluster.wait(ID, poll_s=0, clock=lambda: float(next(now)))
    assert "HTTPConnectionPool" not in str(caught.value)
    monkeypatch.setattr(ray_jobs, "GONE_AFTER_S", 0.0)
    with pytest.raises(ClusterError, match=f"`phasegrid status {ID} --storage .*submit the sweep"):
        cli_remote._wait(Cluster("http://head", Moody([])), ID, str(tmp_path))


def not_ready(text: str, status: int = 500) -> RuntimeError:
    """Make the error of Ray's client for an answer of a server."""
    return RuntimeError(f"Request failed with status code {status}: {text}.")


class Starting(Client):
    """A cluster whose agent comes up late: the first submissions fail."""

    def __init__(self, *errors: Exception, taken: bool = False) -> None:
        super().__init__([])
        self.errors = list(errors)
        self.taken = taken

    def submit_job(self, **given: Any) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return super().submit_job(**given)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [info("PENDING")] if self.taken else []


REQUEST = ray_jobs.Request(ID, ("true",), Bundle("s.yaml", b"PK", (), 0))


def test_a_head_that_is_not_ready_is_tried_again_and_that_is_said() -> None:
    client = Starting(
        not_ready("No available agent to submit job, please try again later."),
        not_ready("Traceback:\n  File x\naiohttp.ClientConnectorError: Cannot connect to host"),
        not_ready("Service Unavailable", 503),
    )
    said: list[str] = []
    ray_jobs.when_ready(
        lambda: Cluster("http://head", client).submit(REQUEST), said.append, pause_s=0
    )
    assert client.submitted["submission_id"] == ID
    assert len(said) == 3
    assert "No available agent" in said[0]
    assert all(text.startswith("not ready yet: submitting") for text in said)


@pytest.mark.parametrize(
    "error",
    [not_ready("Traceback:\nValueError: id is taken"), not_ready("no such", 400), OSError("gone")],
)
def test_what_will_not_pass_is_told_at_once(error: Exception) -> None:
    client = Starting(error)
    with pytest.raises(ClusterError):
        ray_jobs.when_ready(lambda: Cluster("http://head", client).submit(REQUEST), pytest.fail)


def test_a_head_that_never_is_ready_is_given_up() -> None:
    client = Starting(*[not_ready("No available agent")] * 100)
    now = iter(range(0, 10_000, 10))
    with pytest.raises(ClusterError, match="No available agent"):
        ray_jobs.when_ready(
            lambda: Cluster("http://head", client).submit(REQUEST),
            str,
            pause_s=0,
            clock=lambda: float(next(now)),
        )
    assert 85 < len(client.errors) < 95


def test_a_submission_that_was_taken_when_its_answer_failed_is_no_failure() -> None:
    client = Starting(not_ready("Gateway Timeout", 504), taken=True)
    Cluster("http://head", client).submit(REQUEST)
    assert client.submitted == {}


def test_a_log_of_which_nothing_comes_ends_with_its_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent(Client):
        def list_jobs(self) -> list[SimpleNamespace]:
            found = super().list_jobs()
            if not found:
                raise ConnectionError
            return found

        async def tail_job_logs(self, _: str) -> Any:
            yield "so far"
            await asyncio.Event().wait()

    monkeypatch.setattr(ray_jobs, "GONE_AFTER_S", 0.01)
    said: list[str] = []
    with pytest.raises(ClusterError, match="nothing answers there"):
        Cluster("http://head", Silent([info("RUNNING")], [])).follow(ID, said.append)
    Cluster("http://head", Silent([info("FAILED", 137)])).follow(ID, said.append)
    assert said == ["so far"] * 2


@pytest.mark.parametrize(
    ("job", "stored", "code"),
    [
        (Job(ID, "FAILED", 1), None, 1),
        (Job(ID, "STOPPED"), 130, 130),
        (Job(ID, "STOPPED"), None, 143),
        (Job(ID, "SUCCEEDED"), None, 0),
        (Job(ID, "FAILED"), None, 4),
    ],
)
def test_the_exit_code_is_the_drivers_wherever_it_was_kept(
    job: Job, stored: int | None, code: int
) -> None:
    assert exit_code_of(job, stored) == code


def test_a_signal_that_killed_the_driver_becomes_a_shells_exit_code() -> None:
    cluster = Cluster("http://head", Client([info("FAILED", -9, "killed")]))
    assert cluster.job(ID).exit_code == 137


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (Job(ID, "FAILED", 127), "name it with --python"),
        (Job(ID, "FAILED", 1, "python: No module named phasegrid"), "--with-code"),
    ],
)
def test_a_driver_that_could_not_start_is_explained(job: Job, says: str) -> None:
    assert says in (hint(job) or "")
    assert hint(Job(ID, "FAILED", 1, "RuntimeError")) is None


def test_the_command_is_quoted_and_the_environment_holds_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    client = Client([])
    command = ray_jobs.run_command("python", "sweep/a b.yaml", "s3://b/r", ["name=x; rm -rf /"])
    Cluster("http://head", client).submit(
        ray_jobs.Request(ID, command, Bundle("sweep/a b.yaml", b"PK", (), 0))
    )
    given = client.submitted
    assert (
        given["entrypoint"]
        == "exec python -m phasegrid run 'sweep/a b.yaml' --address auto --storage s3://b/r"
        " --no-plot "
        "--set 'name=x; rm -rf /'"
    )
    assert given["submission_id"] == ID
    assert TOKEN not in json.dumps(given)
    assert int(given["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 30


def test_the_first_submission_to_a_new_path_records_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "connect", lambda address: Cluster(address, Accepting([])))
    (tmp_path / "s.yaml").write_text(SWEEP)
    submit = ("submit", str(tmp_path / "s.yaml"), "--address", "http://head:8265", "--storage")
    code, said = invoke(*submit, str(tmp_path / "new"))
    assert code == 0, said
    (record,) = submissions.read_all(Store.open(str(tmp_path / "new")))
    assert record.id in said
    assert f"{record.id}: submitted" in invoke("status", "--storage", str(tmp_path / "new"))[1]
    code, said = invoke(*submit, str(tmp_path / "no" / "such" / "mount"))
    assert code == 0, said
    assert "could not be recorded from here" in said
    assert not (tmp_path / "no").exists()


class Accepting(Client):
    """A cluster that takes whatever it is given."""

    def submit_job(self, **given: Any) -> str:
        return str(given["submission_id"])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client([info("RUNNING")])
    monkeypatch.setattr(ray_jobs, "connect", lambda address: Cluster(address, client))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return client


def test_a_cluster_is_asked_where_no_store_is_to_be_had(cluster: Client, tmp_path: Path) -> None:
    del cluster
    nowhere = ("--storage", str(tmp_path / "none"), "--address", "http://head")
    assert f"{ID}: running on the cluster" in invoke("status", ID, *nowhere)[1]
    assert f"{ID}: running on the cluster (not in this store)" in invoke("list", *nowhere)[1]
    assert invoke("status", "pg-other", *nowhere)[0] == 4
    assert invoke("list", *nowhere[:2])[0] == 4


def test_a_submission_that_only_the_cluster_knows_has_a_status(
    cluster: Client, tmp_path: Path
) -> None:
    del cluster
    storage = str(tmp_path / "store")
    Store.open(storage, create=True)
    given = ("--storage", storage, "--address", "http://head")
    assert f"{ID}: running on the cluster" in invoke("status", ID, *given)[1]
    (record,) = json.loads(invoke("list", *given, "--json")[1])
    assert record == {"id": ID, "sweep": "small", "state": "running"}


def test_logs_come_from_the_cluster_and_from_the_store_where_it_is_gone(
    cluster: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cluster
    store = Store.open(str(tmp_path / "store"), create=True)
    submissions.replace_record(store, RUNNING)
    store.write_log(submissions.log_name(ID), "kept\n")
    given = ("logs", ID, "--storage", store.url, "--address", "http://head")
    assert invoke(*given) == (0, "hello [token]\n")
    assert invoke(*given, "-f") == (0, "hello [token]")

    def gone(address: str) -> Cluster:
        raise ClusterError(f"{address}: nothing answers there")

    monkeypatch.setattr(ray_jobs, "connect", gone)
    code, said = invoke(*given)
    assert code == 0
    assert said.endswith("kept\n")
    assert "nothing answers there\nwhat the store holds:" in said
    assert "no record since 2026-01-02 03:03:23 UTC" in invoke("status", ID, *given[2:])[1]


def test_stopping_now_leaves_word_for_the_driver(cluster: Client, tmp_path: Path) -> None:
    del cluster
    store = Store.open(str(tmp_path / "store"), create=True)
    given = ("--storage", store.url, "--address", "http://head")
    said = invoke("stop", ID, *given)[1]
    assert said.startswith(f"asking http://head to stop {ID}: nothing new is started, running")
    assert "is being stopped" in said
    assert not submissions.must_hurry(store, ID)
    invoke("stop", ID, "--now", *given)
    assert submissions.must_hurry(store, ID)
    assert "was not running any more" in invoke("stop", "pg-other", *given)[1]


def test_waiting_goes_on_without_a_log_that_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client([info("STOPPED")])

    async def broken(_: str) -> Any:
        yield "so far\n"
        raise RuntimeError("closed")

    monkeypatch.setattr(client, "tail_job_logs", broken)
    store = Store.open(str(tmp_path / "store"), create=True)
    assert cli_remote._wait(Cluster("http://head", client), ID, store.url) == 143
    said = capsys.readouterr().err
    assert "so far" in said
    assert "its log was interrupted; asking http://head for its state" in said
    assert "closed" not in said
    assert "exit code 143 (stopped)" in said


def test_a_driver_that_left_no_word_is_said_to_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    submissions.replace_record(store, RUNNING)
    message = "python: No module named phasegrid"
    cluster = Cluster("http://head", Client([info("FAILED", 1, message)]))
    assert cli_remote._wait(cluster, ID, store.url) == 1
    said = capsys.readouterr().err
    assert "did not record in the store how it ended" in said
    assert "install it on every node" in said
    assert cli_remote._wait(cluster, ID, str(tmp_path / "elsewhere")) == 1
    assert "cannot read how it ended" in capsys.readouterr().err
