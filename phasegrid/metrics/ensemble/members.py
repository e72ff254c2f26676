"""Read what the members of an ensemble answer on a set, batch by batch: from what the metric
``predictions`` stored, or from the networks themselves.

Letters: M members, N examples, C classes, B examples of a batch.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.models.network_state import evaluating, outputs_of
from phasegrid.tasks.carrying import Reader


class Member(Protocol):
    """One member, on the batches of a set one after another."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return its outputs (B, ..., C) for the next batch."""


class Stored:
    """A member whose logits (N, C) on a set are stored, in the order of the set."""

    def __init__(self, logits: Tensor) -> None:
        self._logits, self._start = logits, 0

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits of the next batch of inputs (B, ...)."""
        start = self._start
        self._start += len(inputs)
        return self._logits[start : self._start]


class Live:
    """A member that is passed forward."""

    def __init__(self, network: nn.Module, data: Dataset) -> None:
        self._network = network
        self._read = Reader(data.operations, network, partial(outputs_of, network))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Pass the next batch forward."""
        with evaluating(self._network):
            outputs = self._read(inputs)
            self._read.turn()
        return outputs


def stored_members(logits: Iterable[Tensor]) -> Sequence[Member]:
    """Return the members with these logits, (N, C) of each."""
    return [Stored(own) for own in logits]


def live_members(networks: Sequence[nn.Module], data: Dataset) -> Sequence[Member]:
    """Return the members that are these networks."""
    return [Live(network, data) for network in networks]
