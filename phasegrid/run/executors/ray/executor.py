"""Execute packs as Ray Core tasks.

Tasks return small outcomes and never weights: Ray runs a finished task again when its returned
object is lost. Ray's own retries are off, so that a lost process is counted and written down by the
driver. Workers stay warm between packs (``max_calls=0``), which keeps imports, data sets and CUDA
contexts.

A job is to blame for an exception that its own code has raised, and for nothing else: whatever else
ends a task is infrastructure, of whatever class. If what died is Ray on this machine, or the head,
the run ends in a `ClusterError`.
"""

import os
import re
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phasegrid.config.types import Need, Resources
from phasegrid.errors import ClusterError, DeviceError, PhasegridError, StoreError
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Part
from phasegrid.packs import Outcome, Pack
from phasegrid.redaction import redact
from phasegrid.run import crashes, underway, watchdog
from phasegrid.run.executors.base import PackOptions, PackResult
from phasegrid.run.executors.ray import gpus, probe
from phasegrid.run.executors.ray.head import HeadWatch, dead
from phasegrid.run.executors.ray.start import first_line, is_our_own
from phasegrid.run.executors.ray.start import start_ray as start_ray
from phasegrid.run.executors.ray.start import stop_ray as stop_ray
from phasegrid.run.worker import node_folder
from phasegrid.store.failures import failure_of_pack
from phasegrid.store.store import Store

CRASH_TIMEOUT_S = 10.0  # for the nodes to look whether a process has crashed on them
GPU_TIMEOUT_S = 60.0  # for a node's GPU to be asked for its memory: others may hold them all
PROBE_TIMEOUT_S = 120.0  # a node may have to start a worker and import what it needs first
LOOK_EVERY_S = (
    1.0  # for how long the size of the cluster is taken as known: asking costs about a millisecond
)


def probe_storage(url: str, store_id: str) -> list[str]:
    """Make every node of the cluster try the store (see `probe`); return warnings.

    Raises:
        StoreError: naming the nodes that do not share it with this process, cannot write it, or
        cannot be used otherwise. ClusterError: if the cluster is lost meanwhile.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    question = probe.ask(url, store_id)
    try:
        with _ray_works():
            asked_at = time.time()
            nodes = {
                task.options(
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                ).remote(question): _name_of(node)
                for node in ray.nodes()  # type: ignore[no-untyped-call]
                if node["Alive"]
            }
            reports = list(_reports(question, nodes, asked_at))
        return probe.judge(url, reports)
    finally:
        probe.forget(question)


def _reports(
    question: probe.Question, nodes: dict[Any, str], asked_at: float
) -> Iterator[probe.Report]:
    """Collect the answers of the nodes; a node that does not answer in time has a problem."""
    waiting, ends = list(nodes), time.monotonic() + PROBE_TIMEOUT_S
    while waiting:
        left = max(0.0, ends - time.monotonic())
        ready, waiting = ray.wait(waiting, num_returns=1, timeout=left)
        now = time.time()
        for reference in ready or waiting:
            sight = probe.Sight(f"gave no answer within {PROBE_TIMEOUT_S:.0f} s")
            if ready:
                try:
                    sight = ray.get(reference)
                except ray.exceptions.RayError as error:
                    sight = probe.Sight(first_line(error))
            yield probe.read_answer(question, nodes[reference], sight, asked_at, now)
        if not ready:
            return


def _name_of(node: dict[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return f"{host} ({address}, {node['NodeID'][:8]})"


def gpu_bytes() -> int | None:
    """Return the memory of the smallest GPU of the cluster; None where there is none, torch sees
    none there, or others hold them all.
    """
    task = ray.remote(num_cpus=0, max_retries=3, max_calls=1)(
        gpus.total_bytes
    )  # it takes a context
    with _ray_works():
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
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            fall_back("each pack gets a GPU of its own: the memory of GPUs is not known", error)
            for waiting in tasks:
                ray.cancel(waiting, force=True)
            return None
    return min((count for count in found if count is not None), default=None)


def check_datasets(parts: Sequence[Part], run: str) -> list[str]:
    """Load each data set once in a worker, into the folder of its node that the processes of `run`
    share; return what is wrong.

    Raises:
        ClusterError: if the cluster is lost meanwhile, or the processes that try one die.
    """
    if not parts:
        return []
    task = ray.remote(num_cpus=1, max_retries=3)(_check_dataset)
    with _ray_works():
        watch = _watch()
        asked = {task.remote(part, run): part for part in parts}
        waiting, found = list(asked), []
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
            watch.answers()
            for reference in ready:
                try:
                    found.append(ray.get(reference))
                except Exception as error:
                    if _of_the_job(error):
                        raise error.cause from error
                    watch.after_a_loss()
                    name = asked[reference].name
                    raise ClusterError(f"loading data set {name}: {_why_lost(error)}") from error
    return [problem for problem in found if problem]


@contextmanager
def _ray_works() -> Iterator[None]:
    """Turn any error of Ray itself into a `ClusterError`."""
    try:
        yield
    except (PhasegridError, ray.exceptions.RayTaskError):
        raise
    except Exception as error:
        raise ClusterError(f"running on Ray: {redact(first_line(error))}") from error


def _watch() -> HeadWatch:
    """Watch the head, and what of the cluster runs on this machine."""
    here = ray.get_runtime_context()
    head = str(here.gcs_address)
    own = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())  # type: ignore[no-untyped-call]
    parts = [("raylet", f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}")]
    parts += [("head (gcs_server)", head)] if is_our_own() else []
    return HeadWatch(head, here=tuple(parts))


@dataclass(slots=True)
class RayExecutor:
    """Run packs as Ray tasks with what `resources` says they need. `place` is handed to every task,
    with its part of a GPU.

    Where `resources` does not say how much of a GPU a pack gets, `share_of` does; a pack that is
    tried again gets all of one. `usual_share` is that of most packs: it says how many run at once.
    A job that was killed for want of memory has a node to itself when it is tried again: Ray's
    monitor may have killed it for what another one took.
    """

    storage: str
    place: PackOptions
    resources: Resources = field(default_factory=Resources)
    max_in_flight: int | None = None
    share_of: Callable[[Pack], float] = lambda _pack: 1.0
    usual_share: float = 1.0
    _head: HeadWatch = field(default_factory=_watch)
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
        """Return what the cluster has, as it was when it was last asked: a head that is gone would
        block us for good.
        """
        now = time.monotonic()
        if now >= self._look_at and self._head.answers():
            self._look_at = now + LOOK_EVERY_S
            with _ray_works():
                self._resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return self._resources

    @property
    def slots(self) -> int:
        """How many packs may be in flight: a few more than run at once, so that no worker waits for
        the driver.
        """
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
        with _ray_works():
            reference = self._tasks[need].remote(pack, self.storage, place, failure_id)
        self._running[reference] = (pack, failure_id)

    def _part_of_a_gpu(self, pack: Pack) -> float:
        """Return how much of a GPU a pack gets that no one decided on: none where the cluster has
        none.
        """
        if not self._gives_gpus():
            return 0.0
        keys = set(pack.job_keys())
        again = not keys.isdisjoint(self._submitted)
        self._submitted |= keys
        return 1.0 if again else self.share_of(pack)

    def _cpus_of_a_node(self, need: Need) -> float:
        """Return the cores of the smallest node that has the GPUs and cores a pack needs; 0 where
        the head is silent.
        """
        if not self._head.answers():
            return 0.0
        with _ray_works():
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = [node["Resources"] for node in nodes if node["Alive"]]
        fits = (
            has["CPU"]
            for has in have
            if has.get("CPU", 0) >= need.num_cpus and has.get("GPU", 0) >= (need.num_gpus or 0)
        )
        return float(min(fits, default=0.0))

    def _gives_gpus(self) -> bool:
        """Whether packs whose need is not decided get a GPU: there is one, and they are not to run
        elsewhere.
        """
        elsewhere = self.place.device is not None and not self.place.device.startswith("cuda")
        return not elsewhere and bool(self._all_resources().get("GPU"))

    def wait(self, timeout_s: float) -> list[PackResult]:
        """Return the packs that have ended; wait at most `timeout_s` for the first.

        Raises:
            ClusterError: if the head of the cluster has not answered for half a minute, or Ray on
            this machine is dead.
        """
        self._head.answers()
        if not self._running:
            return []
        with _ray_works():
            ready, rest = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if ready and rest:
                more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
                ready += more
        return [self._ending(reference) for reference in ready]

    def close(self) -> None:
        """Cancel running packs; their snapshots and stored jobs stay."""
        with suppress(Exception):  # a cluster that is gone has nothing to cancel
            for reference in self._running:
                ray.cancel(reference, force=True)
        self._running.clear()

    def _ending(self, reference: Any) -> PackResult:
        pack, failure_id = self._running[reference]
        try:
            outcomes: Sequence[Outcome] = ray.get(reference)
        except Exception as error:
            ending = self._lost(pack, failure_id, error)
        else:
            ending = PackResult(pack, outcomes)
        del self._running[reference]
        return ending

    def _lost(self, pack: Pack, failure_id: str, error: Exception) -> PackResult:
        """Say what an error means for a pack.

        Raises:
            ClusterError: if the pack was lost with Ray on this machine.
        """
        if _of_the_job(error):
            return _ending_of_error(pack, error, self.storage)
        self._head.after_a_loss()
        if isinstance(error, ray.exceptions.LocalRayletDiedError):
            raise dead("raylet") from error
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            self._out_of_memory |= set(pack.job_keys())
            return PackResult(pack, lost=_why_lost(error), kind="oom")
        if self.place.timeout_s and Store.open(self.storage).has("failures", failure_id):
            why = watchdog.explanation(self.place.timeout_s)
            return PackResult(pack, lost=why, kind="timeout")
        died = isinstance(error, ray.exceptions.WorkerCrashedError)
        crash = self._find_crash(failure_id) if died else None
        if crash is not None:
            return PackResult(pack, lost=crash.why, kind="crash", traceback=crash.text)
        return PackResult(pack, lost=_why_lost(error))

    def _find_crash(self, attempt: str) -> crashes.Crash | None:
        """Ask this node, then the others, how the process of an attempt crashed; None if it did
        not, or nobody answers in time.
        """
        run = self.place.shared_data
        if run is None:
            return None
        here = _crash_here(run, attempt)
        if here is not None:
            return here
        with suppress(Exception):  # a cluster that is going has no answer
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            if len(nodes) > 1:
                task = ray.remote(num_cpus=0, max_retries=0)(_crash_here)
                there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
                asked = [task.options(scheduling_strategy=s).remote(run, attempt) for s in there]
                answered, _ = ray.wait(asked, num_returns=len(asked), timeout=CRASH_TIMEOUT_S)
                found: list[crashes.Crash] = [c for c in ray.get(answered) if c is not None]
                return found[0] if found else None
        return None


def _crash_here(run: str, attempt: str) -> crashes.Crash | None:
    return crashes.find_crash(node_folder.folder_of(run), attempt)


def _of_the_job(error: BaseException) -> TypeGuard[ray.exceptions.RayTaskError]:
    """Say whether an error is an exception that the code of a task has raised, and not one of
    Ray's.
    """
    return isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
        error.cause, ray.exceptions.RayError
    )


def _ending_of_error(pack: Pack, error: ray.exceptions.RayTaskError, storage: str) -> PackResult:
    """Blame an error on the pack's code; one of failing storage on the node's, unless it fails for
    the driver too.
    """
    if isinstance(error.cause, StoreError) and error.cause.fault is not None:
        return PackResult(pack, lost=probe.blame_node(error.cause, storage))
    why = redact(f"{type(error.cause).__name__}: {error.cause}")
    return PackResult(pack, lost=why, kind="app", traceback=str(error)[-8000:])


_WHY_LOST = {
    "WorkerCrashedError": (
        "its process died: killed (for want of memory?), crashed, or ended by the code it ran"
    ),
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


def on_device(place: PackOptions, assigned: str | None) -> PackOptions:
    """Return a place on the GPU that was assigned, or on the CPU if none was; unless it was said to
    be elsewhere.

    ``cuda`` says no more than Ray does. A GPU that a process sees but was not given has others on
    it.
    """
    if assigned is None:
        return replace(place, device="cpu") if place.device is None else place
    return replace(place, device=assigned) if place.device in (None, "cuda") else place


_STORES: dict[str, Store] = {}


def _do_pack(pack: Pack, storage: str, place: PackOptions, failure_id: str) -> list[Outcome]:
    """Run in a worker: imports are kept by the warm process, memory is given back."""
    from phasegrid.run.worker.malloc import give_back, keep_freed_memory
    from phasegrid.run.worker.pack import do

    folder = None if place.shared_data is None else node_folder.enter(place.shared_data)
    crashes.note_attempt(folder, failure_id)
    assigned = gpus.device_of(ray.get_gpu_ids())
    place = on_device(place, assigned)
    if assigned is not None and place.device == assigned:
        gpus.take(assigned, place.gpu_share)
    if storage not in _STORES:
        _STORES[storage] = Store.open(storage)
    store = _STORES[storage]

    def give_up(stack: str) -> None:
        why = watchdog.explanation(place.timeout_s or 0)
        store.put_failure(
            failure_of_pack(pack, "timeout", why, stack, attempt=1) | {"id": failure_id}
        )

    def note_life() -> bool:
        alive()
        return False

    noted = underway.Noted(place.shared_data, pack.key)
    keep_freed_memory()
    try:
        with watchdog.watched(place.timeout_s, give_up) as alive:
            return do(pack, store, place, note_life, noted.note)
    except DeviceError as error:
        crashes.leave_word(folder, f"its GPU was lost: {error}\n{traceback.format_exc()}")
        noted.forget()
        os._exit(1)  # no other pack may come to this process
    finally:
        noted.forget()
        give_back()
        gpus.give_back()


def _check_dataset(part: Part, run: str) -> str | None:
    from phasegrid.run.worker.pack import check_dataset

    return check_dataset(part, run)


def _look(question: probe.Question) -> probe.Sight:
    return probe.look(question)
