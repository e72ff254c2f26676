"""Begin trainings: build each trial's network and its member."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_for
from phasegrid.models.weights import (
    Weights,
    num_parameters,
    parameters_vector,
)
from phasegrid.train.aside import joined
from phasegrid.train.compat import num_from_aside, recipe_of
from phasegrid.train.member import (
    TrialState,
    new_member,
)
from phasegrid.train.optimizers import Slots, new_slots
from phasegrid.train.pruning import mask_row, masks, prunable
from phasegrid.train.stack import MemberState


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a training starts from: the weights of another network of its model and, where they are
    kept, what an optimizer remembered after `updates` updates.
    """

    weights: Weights
    slots: Slots = field(default_factory=dict)
    updates: int = 0


def begin(
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    starts: Sequence[Beginning | None],
    device: torch.device,
) -> tuple[list[TrialState], list[nn.Module]]:
    """Return a member and a network for each trial, initialised by its seed or by its start."""
    members, modules = [], []
    lengths = {
        id(d): d.operations.lengths(d.train_inputs, d.train_labels)
        for d in {id(d): d for d in data}.values()
    }
    fed: dict[tuple[int, int], Dataset] = {}  # one copy, however many trials share it
    for trial, dataset, start in zip(trials, data, starts, strict=True):
        sets = len(dataset.train_labels), len(dataset.aside_labels)
        num_aside = num_from_aside(trial.recipe, *sets)
        if num_aside and (id(dataset), num_aside) not in fed:
            fed[id(dataset), num_aside] = joined(dataset, num_aside)
        module = initial_network(trial, dataset)
        if start is not None:
            module.load_state_dict(start.weights)
        module.to(device)
        state, before = _beginning_state(trial, module, start, device)
        mine, known = fed.get((id(dataset), num_aside), dataset), lengths[id(dataset)]
        size = num_parameters(module)
        member = new_member(trial, mine, state, size, known, before, num_aside)
        if member.recipe.prune is not None:
            member.prunable = prunable(module)
            found = masks(state.tensors, member.prunable, member.recipe.prune)
            state.tensors.update({n: state.tensors[n] * mask for n, mask in found.items()})
            member.mask = mask_row(module, found)
        members.append(member)
        modules.append(module)
    return members, modules


def initial_network(trial: Trial, data: Dataset) -> nn.Module:
    """Return the network of a trial as its seed initialises it, on the CPU in training mode."""
    return build_for(trial.model, data, stream_seed(trial.seed, "init")).train()


def fresh_state(trial: Trial, module: nn.Module) -> MemberState:
    """Return a copy of the state of a trial's network, and its optimizer before any update."""
    tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return MemberState(tensors, new_slots(recipe_of(trial), parameters_vector(module)))


def _beginning_state(
    trial: Trial, module: nn.Module, start: Beginning | None, device: torch.device
) -> tuple[MemberState, int]:
    """Return the state with which a trial begins, and the updates that were done before."""
    state = fresh_state(trial, module)
    if start is None:
        return state, 0
    kept = {n: start.slots[n].to(device) for n in state.slots if n in start.slots}
    return MemberState(state.tensors, {**state.slots, **kept}), start.updates
