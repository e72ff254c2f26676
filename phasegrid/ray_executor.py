"""Packs as Ray Core tasks; with `remote` the only room that imports ray.

Tasks return small outcomes and never weights: Ray runs a finished task again when its returned object is lost. Ray's own
retries are off, so that a lost process is counted and written down by the driver. Workers stay warm between packs
(``max_calls=0``), which keeps imports, data sets and CUDA contexts.
"""

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phasegrid import gpus, probing, timeouts
from phasegrid.errors import ClusterError, StoreError
from phasegrid.executors import Ending, Place
from phasegrid.failures import failure_of_pack
from phasegrid.head_watch import HeadWatch
from phasegrid.jobs import Outcome, Pack, Part
from phasegrid.plugins import FOLDERS_VARIABLE
from phasegrid.store import Store
from phasegrid.sweep_types import Need, Resources
from phasegrid.tokens import how_to_set, redact

LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RaySystemError,
    ray.exceptions.TaskUnschedulableError,
)
GPU_TIMEOUT_S = 60.0  # for a node's GPU to be asked for its memory: others may hold them all
PROBE_TIMEOUT_S = 120.0  # a node may have to start a worker and import what it needs first
LOOK_EVERY_S = (
    1.0  # for how long the size of the cluster is taken as known: asking costs about a millisecond
)
OBJECT_STORE_BYTES = 128 * 2**20  # outcomes only; Ray's default would take 30% of memory


def start_ray(address: str | None, num_cpus: int | None = None) -> None:
    """Join the cluster at `address`, or start a Ray of our own on this machine.

    Raises:
        ClusterError: for a ``ray://`` address, or if the cluster cannot be reached or started.
    """
    if address and address.startswith("ray://"):
        raise ClusterError(
            f"joining Ray: {address} is a Ray Client address, which cannot carry a sweep; run on the cluster "
            "with --address auto, or give the address of its GCS (host:6379)"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault(gpus.NOSET_VARIABLE, "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options.update(
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            address="local",
        )
    else:
        options["address"] = address
        handed_on = {name: os.environ.get(name) for name in (gpus.NOSET_VARIABLE, FOLDERS_VARIABLE)}
        options["runtime_env"] = {"env_vars": {name: v for name, v in handed_on.items() if v}}
    try:
        ray.init(**options)
    except (
        ray.exceptions.AuthenticationError,
        ConnectionError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        where = f"joining Ray at {address}" if address else "starting Ray on this machine"
        raise ClusterError(f"{where}: {_why_not_joined(error, address)}") from error


def _why_not_joined(error: BaseException, address: str | None) -> str:
    """Say why Ray could not be joined: of a wrong token it says only that there is no connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ray.exceptions.AuthenticationError):
            return f"the cluster refuses us: {how_to_set()}"
        cause = cause.__cause__ or cause.__context__
    told = redact(_first_line(error))
    return f"{told} (if it asks for a token: {how_to_set()})" if address else told


def stop_ray() -> None:
    """Leave the cluster; ends the Ray that `start_ray` started, and no other."""
    ray.shutdown()


def probe_storage(url: str, store_id: str) -> list[str]:
    """Have every node of the cluster try the store (see `probing`); return warnings.

    Raises:
        StoreError: naming the nodes that do not share it with this process, cannot write it, or cannot be used otherwise.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    question = probing.ask(url, store_id)
    try:
        asked_at = time.time()
        nodes = {
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(question): _name_of(node)
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        }
        return probing.judge(url, list(_reports(question, nodes, asked_at)))
    finally:
        probing.forget(question)


def _reports(
    question: probing.Question, nodes: dict[Any, str], asked_at: float
) -> Iterator[probing.Report]:
    """Take the nodes' answers as they come; one that gives none in time has a problem."""
    waiting, ends = list(nodes), time.monotonic() + PROBE_TIMEOUT_S
    while waiting:
        left = max(0.0, ends - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        now = time.time()
        for reference in ready or waiting:
            sight = probing.Sight(f"gave no answer within {PROBE_TIMEOUT_S:.0f} s")
            if ready:
                try:
                    sight = ray.get(reference)
                except ray.exceptions.RayError as error:
                    sight = probing.Sight(_first_line(error))
            yield probing.read_answer(question, nodes[reference], sight, asked_at, now)
        if not ready:
            return


def _name_of(node: dict[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return f"{host} ({address}, {node['NodeID'][:8]})"


def gpu_bytes() -> int | None:
    """Return the memory of the smallest GPU of the cluster; None where there is none, torch sees none there, or others hold
    them all."""
    task = ray.remote(num_cpus=0, max_retries=3, max_calls=1)(
        gpus.total_bytes
    )  # it takes a context
    tasks = [
        task.options(
            num_gpus=0.01,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote()
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("GPU")
    ]
    try:
        found: list[int | None] = ray.get(tasks, timeout=GPU_TIMEOUT_S)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
        for waiting in tasks:
            ray.cancel(waiting, force=True)
        return None
    return min((count for count in found if count is not None), default=None)


def check_datasets(parts: Sequence[Part], run: str) -> list[str]:
    """Load each data set once in a worker, into the folder of its node that the processes of `run` share; return what is wrong."""
    task = ray.remote(num_cpus=1, max_retries=3)(_check_dataset)
    found: list[str | None] = ray.get([task.remote(part, run) for part in parts])
    return [problem for problem in found if problem]


@dataclass(slots=True)
class RayExecutor:
    """Run packs as Ray tasks with what `resources` says they need. `place` is handed to every task, with its part of a GPU.

    Where `resources` does not say how much of a GPU a pack gets, `share_of` does; a pack that is tried again gets all of
    one. `usual_share` is that of most packs: it says how many run at once. A job that was killed for want of memory has a
    node to itself when it is tried again: Ray's monitor may have killed it for what another one took.
    """

    storage: str
    place: Place
    resources: Resources = field(default_factory=Resources)
    max_in_flight: int | None = None
    share_of: Callable[[Pack], float] = lambda _pack: 1.0
    usual_share: float = 1.0
    _head: HeadWatch = field(
        default_factory=lambda: HeadWatch(ray.get_runtime_context().gcs_address)
    )
    _running: dict[Any, tuple[Pack, str]] = field(default_factory=dict)
    _tasks: dict[Need, Any] = field(default_factory=dict)
    _submitted: set[str] = field(default_factory=set)  # jobs
    _out_of_memory: set[str] = field(default_factory=set)  # jobs
    _resources: dict[str, float] = field(default_factory=dict)
    _look_at: float = 0.0

    @property
    def parallel(self) -> int:
        """How many packs the cluster does at once, as of a second ago at most."""
        need = self.resources.of()
        total = self._all_resources()
        fits = total.get("CPU", 1.0) / max(need.num_cpus, 0.01)
        part = need.num_gpus
        if part is None:
            part = self.usual_share if self._gives_gpus() else 0.0
        if part:
            fits = min(fits, total.get("GPU", 0.0) / part)
        return max(1, int(fits))

    def _all_resources(self) -> dict[str, float]:
        """Return what the cluster has, as it was when it was last asked: a head that is gone would block us for good."""
        now = time.monotonic()
        if now >= self._look_at and self._head.answers():
            self._look_at = now + LOOK_EVERY_S
            self._resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return self._resources

    @property
    def slots(self) -> int:
        """How many packs may be in flight: a few more than run at once, so that no worker waits for the driver."""
        if self.max_in_flight is not None:
            return self.max_in_flight
        return self.parallel + max(2, self.parallel // 2)

    def submit(self, pack: Pack) -> None:
        """Start a pack as a task."""
        names = {job.metric.name for job in pack.metric_jobs}
        need = self.resources.of(names.pop() if len(names) == 1 else None)
        if need.num_gpus is None:
            need = replace(need, num_gpus=self._part_of_a_gpu(pack))
        if len(pack.job_keys()) == 1 and not self._out_of_memory.isdisjoint(pack.job_keys()):
            need = replace(need, num_cpus=max(need.num_cpus, self._cpus_of_a_node(need)))
        if need not in self._tasks:
            self._tasks[need] = ray.remote(**_ray_options(need))(_do_pack)
        place = replace(self.place, gpu_share=min(1.0, need.num_gpus or 1.0))
        failure_id = (
            uuid.uuid4().hex
        )  # under which the worker writes down that the pack stood still
        reference = self._tasks[need].remote(pack, self.storage, place, failure_id)
        self._running[reference] = (pack, failure_id)

    def _part_of_a_gpu(self, pack: Pack) -> float:
        """Return how much of a GPU a pack gets that no one decided on: none where the cluster has none."""
        if not self._gives_gpus():
            return 0.0
        keys = set(pack.job_keys())
        again = not keys.isdisjoint(self._submitted)
        self._submitted |= keys
        return 1.0 if again else self.share_of(pack)

    def _cpus_of_a_node(self, need: Need) -> float:
        """Return the cores of the smallest node that has the GPUs and cores a pack needs; 0 where the head is silent."""
        if not self._head.answers():
            return 0.0
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = [node["Resources"] for node in nodes if node["Alive"]]
        fits = (
            has["CPU"]
            for has in have
            if has.get("CPU", 0) >= need.num_cpus and has.get("GPU", 0) >= (need.num_gpus or 0)
        )
        return float(min(fits, default=0.0))

    def _gives_gpus(self) -> bool:
        """Whether packs whose need is not decided get a GPU: there is one, and they are not to run elsewhere."""
        elsewhere = self.place.device is not None and not self.place.device.startswith("cuda")
        return not elsewhere and bool(self._all_resources().get("GPU"))

    def wait(self, timeout_s: float) -> list[Ending]:
        """Return the packs that have ended, waiting at most `timeout_s` for the first.

        Raises:
            ClusterError: if the head of the cluster has not answered for half a minute.
        """
        self._head.answers()
        if not self._running:
            return []
        ready, rest = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if ready and rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        return [self._ending(reference) for reference in ready]

    def close(self) -> None:
        """Cancel what still runs; its snapshots and stored jobs stay."""
        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()

    def _ending(self, reference: Any) -> Ending:
        pack, failure_id = self._running.pop(reference)
        try:
            outcomes: Sequence[Outcome] = ray.get(reference)
        except ray.exceptions.OutOfMemoryError as error:
            self._out_of_memory |= set(pack.job_keys())
            return Ending(pack, lost=_why_lost(error), kind="oom")
        except LOST as error:
            if self.place.timeout_s and Store.open(self.storage).has("failures", failure_id):
                why = timeouts.explanation(self.place.timeout_s)
                return Ending(pack, lost=why, kind="timeout")
            return Ending(pack, lost=_why_lost(error))
        except ray.exceptions.RayTaskError as error:
            return _ending_of_error(pack, error, self.storage)
        except ray.exceptions.RayError as error:
            return Ending(pack, lost=_why_lost(error), kind="app", traceback=str(error)[-8000:])
        return Ending(pack, outcomes)


def _ending_of_error(pack: Pack, error: ray.exceptions.RayTaskError, storage: str) -> Ending:
    """Blame an error on the pack's code; one of failing storage on the node's, unless it fails for the driver too."""
    if isinstance(error.cause, StoreError) and error.cause.fault is not None:
        return Ending(pack, lost=probing.blame_node(error.cause, storage))
    why = redact(f"{type(error.cause).__name__}: {error.cause}")
    return Ending(pack, lost=why, kind="app", traceback=str(error)[-8000:])


_WHY_LOST = {
    "WorkerCrashedError": "its process died: killed (for want of memory?), crashed, or ended by the code it ran",
    "NodeDiedError": "its node was lost",
    "OutOfMemoryError": "its process was killed because the memory of its node ran out",
}


def _why_lost(error: BaseException) -> str:
    """Say what Ray's error means for a pack; Ray's own texts advise on Ray."""
    name = type(error).__name__
    where = re.search(r"IP: ([0-9a-f.:]*[0-9a-f])", str(error))
    node = f" ({where[1]})" if where and name in ("NodeDiedError", "OutOfMemoryError") else ""
    own_text = " ".join(str(error).split())[:300]
    return f"{name}: {_WHY_LOST.get(name) or own_text}{node}"


def _ray_options(need: Need) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": need.num_cpus,
        "num_gpus": need.num_gpus,
        "max_retries": 0,
        "retry_exceptions": False,
        "max_calls": 0,
    }
    return options | ({"memory": need.memory} if need.memory else {})


def on_device(place: Place, assigned: str | None) -> Place:
    """Return a place on the GPU that was assigned, or on the CPU if none was; unless it was said to be elsewhere.

    ``cuda`` says no more than Ray does. A GPU that a process sees but was not given has others on it.
    """
    if assigned is None:
        return replace(place, device="cpu") if place.device is None else place
    return replace(place, device=assigned) if place.device in (None, "cuda") else place


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


_STORES: dict[str, Store] = {}


def _do_pack(pack: Pack, storage: str, place: Place, failure_id: str) -> list[Outcome]:
    """Run in a worker: imports are kept by the warm process, memory is given back."""
    from phasegrid.allocating import give_back, keep_freed_memory
    from phasegrid.work import do

    assigned = gpus.device_of(ray.get_gpu_ids())
    place = on_device(place, assigned)
    if assigned is not None and place.device == assigned:
        gpus.take(assigned, place.gpu_share)
    if storage not in _STORES:
        _STORES[storage] = Store.open(storage)
    store = _STORES[storage]

    def give_up(stack: str) -> None:
        why = timeouts.explanation(place.timeout_s or 0)
        store.put_failure(
            failure_of_pack(pack, "timeout", why, stack, attempt=1) | {"id": failure_id}
        )

    def note_life() -> bool:
        alive()
        return False

    keep_freed_memory()
    try:
        with timeouts.watched(place.timeout_s, give_up) as alive:
            return do(pack, store, place, note_life)
    finally:
        give_back()
        gpus.give_back()


def _check_dataset(part: Part, run: str) -> str | None:
    from phasegrid.work import check_dataset

    return check_dataset(part, run)


def _look(question: probing.Question) -> probing.Sight:
    return probing.look(question)
