"""Carry the state of a network from one batch to the next.

Letters: B examples of a batch, M members.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from phasegrid.tasks.operations import Operations

Run: TypeAlias = Callable[..., Any]
"""Calls a network on inputs, and on a state where there is one, as its ``forward`` does."""


class Reader:
    """Runs a network on the batches of a set one after another.

    Where the task carries something and `module` has a method ``start(num)``, every batch begins
    with the state at the end of the one before, detached: `turn` goes on from a batch to the next,
    and until then a batch can be read again. Examples that a batch has more than the one before
    begin at the start. For any other network this is `run` itself.
    """

    def __init__(self, operations: Operations, module: nn.Module, run: Run) -> None:
        self._run = run
        start = getattr(module, "start", None) if operations.carries else None
        self._start: Callable[[int], Tensor] | None = start
        self._state: Tensor | None = None
        self._end: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs for a batch (B, ...), or for the batches of members (M, B,
        ...).
        """
        if self._start is None:
            outputs: Tensor = self._run(inputs)
            return outputs
        outputs, end = self._run(inputs, self._begin(inputs.shape[-2], self._start))
        self._end = end.detach()
        return outputs

    def turn(self) -> None:
        """Go on to the next batch."""
        self._state = self._end

    def _begin(self, num: int, start: Callable[[int], Tensor]) -> Tensor:
        if self._state is None:
            return start(num)
        state = self._state[:num]
        return state if len(state) == num else torch.cat([state, start(num - len(state))])


def draw_some(operations: Operations, num: int, count: int, rng: torch.Generator) -> Tensor:
    """Draw `count` of `num` examples (all, if there are fewer), in the order of the set:
    consecutive ones, if a network carries its state through the set.
    """
    if not operations.carries:
        order = torch.randperm(num, generator=rng, device=rng.device)[:count]
        return order.sort().values
    highest = max(0, num - count)
    start = torch.randint(highest + 1, (), generator=rng, device=rng.device)
    return start + torch.arange(min(num, count), device=rng.device)
