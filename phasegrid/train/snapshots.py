"""Snapshots: the state of a training in progress, so that a killed one goes on where it was.

Every trial has its own, so that it can go on in another pack, or alone. Where they are kept is not
decided here: whoever trains hands in an object that has the methods of `Snapshots`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from phasegrid.keys import Json
from phasegrid.models.weights import own_copy

SNAPSHOT_VERSION = 4  # bump when what is saved, or the meaning of it, changes


class Snapshots(Protocol):
    """Snapshots of trainings in progress, by trial and epoch. A save is visible in one step;
    several epochs may be kept.
    """

    def epochs(self, trial: str) -> Collection[int]:
        """Return the epochs after which a trial has a snapshot."""
        ...

    def load(self, trial: str, epoch: int) -> tuple[dict[str, Tensor], Json] | None:
        """Return the tensors and the facts saved of a trial after an epoch, or None."""
        ...

    def save(self, trial: str, epoch: int, tensors: dict[str, Tensor], meta: Json) -> None:
        """Keep tensors (on the CPU, contiguous, no shared memory) and JSON facts."""
        ...

    def delete(self, trial: str, epochs: Collection[int]) -> None:
        """Forget these snapshots of a trial; those that are not there are no matter."""
        ...


def epochs_to_resume(
    trials: Sequence[str], available: Mapping[str, Collection[int]]
) -> dict[str, int]:
    """Choose the epoch from which each trial goes on; 0, the beginning, where it has no snapshot.

    Trials that were one stack went on together, and all snapshots of an epoch are written before
    those of an earlier one are deleted: the latest epoch that all of them have, if there is one,
    brings back the whole stack. Otherwise each takes its own latest.

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
    """Undo `with_prefix`: the tensors whose name begins with ``prefix/``, under the rest of it."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
