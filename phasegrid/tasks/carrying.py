"""Carry the state of a network from one batch to the next.

Letters: B examples of a batch, M members.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from phasegrid.tasks.operations import Operations

Run: TypeAlias = Callable[..., Any]
"""Calls a network on inputs and, if there is one, a state, as its ``forward`` does."""


class Reader:
    """Runs a network on the batches of a set one after another.

    If the task carries a state and `module` has a method ``start(num)``, every batch begins with
    the detached state at the end of the batch before. `turn` goes on to the next batch; until then
    a batch can be read again. If a batch has more examples than the one before, the additional ones
    begin with the state of ``start``. For any other network this is just `run`.
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
    """Draw `count` of `num` examples (all, if there are fewer), in the order of the set;
    consecutive ones if networks carry a state through the set.
    """
    if not operations.carries:
        order = torch.randperm(num, generator=rng, device=rng.device)[:count]
        return order.sort().values
    highest = max(0, num - count)
    start = torch.randint(highest + 1, (), generator=rng, device=rng.device)
    return start + torch.arange(min(num, count), device=rng.device)
