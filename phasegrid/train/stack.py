"""Trials that train together: several networks of one architecture, and what their optimizer
remembers.

Members never mix: each has its own weights, statistics, optimizer memory and batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from phasegrid.errors import SweepError
from phasegrid.models.flat import FlatNetwork
from phasegrid.models.fused import Blueprint, find_architecture
from phasegrid.models.network_state import attributes_of, lost_attribute
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import Weights
from phasegrid.train.cuda_graphs import Recorder
from phasegrid.train.optimizers import Slots


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member outside a stack: its full state by name, and its optimizer's memory as flat
    vectors (P,).
    """

    tensors: Weights
    slots: Slots = field(default_factory=dict)


class Stack:
    """M members as one `network`, with their optimizer's memory in flat vectors like its weights.

    `template` is used up: a lone member is that module. `recorder` turns gradient passes into CUDA
    graphs; None where there is no GPU, or where a layer is unknown and might not repeat itself
    exactly. `mask` is 0 where weights are pruned, of one vector (P,) a member; None: nowhere.
    """

    network: FlatNetwork
    slots: Slots
    recorder: Recorder | None
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
        on_gpu = self.network.weights.is_cuda
        self.recorder = Recorder() if on_gpu and find_architecture(template) is not None else None

    def forward(self, inputs: Tensor, *state: Tensor) -> Any:
        """Return what `phasegrid.models.flat.Forward` says: the logits (M, B, ...) of inputs (M, B,
        *S), and the state at the end where one is given.
        """
        if self._attributes is not None and self._example is None:
            self._example = inputs[0, :2].clone()
        return self.network.forward(inputs, *state)

    def member(self, index: int) -> MemberState:
        """Copy one member out: full state by name, optimizer memory as (P,)."""
        return MemberState(
            self.state(index),
            {name: self.network.row(slot, index) for name, slot in self.slots.items()},
        )

    def state(self, index: int) -> Weights:
        """Copy the full state of one member.

        Raises:
            SweepError: if the forward of a lone member has done what what is stored cannot hold:
            other names, parameters replaced, attributes that matter.
        """
        state = self.network.state(index)
        if self._attributes is None:
            return state
        module = self.network.module
        own, kind = dict(module.named_parameters()), type(module).__name__
        for name, leaf in self.network.parameters.items():
            if name not in own or own[name].data_ptr() != leaf.data_ptr():
                raise SweepError(
                    f"training {kind}: its forward replaces its parameter {name!r}, which then does"
                    " not train; let it write into it: with torch.no_grad(): parameter.copy_(...)"
                )
        if state.keys() != self.network.names:
            names = sorted(state.keys() ^ self.network.names)
            raise SweepError(
                f"training {kind}: its forward adds {names[0]!r} to state_dict(), or takes it away;"
                " register every buffer when the network is made"
            )
        if self._example is not None:
            lost = lost_attribute(module, self._attributes, self._example)
            if lost is not None:
                raise SweepError(
                    f"training {kind}: its outputs depend on its attribute {lost!r}, which its"
                    " forward changes and which is not in state_dict(), so that what is stored is"
                    " another network: keep it by register_buffer(name, tensor)"
                )
        return state
