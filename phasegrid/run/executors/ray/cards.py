"""Read the cards of every node of a cluster that has GPUs, each on its own node.

The driver's node is read by the driver. Every other node gets one small actor, which reserves
neither a core nor a GPU and imports no torch. A node that has not answered yet, or cannot
tell, is listed under its id, without cards.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from phasegrid.errors import ClusterError
from phasegrid.run.cards.card import NodeCards
from phasegrid.run.cards.nvml import read_cards
from phasegrid.run.cards.ours import processes_of
from phasegrid.run.executors.ray.head import HeadWatch
from phasegrid.run.executors.ray.nodes import watch_head

FIND_NODES_EVERY_S = 60.0
ANSWER_S = 2.0


class Reader:
    """Keeps NVML open on its node, and reads the cards there."""

    def read(self, run: str | None) -> NodeCards | None:
        """Return the cards of this node; None if they are unknown."""
        return read_cards(processes_of(run))


@dataclass(slots=True)
class ClusterCards:
    """The cards of the nodes of the cluster that this process has joined; a reading waits at most
    `answer_s` for other nodes.
    """

    run: str | None
    answer_s: float = ANSWER_S
    _head: HeadWatch | None = None
    _own: str | None = None
    _readers: dict[str, Any] = field(default_factory=dict)  # by node
    _asked: dict[Any, str] = field(default_factory=dict)
    _latest: dict[str, NodeCards] = field(default_factory=dict)
    _find_at: float = float("-inf")

    def read(self) -> list[NodeCards] | None:
        """Return the latest cards of each node; None if the cluster is lost or was left."""
        if not ray.is_initialized():
            return None
        try:
            self._head = self._head or watch_head()  # not before: without a Ray it would start one
            if time.monotonic() >= self._find_at and self._head.answers():
                self._find_nodes()
            self._ask()
        except (ClusterError, ray.exceptions.RayError, RuntimeError, ValueError):
            return None  # the run itself finds out, and says so
        nodes = [self._latest.get(node, NodeCards(node, ())) for node in self._readers]
        if self._own is not None:
            nodes.append(read_cards(processes_of(self.run)) or NodeCards(self._own, ()))
        return nodes

    def _find_nodes(self) -> None:
        self._find_at = time.monotonic() + FIND_NODES_EVERY_S
        here = ray.get_runtime_context().get_node_id()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = {n["NodeID"] for n in nodes if n["Alive"] and n["Resources"].get("GPU")}
        self._own = here if here in have else None
        actor = ray.remote(num_cpus=0, num_gpus=0, max_restarts=0)(Reader)
        for node in have - {here} - self._readers.keys():
            place = NodeAffinitySchedulingStrategy(node, soft=False)
            self._readers[node] = actor.options(scheduling_strategy=place).remote()

    def _ask(self) -> None:
        """Ask the nodes that owe no answer, and take the answers that are there."""
        waiting = set(self._asked.values())
        for node, reader in self._readers.items():
            if node not in waiting:
                self._asked[reader.read.remote(self.run)] = node
        if not self._asked:
            return
        ready, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=self.answer_s)
        for reference in ready:
            node = self._asked.pop(reference)
            try:
                found: NodeCards | None = ray.get(reference)
            except ray.exceptions.RayError:  # the node or its reader is lost
                del self._readers[node]
                found = None
            if found is None:
                self._latest.pop(node, None)
            else:
                self._latest[node] = found
