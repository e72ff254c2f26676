"""Snapshots: the state of a training in progress, so that a killed one goes on where it was.

Where they are kept is not decided here: whoever trains hands in an object that has the three methods of `Snapshots`.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from phasegrid.jobs import Json
from phasegrid.weights import own_copy

SNAPSHOT_VERSION = 2  # bump when what is saved, or the meaning of it, changes


class Snapshots(Protocol):
    """A place for one snapshot; saving replaces the one before in one step."""

    def load(self) -> tuple[dict[str, Tensor], Json] | None:
        """Return the tensors and the facts last saved, or None."""
        ...

    def save(self, tensors: dict[str, Tensor], meta: Json) -> None:
        """Keep tensors (on the CPU, contiguous, no shared memory) and JSON facts."""
        ...

    def clear(self) -> None:
        """Forget the snapshot, if there is one."""
        ...


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors ``prefix/name`` and copy them to the CPU."""
    return {f"{prefix}/{name}": own_copy(value) for name, value in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `with_prefix`: the tensors whose name begins with ``prefix/``, under the rest of it."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
