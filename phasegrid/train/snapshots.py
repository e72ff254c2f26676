"""Snapshots: the saved state of an unfinished training, from which a killed one continues.

Every trial has its own snapshots, so it can continue in another pack, or alone. The caller of the
training provides the storage, as an object with the methods of `Snapshots`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from phasegrid.keys import Json
from phasegrid.models.weights import own_copy

SNAPSHOT_VERSION = 4  # bump when what is saved, or the meaning of it, changes


class Snapshots(Protocol):
    """Stores snapshots of unfinished trainings, by trial and epoch; several epochs may be kept.
    Each save becomes visible at once.
    """

    def epochs(self, trial: str) -> Collection[int]:
        """Return the epochs for which a trial has a snapshot."""
        ...

    def load(self, trial: str, epoch: int) -> tuple[dict[str, Tensor], Json] | None:
        """Return the saved tensors and JSON facts of a trial after an epoch, or None."""
        ...

    def save(self, trial: str, epoch: int, tensors: dict[str, Tensor], meta: Json) -> None:
        """Store tensors (on the CPU, contiguous, without shared memory) and JSON facts."""
        ...

    def delete(self, trial: str, epochs: Collection[int]) -> None:
        """Delete these snapshots of a trial; missing ones are ignored."""
        ...


def epochs_to_resume(
    trials: Sequence[str], available: Mapping[str, Collection[int]]
) -> dict[str, int]:
    """Choose the epoch from which each trial resumes; 0, the beginning, if it has no snapshot.

    Trials that were one stack advanced together, and all snapshots of an epoch are written before
    older ones are deleted. So the latest epoch that all of them have, if any, restores the whole
    stack. Otherwise each trial takes its own latest.

    >>> epochs_to_resume(["a", "b"], {"a": [10, 20], "b": [10]})
    {'a': 10, 'b': 10}
    >>> epochs_to_resume(["a", "b"], {"a": [10, 20], "b": []})
    {'a': 20, 'b': 0}
    """
    kept = {trial: set(available.get(trial, ())) for trial in trials}
    common = set.intersection(*kept.values()) if kept else set()
    return {trial: max(common or kept[trial], default=0) for trial in trials}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors ``prefix/name`` and copy them to the CPU."""
    return {f"{prefix}/{name}": own_copy(value) for name, value in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `with_prefix`: return the tensors whose names begin with ``prefix/``, without the
    prefix.
    """
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
