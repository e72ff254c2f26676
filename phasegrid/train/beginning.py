"""Begin trainings: build each trial's network and its member."""

from dataclasses import dataclass, field

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_begun
from phasegrid.models.weights import (
    Weights,
    num_parameters,
    parameters_vector,
)
from phasegrid.tasks.batches import Lengths
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


@dataclass(slots=True)
class DataSets:
    """The data sets of a pack on its device: one copy, however many trials share it."""

    device: torch.device
    _moved: dict[int, Dataset] = field(default_factory=dict)
    _lengths: dict[int, Lengths | None] = field(default_factory=dict)
    _joined: dict[tuple[int, int], Dataset] = field(default_factory=dict)
    _given: list[Dataset] = field(default_factory=list)

    def moved(self, data: Dataset) -> Dataset:
        """Return a data set on the device."""
        if id(data) not in self._moved:
            self._given.append(data)  # so that its id is no other's
            self._moved[id(data)] = data.to(self.device)
        return self._moved[id(data)]

    def lengths(self, data: Dataset) -> Lengths | None:
        """Return the lengths of its training examples, if they differ."""
        if id(data) not in self._lengths:
            moved = self.moved(data)
            found = moved.operations.lengths(moved.train_inputs, moved.train_labels)
            self._lengths[id(data)] = found
        return self._lengths[id(data)]

    def fed_to(self, trial: Trial, data: Dataset) -> tuple[Dataset, int]:
        """Return what a trial trains on, and how many of its training examples, the last, are
        examples set aside.
        """
        sizes = len(data.train_labels), len(data.aside_labels)
        num_aside = num_from_aside(trial.recipe, *sizes)
        if not num_aside:
            return self.moved(data), 0
        place = id(data), num_aside
        if place not in self._joined:
            self._joined[place] = joined(self.moved(data), num_aside)
        return self._joined[place], num_aside


def begin(
    trial: Trial, data: Dataset, start: Beginning | None, sets: DataSets
) -> tuple[TrialState, nn.Module]:
    """Return a member and a network for a trial, initialised by its seed or by its start."""
    module = initial_network(trial, data)
    if start is not None:
        module.load_state_dict(start.weights)
    module.to(sets.device)
    state, before = _beginning_state(trial, module, start, sets.device)
    (fed, num_aside), size = sets.fed_to(trial, data), num_parameters(module)
    member = new_member(trial, fed, state, size, sets.lengths(data), before, num_aside)
    if member.recipe.prune is not None:
        member.prunable = prunable(module)
        found = masks(state.tensors, member.prunable, member.recipe.prune)
        state.tensors.update({n: state.tensors[n] * mask for n, mask in found.items()})
        member.mask = mask_row(module, found)
    return member, module


def initial_network(trial: Trial, data: Dataset) -> nn.Module:
    """Return the network of a trial as its seed initialises it, on the CPU in training mode."""
    return build_begun(trial.model, data, stream_seed(trial.seed, "init")).train()


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
