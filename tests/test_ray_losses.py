"""What Ray's errors mean for a pack: they are made as Ray makes them, and the executor takes them
from there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from phasegrid.config.types import Need, Resources  # noqa: E402
from phasegrid.errors import ClusterError  # noqa: E402
from phasegrid.jobs import Part, Trial  # noqa: E402
from phasegrid.packs import Pack  # noqa: E402
from phasegrid.run.executors.base import PackOptions, PackResult  # noqa: E402
from phasegrid.run.executors.ray.executor import RayExecutor  # noqa: E402
from phasegrid.run.executors.ray.head import HeadWatch  # noqa: E402
from phasegrid.run.worker import node_folder  # noqa: E402 - after the skip
from phasegrid.store.store import Store  # noqa: E402

PART = Part("noop", 1, {})
PACK = Pack("pack", "train", 0, (Trial("a" * 32, PART, PART, {}, 0),))
FAILURE_ID = "f" * 32
ADVICE = (
    "Task failed because it died. Node IP: 10.1.2.3, node ID: 00ff. To see more, use `ray"
    " logs`.\nMore."
)


def ending_of(
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    storage: str = "nowhere",
    timeout_s: float | None = None,
    refuses: bool = False,
    shared_data: str | None = None,
) -> PackResult:
    """Have the task of a pack end in an error, of a machine whose raylet may refuse connections by
    then.
    """

    def get(_reference: object) -> None:
        raise error

    def wait(references: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        return references, []

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", wait)
    head = HeadWatch(
        "head:1", connect=lambda _: True, here=(("raylet", "here:2"),), refuses=lambda _: False
    )
    executor = RayExecutor(
        storage, PackOptions(timeout_s=timeout_s, shared_data=shared_data), _head=head
    )
    executor._running["reference"] = (PACK, FAILURE_ID, Need(1.0, None))
    executor._head.answers()
    executor._head.refuses = lambda _: refuses
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
    assert (
        ending.lost
        == "OutOfMemoryError: its process was killed because the memory of its node ran out"
        " (10.1.2.3)"
    )


def test_an_exception_outside_every_job_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised = ray.exceptions.RayTaskError("_do_pack", "Traceback: in my_plugin", ImportError("no x"))
    ending = ending_of(raised, monkeypatch)
    assert (ending.kind, ending.lost) == ("app", "ImportError: no x")
    assert "in my_plugin" in (ending.traceback or "")


def errors_of_ray() -> list[BaseException]:
    """Make one of each error of Ray's that can be made without more than a text."""
    found: list[BaseException] = []
    for kind in vars(ray.exceptions).values():
        if not (isinstance(kind, type) and issubclass(kind, ray.exceptions.RayError)):
            continue
        for arguments in ((), ("lost",), (b"", "lost"), ("0" * 56, None, ""), ("lost", None)):
            try:
                found.append(kind(*arguments))
                str(found[-1])
                break
            except Exception:
                found = [error for error in found if type(error) is not kind]
    return found


def test_whatever_ray_raises_is_infrastructure_and_never_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = errors_of_ray()
    assert len(errors) > 20
    for error in errors:
        if isinstance(error, ray.exceptions.LocalRayletDiedError):
            continue
        of_ray = ending_of(error, monkeypatch)
        assert of_ray.kind == (
            "oom" if isinstance(error, ray.exceptions.OutOfMemoryError) else "infra"
        )
        wrapped = ray.exceptions.RayTaskError("_do_pack", "lost arguments", error)
        assert ending_of(wrapped, monkeypatch).kind == "infra"
    assert ending_of(ValueError("an answer that cannot be read"), monkeypatch).kind == "infra"


def test_a_pack_lost_with_ray_on_this_machine_ends_the_run_and_blames_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ClusterError, match="its raylet on this machine has died"):
        ending_of(ray.exceptions.LocalRayletDiedError(), monkeypatch)
    with pytest.raises(ClusterError, match="its raylet on this machine has died"):
        ending_of(ray.exceptions.WorkerCrashedError(), monkeypatch, refuses=True)


def test_an_error_of_ray_outside_a_pack_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object, **__: object) -> None:
        raise ray.exceptions.RaySystemError("Broken pipe")

    monkeypatch.setattr(ray, "wait", wait)
    executor = RayExecutor(
        "nowhere", PackOptions(), _head=HeadWatch("head:1", connect=lambda _: True)
    )
    executor._running["reference"] = (PACK, FAILURE_ID, Need(1.0, None))
    with pytest.raises(ClusterError, match=r"running on Ray: .*Broken pipe"):
        executor.wait(1.0)


def test_a_worker_that_left_the_stack_of_its_crash_is_not_infrastructure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_folder, "folder_of", lambda _run: tmp_path)
    monkeypatch.setattr(ray, "nodes", list)
    (tmp_path / "crash-1").write_text(f"{'e' * 32}\nFatal Python error: Bus error\n")
    (tmp_path / "crash-2").write_text(f"{FAILURE_ID}\nFatal Python error: Aborted\n\n  in conv2d\n")
    ending = ending_of(ray.exceptions.WorkerCrashedError(), monkeypatch, shared_data="run")
    assert (ending.kind, ending.lost) == ("crash", "its process died of SIGABRT")
    assert "in conv2d" in (ending.traceback or "")
    (tmp_path / "crash-2").write_text(
        f"{FAILURE_ID}\n\x03its GPU was lost: CUDA error\n  in conv2d\n"
    )
    ending = ending_of(ray.exceptions.WorkerCrashedError(), monkeypatch, shared_data="run")
    assert (ending.kind, ending.lost) == ("infra", "its GPU was lost: CUDA error")
    (tmp_path / "crash-2").write_text(f"{FAILURE_ID}\n")  # as one that was killed leaves it
    ending = ending_of(ray.exceptions.WorkerCrashedError(), monkeypatch, shared_data="run")
    assert ending.kind == "infra"
    assert ending_of(node_died(), monkeypatch, shared_data="run").kind == "infra"


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
    executor = RayExecutor("nowhere", PackOptions(), _head=head, _resources={"CPU": 4.0})
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
    executor = RayExecutor("nowhere", PackOptions(), Resources(2.0, num_gpus), _head=head)
    for _ in range(2):
        executor.submit(PACK)
        executor.wait(1.0)
    executor.submit(replace(PACK, trials=(replace(PACK.trials[0], key="b" * 32),)))
    assert asked == [2.0, cpus, 2.0]


def slots_with(
    running: Sequence[Need], resources: Resources | None = None, most: int | None = None
) -> int:
    """Return the slots of a cluster of 16 cores and 2 GPUs, beyond those that are in use."""
    head = HeadWatch("head:1", connect=lambda _: False)
    has = {"CPU": 16.0, "GPU": 2.0}
    executor = RayExecutor(
        "nowhere", PackOptions(), resources or Resources(), most, _head=head, _resources=has
    )
    for place, need in enumerate(running):
        executor._running[place] = (PACK, FAILURE_ID, need)
    assert executor.parallel == 2
    return executor.slots - len(running)


WHOLE, EIGHTH = Need(1.0, 1.0), Need(1.0, 0.125)


@pytest.mark.parametrize(
    ("running", "free"),
    [
        ([], 1),
        ([WHOLE], 1),
        ([WHOLE, WHOLE], 0),
        ([WHOLE, *[EIGHTH] * 7], 1),
        ([WHOLE, *[EIGHTH] * 8], 0),
        ([Need(8.0, 0.125)] * 2, 0),
    ],
)
def test_no_training_waits_in_ray_for_a_gpu_before_measurements(
    running: list[Need], free: int
) -> None:
    assert slots_with(running) == free


def test_measurements_on_cores_go_on_while_all_gpus_train() -> None:
    on_cores = Resources(metrics={"hessian": Need(1.0, 0.0)})
    assert slots_with([WHOLE, WHOLE], on_cores) == 2
    assert slots_with([WHOLE, WHOLE], most=3) == 1
