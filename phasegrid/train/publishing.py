"""What a training leaves while it goes on: artifacts, written at once and never held until its end.

Where they are kept is not decided here: whoever trains hands in an object that has the methods of
`Publisher`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from phasegrid.jobs import OPTIMIZER, WEIGHTS
from phasegrid.train.member import TrialState
from phasegrid.train.optimizers import Slots
from phasegrid.train.stack import MemberState, Stack

UPDATES = "updates"
"""Among the tensors of an optimizer, the number of its updates; the others are flat vectors (P,)."""


class Publisher(Protocol):
    """Artifacts of trainings in progress, by trial and name. A write is visible in one step."""

    def publish(self, trial: str, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Keep an artifact, in place of an earlier one of that name; return its SHA-256."""
        ...

    def has(self, trial: str, name: str) -> bool:
        """Say whether an artifact is there."""
        ...


def leave_of_stack(stack: Stack, members: Sequence[TrialState], at: str) -> None:
    """Publish the checkpoints of a stack, but for members whose weights are not finite.

    `at` says when: ``epoch-40``, ``update-900``; the latter is also how many updates there were.
    """
    for i, (member, finite) in enumerate(zip(members, stack.network.finite(), strict=True)):
        if finite and member.publish is not None and member.diverged_epoch is None:
            leave(member, at, stack.member(i))


def leave(member: TrialState, at: str, state: MemberState) -> None:
    """Publish a checkpoint of a member, and what its optimizer remembers where that is asked for."""
    _publish(member, f"{WEIGHTS}@{at}", state.tensors)
    wish = member.recipe.checkpoints
    if wish is not None and at in wish.optimizer:
        unit, _, number = at.partition("-")
        done = int(number) if unit == "update" else member.updates
        _publish(member, f"{OPTIMIZER}@{at}", _optimizer(state.slots, member.before + done))


def leave_optimizer(member: TrialState) -> None:
    """Publish what the optimizer remembered when the weights were reached that a finished trial is
    known by, where that is asked for.
    """
    if member.recipe.keeps_optimizer and member.diverged_epoch is None:
        _publish(member, OPTIMIZER, _optimizer(member.kept_slots, member.kept_updates))


def _publish(member: TrialState, name: str, tensors: Mapping[str, Tensor]) -> None:
    if member.publish is not None:
        member.published[name] = member.publish(name, tensors)


def _optimizer(slots: Slots, updates: int) -> dict[str, Tensor]:
    return {**slots, UPDATES: torch.tensor(updates)}
