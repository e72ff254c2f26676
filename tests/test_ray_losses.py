"""What Ray's errors mean for a pack: they are made as Ray makes them, and the executor takes them from there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from phasegrid.errors import ClusterError  # noqa: E402 - after the skip
from phasegrid.executors import Ending, Place  # noqa: E402
from phasegrid.head_watch import HeadWatch  # noqa: E402
from phasegrid.jobs import Pack, Part, Trial  # noqa: E402
from phasegrid.ray_executor import RayExecutor, start_ray  # noqa: E402
from phasegrid.store import Store  # noqa: E402
from phasegrid.sweep_types import Resources  # noqa: E402

PART = Part("noop", 1, {})
PACK = Pack("pack", "train", 0, (Trial("a" * 32, PART, PART, {}, 0),))
FAILURE_ID = "f" * 32
ADVICE = "Task failed because it died. Node IP: 10.1.2.3, node ID: 00ff. To see more, use `ray logs`.\nMore."


def ending_of(
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    storage: str = "nowhere",
    timeout_s: float | None = None,
) -> Ending:
    """Have the task of a pack end in an error."""

    def get(_reference: object) -> None:
        raise error

    def wait(references: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return references, []

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", wait)
    head = HeadWatch("head:1", connect=lambda _: True)
    executor = RayExecutor(storage, Place(timeout_s=timeout_s), _head=head)
    executor._running["reference"] = (PACK, FAILURE_ID)
    (ending,) = executor.wait(1.0)
    assert executor.wait(1.0) == []
    return ending


def node_died() -> BaseException:
    return ray.exceptions.NodeDiedError(ADVICE)


def test_a_dead_worker_is_infrastructure_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = ending_of(ray.exceptions.WorkerCrashedError(), monkeypatch)
    assert ending.kind == "infra"
    assert (ending.lost or "").startswith("WorkerCrashedError: its process died: killed")


def test_a_dead_node_is_infrastructure_and_its_address_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ending = ending_of(node_died(), monkeypatch)
    assert (ending.kind, ending.lost) == ("infra", "NodeDiedError: its node was lost (10.1.2.3)")


def test_what_the_memory_monitor_kills_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = ending_of(ray.exceptions.OutOfMemoryError(ADVICE), monkeypatch)
    assert ending.kind == "oom"
    assert ending.lost == (
        "OutOfMemoryError: its process was killed because the memory of its node ran out (10.1.2.3)"
    )


def test_an_exception_outside_every_job_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised = ray.exceptions.RayTaskError("_do_pack", "Traceback: in my_plugin", ImportError("no x"))
    ending = ending_of(raised, monkeypatch)
    assert (ending.kind, ending.lost) == ("app", "ImportError: no x")
    assert "in my_plugin" in (ending.traceback or "")


def test_any_other_error_of_ray_is_told_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = ending_of(ray.exceptions.RuntimeEnvSetupError("no such package"), monkeypatch)
    assert ending.kind == "app"
    assert "no such package" in (ending.lost or "")


@pytest.mark.parametrize(("noted", "kind"), [(True, "timeout"), (False, "infra")])
def test_a_worker_that_noted_that_it_stood_still_was_ended_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: bool, kind: str
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    if noted:
        store.put_failure({"id": FAILURE_ID, "kind": "timeout"})
    crashed = ray.exceptions.WorkerCrashedError()
    ending = ending_of(crashed, monkeypatch, store.url, timeout_s=20)
    assert ending.kind == kind
    assert ("within 20 s (run.timeout_s)" in (ending.lost or "")) is noted


def test_a_silent_head_is_not_asked_how_large_its_cluster_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blocks() -> None:
        pytest.fail("asking a head that is gone blocks for a minute and then ends the process")

    monkeypatch.setattr(ray, "cluster_resources", blocks)
    head = HeadWatch("head:1", connect=lambda _: False)
    executor = RayExecutor("nowhere", Place(), _head=head, _resources={"CPU": 4.0})
    assert executor.parallel == 4


NODES = [
    {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 1.0}},
    {"Alive": True, "Resources": {"CPU": 8.0}},
    {"Alive": False, "Resources": {"CPU": 2.0}},
    {"Alive": True, "Resources": {"memory": 1.0}},  # a head that does no work
]


@pytest.mark.parametrize(("num_gpus", "cpus"), [(0.0, 8.0), (1.0, 16.0)])
def test_what_ran_out_of_memory_has_a_node_to_itself_when_tried_again(
    monkeypatch: pytest.MonkeyPatch, num_gpus: float, cpus: float
) -> None:
    asked: list[float] = []

    class Task:
        def __init__(self, **options: float) -> None:
            self.cpus = options["num_cpus"]

        def __call__(self, _function: object) -> "Task":
            return self

        def remote(self, *_arguments: object) -> str:
            asked.append(self.cpus)
            return f"reference {len(asked)}"

    def get(_reference: object) -> None:
        raise ray.exceptions.OutOfMemoryError(ADVICE)

    monkeypatch.setattr(ray, "remote", Task)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    head = HeadWatch("head:1", connect=lambda _: True)
    executor = RayExecutor("nowhere", Place(), Resources(2.0, num_gpus), _head=head)
    for _ in range(2):
        executor.submit(PACK)
        executor.wait(1.0)
    executor.submit(replace(PACK, trials=(replace(PACK.trials[0], key="b" * 32),)))
    assert asked == [2.0, cpus, 2.0]


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
    ],
)
def test_a_cluster_that_cannot_be_joined_is_a_message(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, why: str
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match=f"joining Ray at 127.0.0.1:6379: {why}"):
        start_ray("127.0.0.1:6379")
