"""Ask the nodes of a cluster about their storage, GPUs, data sets and crashed processes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phasegrid.errors import ClusterError
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Part
from phasegrid.run import crashes
from phasegrid.run.executors.ray import gpus, probe
from phasegrid.run.executors.ray.head import HeadWatch
from phasegrid.run.executors.ray.losses import is_of_the_job, ray_works, why_lost
from phasegrid.run.executors.ray.start import first_line, is_our_own
from phasegrid.run.worker import node_folder

CRASH_TIMEOUT_S = 10.0  # for all nodes to look for a crashed process
GPU_TIMEOUT_S = 60.0  # to ask a node for a GPU's memory: others may hold all GPUs
LOOK_EVERY_S = 1.0  # how long the size of the cluster is kept: asking costs a millisecond
PROBE_TIMEOUT_S = 120.0  # a node may have to start a worker and import packages first


def probe_storage(url: str, store_id: str) -> list[str]:
    """Make every node of the cluster try the store (see `probe`); return warnings.

    Raises:
        StoreError: if a node does not share it with this process, cannot write it, or cannot be
            used for another reason; the message names the nodes.
        ClusterError: if the cluster is lost during the check.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    question = probe.ask(url, store_id)
    try:
        with ray_works():
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


def smallest_gpu() -> tuple[int, str] | None:
    """Return the memory and the name of the smallest GPU of the cluster; None if there is none,
    torch sees none, or others hold them all.
    """
    # In a process of its own, because asking makes a CUDA context.
    task = ray.remote(num_cpus=0, max_retries=3, max_calls=1)(gpus.smallest)
    with ray_works():
        tasks = [
            task.options(
                num_gpus=0.01,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote()
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"] and node["Resources"].get("GPU")
        ]
        try:
            found: list[tuple[int, str] | None] = ray.get(tasks, timeout=GPU_TIMEOUT_S)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
            fall_back("each pack gets a GPU of its own: the memory of the GPUs is unknown", error)
            for waiting in tasks:
                ray.cancel(waiting, force=True)
            return None
    return min((card for card in found if card is not None), default=None)


def check_datasets(parts: Sequence[Part], run: str, device: str | None) -> list[str]:
    """Load each data set once in a worker, into the folder that the processes of `run` share on its
    node, for jobs on a device (by default a GPU, if the cluster has one); return the mistakes of
    the data sets.

    Raises:
        ClusterError: if the cluster is lost meanwhile, or a process that loads a data set dies.
    """
    if not parts:
        return []
    task = ray.remote(num_cpus=1, max_retries=3)(_check_dataset)
    with ray_works():
        watch = watch_head()
        device = device or ("cuda" if _has_gpus() else "cpu")
        asked = {task.remote(part, device, run): part for part in parts}
        waiting, found = list(asked), []
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
            watch.answers()
            for reference in ready:
                try:
                    found.append(ray.get(reference))
                except Exception as error:
                    if is_of_the_job(error):
                        raise error.cause from error
                    watch.after_a_loss()
                    name = asked[reference].name
                    raise ClusterError(f"loading data set {name}: {why_lost(error)}") from error
    return [problem for problem in found if problem]


def watch_head() -> HeadWatch:
    """Return a watch over the head of the cluster, and over the parts of Ray on this machine."""
    here = ray.get_runtime_context()
    head = str(here.gcs_address)
    own = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())  # type: ignore[no-untyped-call]
    parts = [("raylet", f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}")]
    parts += [("head (gcs_server)", head)] if is_our_own() else []
    return HeadWatch(head, here=tuple(parts))


def find_crash(run: str | None, attempt: str) -> crashes.Crash | None:
    """Ask this node, then the others, how the process of an attempt crashed; None if it did not
    crash, or nobody answers in time. `run` names the folders that the processes share.
    """
    if run is None:
        return None
    here = _crash_here(run, attempt)
    if here is not None:
        return here
    with suppress(Exception):  # a dying cluster does not answer
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if len(nodes) > 1:
            task = ray.remote(num_cpus=0, max_retries=0)(_crash_here)
            there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
            asked = [task.options(scheduling_strategy=s).remote(run, attempt) for s in there]
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=CRASH_TIMEOUT_S)
            found: list[crashes.Crash] = [c for c in ray.get(answered) if c is not None]
            return found[0] if found else None
    return None


def _look(question: probe.Question) -> probe.Sight:
    return probe.look(question)


def _has_gpus() -> bool:
    return bool(ray.cluster_resources().get("GPU"))  # type: ignore[no-untyped-call]


def _check_dataset(part: Part, device: str, run: str) -> str | None:
    from phasegrid.run.worker.pack import check_dataset

    return check_dataset(part, device, run)


def _crash_here(run: str, attempt: str) -> crashes.Crash | None:
    return crashes.find_crash(node_folder.folder_of(run), attempt)
