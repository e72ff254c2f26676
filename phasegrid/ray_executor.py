"""Packs as Ray Core tasks; with `remote` the only room that imports ray.

Tasks return small outcomes and never weights: Ray runs a finished task again when its returned object is lost. Ray's own
retries are off, so that a lost process is counted and written down by the driver. Workers stay warm between packs
(``max_calls=0``), which keeps imports, data sets and CUDA contexts.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phasegrid.errors import ClusterError, StoreError
from phasegrid.executors import Ending
from phasegrid.jobs import Outcome, Pack, Part
from phasegrid.plugins import FOLDERS_VARIABLE
from phasegrid.sweep_types import Need, Resources

LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RaySystemError,
    ray.exceptions.TaskUnschedulableError,
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
        plugins = os.environ.get(FOLDERS_VARIABLE)
        if plugins:
            options["runtime_env"] = {"env_vars": {FOLDERS_VARIABLE: plugins}}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        where = f"joining Ray at {address}" if address else "starting Ray on this machine"
        raise ClusterError(f"{where}: {error}") from error


def stop_ray() -> None:
    """Leave the cluster; ends the Ray that `start_ray` started, and no other."""
    ray.shutdown()


def probe_storage(url: str, store_id: str) -> None:
    """Have every node of the cluster open the store, find it to be `store_id`, and write to it.

    Raises:
        StoreError: naming the nodes that cannot, or that do not see what this process wrote.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_probe)
    nodes = [
        node
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    checks = {
        node["NodeManagerHostname"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(url, store_id)
        for node in nodes
    }
    problems = []
    for host, reference in checks.items():
        try:
            problem = ray.get(reference, timeout=60)
        except (ray.exceptions.RayError, TimeoutError) as error:
            problem = str(error)
        if problem:
            problems.append(f"node {host}: {problem}")
    if problems:
        raise StoreError(
            f"checking that every node shares the storage {url}: " + "; ".join(problems)
        )


def check_datasets(parts: Sequence[Part]) -> list[str]:
    """Load each data set once in a worker; return what is wrong."""
    task = ray.remote(num_cpus=1, max_retries=3)(_check_dataset)
    found: list[str | None] = ray.get([task.remote(part) for part in parts])
    return [problem for problem in found if problem]


@dataclass(slots=True)
class RayExecutor:
    """Run packs as Ray tasks with what `resources` says they need. `place` is handed to every task as it is."""

    storage: str
    place: Any
    resources: Resources = field(default_factory=Resources)
    max_in_flight: int | None = None
    _running: dict[Any, Pack] = field(default_factory=dict)
    _tasks: dict[Need, Any] = field(default_factory=dict)

    @property
    def parallel(self) -> int:
        """How many packs the cluster does at once, now."""
        need = self.resources.of()
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        fits = total.get("CPU", 1.0) / max(need.num_cpus, 0.01)
        if _gpus(need):
            fits = min(fits, total.get("GPU", 0.0) / _gpus(need))
        return max(1, int(fits))

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
        if need not in self._tasks:
            self._tasks[need] = ray.remote(**_ray_options(need))(_do_pack)
        self._running[self._tasks[need].remote(pack, self.storage, self.place)] = pack

    def wait(self, timeout_s: float) -> list[Ending]:
        """Return the packs that have ended, waiting at most `timeout_s` for the first."""
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
        pack = self._running.pop(reference)
        try:
            outcomes: Sequence[Outcome] = ray.get(reference)
        except LOST as error:
            return Ending(pack, lost=f"{type(error).__name__}: {_first_line(error)}")
        except ray.exceptions.RayError as error:
            failed = [
                Outcome(key, "failed", error=str(error), kind="app") for key in pack.job_keys()
            ]
            return Ending(pack, failed)
        return Ending(pack, outcomes)


def _ray_options(need: Need) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": need.num_cpus,
        "num_gpus": _gpus(need),
        "max_retries": 0,
        "retry_exceptions": False,
        "max_calls": 0,
    }
    return options | ({"memory": need.memory} if need.memory else {})


def _gpus(need: Need) -> float:
    """Return the GPUs of a pack: as asked for, else one where the cluster has any."""
    if need.num_gpus is not None:
        return need.num_gpus
    has = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    return 1.0 if has else 0.0


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


_STORES: dict[str, Any] = {}


def _do_pack(pack: Pack, storage: str, place: Any) -> list[Outcome]:
    """Run in a worker: imports are kept by the warm process, memory is given back."""
    from phasegrid.allocating import give_back, keep_freed_memory
    from phasegrid.store import Store
    from phasegrid.work import do

    if storage not in _STORES:
        _STORES[storage] = Store.open(storage)
    keep_freed_memory()
    try:
        return do(pack, _STORES[storage], place)
    finally:
        give_back()


def _check_dataset(part: Part) -> str | None:
    from phasegrid.work import check_dataset

    return check_dataset(part)


def _probe(url: str, store_id: str) -> str | None:
    from phasegrid.store import Store

    try:
        store = Store.open(url)
        store.probe()
    except StoreError as error:
        return str(error)
    return (
        None if store.id == store_id else f"sees another store there ({store.id}, not {store_id})"
    )
