"""The interface of executors, which run packs, and `Serial`, which runs them in this process: for
tests, debugging and a single GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from phasegrid.packs import Outcome, Pack
from phasegrid.plan.devices import Device

DoPack = Callable[[Pack], Sequence[Outcome]]
LaneBytesOf = Callable[[Pack], Mapping[str, int]]
"""Takes a pack; returns the estimated bytes of each training on a GPU, by key, where known."""
LostKind = Literal["infra", "oom", "timeout", "app", "crash"]


def nothing_known(_pack: Pack) -> Mapping[str, int]:
    """Return no estimates."""
    return {}


@dataclass(frozen=True, slots=True)
class PackOptions:
    """Where and how a pack runs. This can change results only by rounding, which training
    amplifies.

    `device` None means a GPU if there is one. `threads` is for torch on a CPU. `gpu_share` is the
    part of a GPU's memory that the pack may take, and `lane_bytes` the estimated bytes of each of
    its trainings there, by key, where they are known. `shared_data` names the folder of each node
    where processes share data sets (see `node_folder`). `timeout_s` and `reproducible` come from
    `RunOptions`. `code` maps the kind and name of each plug-in to its digest at the beginning of
    the run; `user` is the commit of its repository. The class is declared in a module without
    torch, because a process that only submits packs need not import torch.
    """

    device: str | None = None
    threads: int = 1
    strategy: Literal["auto", "loop", "vmap", "fused", "merged"] = "auto"
    snapshot_every_s: float = 60.0
    gpu_share: float = 1.0
    lane_bytes: Mapping[str, int] = field(default_factory=dict)
    shared_data: str | None = None
    timeout_s: float | None = None
    code: Mapping[tuple[str, str], str] = field(default_factory=dict)
    user: tuple[str | None, bool | None] = (None, None)
    reproducible: bool = False


@dataclass(frozen=True, slots=True)
class PackResult:
    """How a submitted pack ended: with outcomes, or `lost` with the reason. A pack is lost if its
    process died, or if it raised an error that no job caused (`kind` ``app``, with its
    `traceback`). A process that was ended for ``timeout`` has stored that failure itself. After a
    ``crash`` (a signal, a GPU that refuses a process), `traceback` is the stack that the process
    left; a card that is lost to all processes is a fault of the infrastructure.
    """

    pack: Pack
    outcomes: Sequence[Outcome] = ()
    lost: str | None = None
    kind: LostKind = "infra"
    traceback: str | None = None


class Executor(Protocol):
    """The interface between the scheduling policy and the processes that run packs."""

    @property
    def parallel(self) -> int:
        """How many packs of trainings can run at once now."""

    @property
    def gpu(self) -> Device | None:
        """The kind of GPU that trainings run on; None if they run on cores."""

    @property
    def slots(self) -> int:
        """How many packs may be in flight."""
        ...

    def submit(self, pack: Pack) -> None:
        """Start a pack."""
        ...

    def wait(self, timeout_s: float) -> list[PackResult]:
        """Return the packs that have ended; wait at most `timeout_s` for the first."""
        ...

    def close(self) -> None:
        """End all running packs and release all resources."""
        ...


@dataclass(slots=True)
class Serial:
    """Runs each pack in this process, when it is submitted."""

    do: DoPack
    slots: int = 1
    parallel: int = 1
    gpu: Device | None = None
    _endings: list[PackResult] = field(default_factory=list)

    def submit(self, pack: Pack) -> None:
        """Do the pack now."""
        self._endings.append(PackResult(pack, self.do(pack)))

    def wait(self, timeout_s: float) -> list[PackResult]:  # noqa: ARG002 - of the protocol
        """Return the packs that ended since the last call."""
        endings, self._endings = self._endings, []
        return endings

    def close(self) -> None:
        """Nothing runs in the background."""
