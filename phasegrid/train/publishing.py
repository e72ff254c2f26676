"""Write the artifacts of a running training at once, instead of holding them until it ends.

The caller of the training provides the storage, as an object with the methods of `Publisher`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from phasegrid.declare import import_function
from phasegrid.jobs import AVERAGED, MOMENTS, OPTIMIZER, WEIGHTS
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import refresh_batch_norm
from phasegrid.train.collectors import COLLECTORS
from phasegrid.train.member import TrialState
from phasegrid.train.optimizers import Slots
from phasegrid.train.precision import tensor_float_32
from phasegrid.train.stack import MemberState, Stack
from phasegrid.train.taking import State

Take = Callable[[State, Tensor, int], State]

UPDATES = "updates"
"""The name of the number of updates among an optimizer's tensors; the others are flat vectors
(P,).
"""


class Publisher(Protocol):
    """Stores artifacts of unfinished trainings, by trial and name. Each write becomes visible at
    once.
    """

    def publish(self, trial: str, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Store an artifact, replacing an earlier one of that name; return its SHA-256."""
        ...

    def has(self, trial: str, name: str) -> bool:
        """Say whether an artifact is stored."""
        ...


def leave_of_stack(stack: Stack, members: Sequence[TrialState], at: str) -> None:
    """Publish the checkpoints of those members of a stack whose weights are finite.

    `at` is the moment: ``epoch-40``, ``update-900``; the latter also gives the number of updates.
    """
    for i, (member, finite) in enumerate(zip(members, stack.network.finite(), strict=True)):
        if finite and member.publish is not None and member.diverged_epoch is None:
            leave(member, at, stack.member(i))


def leave(member: TrialState, at: str, state: MemberState) -> None:
    """Publish a checkpoint of a member, and its optimizer's state if the recipe asks for it."""
    _publish(member, f"{WEIGHTS}@{at}", state.tensors)
    wish = member.recipe.checkpoints
    if wish is not None and at in wish.optimizer:
        unit, _, number = at.partition("-")
        done = int(number) if unit == "update" else member.updates
        _publish(member, f"{OPTIMIZER}@{at}", _optimizer(state.slots, member.before + done))


def leave_optimizer(member: TrialState) -> None:
    """Publish the optimizer's state at the final weights of a finished trial, if the recipe asks
    for it.
    """
    if member.recipe.keeps_optimizer and member.diverged_epoch is None:
        _publish(member, OPTIMIZER, _optimizer(member.kept_slots, member.kept_updates))


def collect_of_stack(stack: Stack, members: Sequence[TrialState]) -> None:
    """Add the weights of a stack to its members' collectors, if they are finite."""
    network = stack.network
    for i, (member, finite) in enumerate(zip(members, network.finite(), strict=True)):
        wish = member.recipe.collect
        if wish is None or not finite or member.diverged_epoch is not None:
            continue
        take: Take = import_function(COLLECTORS[wish.name].take)
        member.collected = take(member.collected, network.row(network.weights, i), wish.rank)


def leave_collected(member: TrialState, template: nn.Module) -> None:
    """Publish the result of a finished trial's collector, if it has taken any weights.

    This is the ``averaged`` network, with BatchNorm statistics re-estimated on the training set
    (Izmailov et al. 2018, section 3.2), and for some collectors also the ``moments``.
    """
    wish = member.recipe.collect
    if wish is None or not member.collected or member.diverged_epoch is not None:
        return
    if member.publish is None:
        return
    if COLLECTORS[wish.name].moments is not None:
        _publish(member, MOMENTS, member.collected)
    module = copy_network(template)
    module.load_state_dict(member.kept)
    network = FlatNetwork.of(module)
    network.assign(member.collected["mean"])
    with tensor_float_32(False):
        refresh_batch_norm(network.module, member.data.train_inputs)
    _publish(member, AVERAGED, network.state())


def _publish(member: TrialState, name: str, tensors: Mapping[str, Tensor]) -> None:
    if member.publish is not None:
        member.published[name] = member.publish(name, tensors)


def _optimizer(slots: Slots, updates: int) -> dict[str, Tensor]:
    return {**slots, UPDATES: torch.tensor(updates)}
