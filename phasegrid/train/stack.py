"""Stacks: several networks of one architecture that train together, with their optimizers' state.

Members never mix: each has its own weights, statistics, optimizer state and batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from phasegrid.errors import SweepError
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import Blueprint, find_architecture
from phasegrid.models.network_state import attributes_of, lost_attribute
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import Weights
from phasegrid.train.cuda_graphs import Recorder
from phasegrid.train.optimizers import Slots
from phasegrid.train.updates import Updates


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member outside a stack: its full state by name, and its optimizer's state as flat vectors
    (P,).
    """

    tensors: Weights
    slots: Slots = field(default_factory=dict)


class Stack:
    """M members as one `network`, with their optimizer's state in flat vectors like its weights.

    `template` must not be used afterwards: a lone member is that module. `recorder` records
    updates as CUDA graphs; None without a GPU, or if an unknown layer might not repeat itself
    exactly. `updates` are the updates that it records, once they are known. `mask`, one vector (P,)
    per member, is 0 where weights are pruned; None if nothing is pruned.
    """

    network: FlatNetwork
    slots: Slots
    recorder: Recorder | None
    updates: Updates | None
    mask: Tensor | None

    def __init__(
        self,
        template: nn.Module,
        members: Sequence[MemberState],
        strategy: Strategy,
        blueprint: Blueprint | None = None,
        masks: Sequence[Tensor] = (),
    ) -> None:
        self._example: Tensor | None = None
        states = [member.tensors for member in members]
        self.network = FlatNetwork(template.train(), states, strategy, blueprint)
        self._attributes = attributes_of(template) if strategy == "loop" else None
        self.slots = {
            name: self.network.flat([member.slots[name] for member in members])
            for name in members[0].slots
        }
        self.mask = self.network.flat(masks) if masks else None
        repeats = self.network.weights.is_cuda and find_architecture(template) is not None
        self.recorder = Recorder(yields=len(members) > 1) if repeats else None
        self.updates = None

    def keep_example(self, inputs: Tensor) -> None:
        """Keep two examples of the first inputs (M, B, *S) that a lone member is given; `state`
        runs the network on them.
        """
        if self._attributes is not None and self._example is None:
            self._example = inputs[0, :2].clone()

    def member(self, index: int) -> MemberState:
        """Copy one member out: its full state by name, and its optimizer's state as (P,)."""
        return MemberState(
            self.state(index),
            {name: self.network.row(slot, index) for name, slot in self.slots.items()},
        )

    def state(self, index: int) -> Weights:
        """Copy the full state of one member.

        Raises:
            SweepError: if a lone member's forward pass changed something that cannot be stored: the
                names in its state, a replaced parameter, or an attribute that affects its outputs.
        """
        state = self.network.state(index)
        if self._attributes is None:
            return state
        module = self.network.module
        own, kind = dict(module.named_parameters()), type(module).__name__
        for name, leaf in self.network.parameters.items():
            if name not in own or own[name].data_ptr() != leaf.data_ptr():
                raise SweepError(
                    f"training {kind}: its forward replaces its parameter {name!r}, which then is"
                    " not trained; change its values instead: with torch.no_grad():"
                    " parameter.copy_(...)"
                )
        if state.keys() != self.network.names:
            names = sorted(state.keys() ^ self.network.names)
            raise SweepError(
                f"training {kind}: its forward adds {names[0]!r} to state_dict() or removes it;"
                " register every buffer in its constructor"
            )
        if self._example is not None:
            lost = lost_attribute(module, self._attributes, self._example)
            if lost is not None:
                raise SweepError(
                    f"training {kind}: its outputs depend on its attribute {lost!r}, which its"
                    " forward changes but state_dict() does not contain, so the stored network"
                    " would be another one; register it: register_buffer(name, tensor)"
                )
        return state
