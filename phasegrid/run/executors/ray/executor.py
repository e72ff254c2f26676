"""Execute packs as Ray Core tasks.

Tasks return small outcomes and never weights: Ray runs a finished task again when its returned
object is lost. Ray's own retries are off, so that the driver counts and records every lost process.
Workers stay warm between packs (``max_calls=0``), which keeps imports, data sets and CUDA contexts.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import ray.exceptions

from phasegrid.config.types import Need, Resources
from phasegrid.packs import Outcome, Pack
from phasegrid.plan.devices import Device, device_of
from phasegrid.run import watchdog
from phasegrid.run.executors.base import (
    LaneBytesOf,
    PackOptions,
    PackResult,
    nothing_known,
)
from phasegrid.run.executors.ray.head import HeadWatch, dead
from phasegrid.run.executors.ray.losses import ending_of_error, is_of_the_job, ray_works, why_lost
from phasegrid.run.executors.ray.nodes import LOOK_EVERY_S, find_crash, watch_head
from phasegrid.run.executors.ray.task import do_pack
from phasegrid.store.store import Store


@dataclass(slots=True)
class RayExecutor:
    """Run packs as Ray tasks, each with the cores, memory and share of a GPU that it needs.

    `resources` says what a pack needs, and every task gets `place`. If `resources` does not say
    which share of a GPU a pack gets, `share_of` does; a pack that is tried again gets a whole GPU.
    `card` is the name of the GPUs, if it is known, and `lane_bytes_of` a pack are the estimated
    bytes of its trainings there. A job that was killed because memory ran out
    gets a whole node for its next try, because Ray may have killed it although another job took the
    memory.
    """

    storage: str
    place: PackOptions
    resources: Resources = field(default_factory=Resources)
    max_in_flight: int | None = None
    share_of: Callable[[Pack], float] = lambda _pack: 1.0
    card: str | None = None
    lane_bytes_of: LaneBytesOf = nothing_known
    _head: HeadWatch = field(default_factory=watch_head)
    _running: dict[Any, tuple[Pack, str, Need]] = field(default_factory=dict)
    _tasks: dict[Need, Any] = field(default_factory=dict)
    _submitted: set[str] = field(default_factory=set)  # jobs
    _out_of_memory: set[str] = field(default_factory=set)  # jobs
    _resources: dict[str, float] = field(default_factory=dict)
    _look_at: float = 0.0

    @property
    def parallel(self) -> int:
        """How many packs of trainings the cluster can do at once; the number is at most a second
        old.
        """
        need = self.resources.of()
        total = self._all_resources()
        fits = total.get("CPU", 1.0) / max(need.num_cpus, 0.01)
        if self.gpu is not None:
            fits = min(fits, total.get("GPU", 0.0) / (need.num_gpus or 1.0))
        return max(1, int(fits))

    @property
    def gpu(self) -> Device | None:
        """The kind of GPU that trainings run on; None if they run on cores."""
        on_gpus = self.resources.num_gpus != 0 and self._gives_gpus()
        return device_of("cuda", self.card) if on_gpus else None

    def _all_resources(self) -> dict[str, float]:
        """Return the resources of the cluster. If the head does not answer, return those of its
        last answer, since Ray would wait for it for ever.
        """
        now = time.monotonic()
        if now >= self._look_at and self._head.answers():
            self._look_at = now + LOOK_EVERY_S
            with ray_works():
                self._resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return self._resources

    @property
    def slots(self) -> int:
        """How many packs may be in flight: a few more than can run at once, so that no worker waits
        for the driver.

        Where trainings run on GPUs, no pack is added once those in flight take all GPUs: a training
        that waits in Ray for a GPU would go before the measurements that become ready meanwhile.
        """
        if self.max_in_flight is not None:
            return self.max_in_flight
        if self.gpu is None or any(need.num_gpus == 0 for need in self.resources.metrics.values()):
            return self.parallel + max(2, self.parallel // 2)
        needs = [need for _, _, need in self._running.values()]
        total = self._all_resources()
        has_room = (
            sum(need.num_gpus or 0.0 for need in needs) < total.get("GPU", 0.0) - 1e-6
            and sum(need.num_cpus for need in needs) < total.get("CPU", 1.0) - 1e-6
        )
        return len(needs) + has_room

    def submit(self, pack: Pack) -> None:
        """Start a pack as a task."""
        names = {job.metric.name for job in pack.metric_jobs}
        need = self.resources.of(names.pop() if len(names) == 1 else None)
        if need.num_gpus is None:
            need = replace(need, num_gpus=self._part_of_a_gpu(pack))
        if len(pack.job_keys()) == 1 and not self._out_of_memory.isdisjoint(pack.job_keys()):
            need = replace(need, num_cpus=max(need.num_cpus, self._cpus_of_a_node(need)))
        if need not in self._tasks:
            self._tasks[need] = ray.remote(**_ray_options(need))(do_pack)
        place = replace(
            self.place,
            gpu_share=min(1.0, need.num_gpus or 1.0),
            lane_bytes=self.lane_bytes_of(pack) if need.num_gpus else {},
        )
        failure_id = uuid.uuid4().hex  # a worker whose pack hangs stores that failure under this id
        with ray_works():
            reference = self._tasks[need].remote(pack, self.storage, place, failure_id)
        self._running[reference] = (pack, failure_id, need)

    def _part_of_a_gpu(self, pack: Pack) -> float:
        """Return the share of a GPU that a pack gets if `resources` does not say; 0 if the cluster
        has no GPU.
        """
        if not self._gives_gpus():
            return 0.0
        keys = set(pack.job_keys())
        again = not keys.isdisjoint(self._submitted)
        self._submitted |= keys
        return 1.0 if again else self.share_of(pack)

    def _cpus_of_a_node(self, need: Need) -> float:
        """Return the cores of the smallest node that has the GPUs and cores a pack needs; 0 if the
        head does not answer.
        """
        if not self._head.answers():
            return 0.0
        with ray_works():
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = [node["Resources"] for node in nodes if node["Alive"]]
        fits = (
            has["CPU"]
            for has in have
            if has.get("CPU", 0) >= need.num_cpus and has.get("GPU", 0) >= (need.num_gpus or 0)
        )
        return float(min(fits, default=0.0))

    def _gives_gpus(self) -> bool:
        """Say whether packs get a GPU if `resources` does not say: the cluster has one, and no
        other device was asked for.
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
        with ray_works():
            ready, rest = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
            if ready and rest:
                more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
                ready += more
        return [self._ending(reference) for reference in ready]

    def close(self) -> None:
        """Cancel running packs; their snapshots and stored jobs stay."""
        with suppress(Exception):  # a lost cluster has nothing to cancel
            for reference in self._running:
                ray.cancel(reference, force=True)
        self._running.clear()

    def _ending(self, reference: Any) -> PackResult:
        pack, failure_id, _ = self._running[reference]
        try:
            outcomes: Sequence[Outcome] = ray.get(reference)
        except Exception as error:
            ending = self._lost(pack, failure_id, error)
        else:
            ending = PackResult(pack, outcomes)
        del self._running[reference]
        return ending

    def _lost(self, pack: Pack, failure_id: str, error: Exception) -> PackResult:
        """Return what an error of a task means for its pack.

        Raises:
            ClusterError: if Ray on this machine has died.
        """
        if is_of_the_job(error):
            return ending_of_error(pack, error, self.storage)
        self._head.after_a_loss()
        if isinstance(error, ray.exceptions.LocalRayletDiedError):
            raise dead("raylet") from error
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            self._out_of_memory |= set(pack.job_keys())
            return PackResult(pack, lost=why_lost(error), kind="oom")
        if self.place.timeout_s and Store.open(self.storage).has("failures", failure_id):
            why = watchdog.explanation(self.place.timeout_s)
            return PackResult(pack, lost=why, kind="timeout")
        died = isinstance(error, ray.exceptions.WorkerCrashedError)
        crash = find_crash(self.place.shared_data, failure_id) if died else None
        if crash is not None:
            return PackResult(pack, lost=crash.why, kind=crash.kind, traceback=crash.text)
        return PackResult(pack, lost=why_lost(error))


def _ray_options(need: Need) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": need.num_cpus,
        "num_gpus": need.num_gpus,
        "max_retries": 0,
        "retry_exceptions": False,
        "max_calls": 0,
    }
    return options | ({"memory": need.memory} if need.memory else {})
