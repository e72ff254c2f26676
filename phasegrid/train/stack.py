"""Several networks of one architecture in one set of tensors, and three ways to run them.

A stack of M members keeps every parameter as one tensor (M, *shape), all of them views of one flat
vector (`phasegrid.models.blocks`), and their gradients likewise, so that one optimizer step serves
all. BatchNorm statistics and other buffers are stacked too. Strategies:

- ``fused``: grouped kernels (`phasegrid.train.fused`), for the layer types known there;
- ``vmap``: ``torch.func``, for any network whose forward draws nothing and assigns to nothing;
- ``loop``: stacks of one member, each an ordinary forward pass on views of its flat vector.

Members never mix: each has its own weights, statistics, optimizer memory and batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from phasegrid.errors import SweepError
from phasegrid.models.blocks import Blocks
from phasegrid.models.image_layouts import Layouts, working_layouts
from phasegrid.models.network_state import (
    attributes_of,
    effect_of_running,
    kept_buffers,
    kept_modes,
    lost_attribute,
    outputs_of,
)
from phasegrid.models.weights import Weights
from phasegrid.train.cuda_graphs import Recorder
from phasegrid.train.fused import Blueprint, find_architecture, fuse, read_architecture
from phasegrid.train.optimizers import Slots

Strategy = Literal["loop", "vmap", "fused"]
Forward = Callable[[Tensor], Tensor]

MAX_FUSED_PRODUCTS = {"linear": 10_000_000, "convolution": 600_000_000}
"""On a CPU, above this many multiply-adds per member and update one network keeps a core busy and
fusing no longer pays.

Measured with tests/benchmarks/bench_packing.py, three members, fused against loop: perceptron of
width 256, batch 64 (5e6) 1.05 and batch 256 (2e7) 0.99; ResNet18 of width 8, 32x32 pixels, batch 64
(6e8) 1.15, of width 16, batch 32 (1e9) 0.6.
"""


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member outside a stack: its full state by name, and its optimizer's memory as flat
    vectors (P,).
    """

    tensors: Weights
    slots: Slots = field(default_factory=dict)


class Stack:
    """M members in one set of tensors, on one device.

    `weights`, `grads` and `slots` are flat, ordered by parameter, then member, with gaps of zeros
    between parameters. `parameters` are leaves with views of them as data and gradient. `template`
    is used up: with one member it becomes that member. `recorder` turns gradient passes into CUDA
    graphs; None where there is no GPU, or where a layer is unknown and might not repeat itself
    exactly.
    """

    size: int
    strategy: Strategy
    weights: Tensor
    grads: Tensor
    slots: Slots
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    forward: Forward
    recorder: Recorder | None

    def __init__(
        self,
        template: nn.Module,
        members: Sequence[MemberState],
        strategy: Strategy,
        blueprint: Blueprint | None = None,
    ) -> None:
        assert strategy != "loop" or len(members) == 1
        self.template, self.size, self.strategy = template.train(), len(members), strategy
        self.blueprint = blueprint
        self._example: Tensor | None = None
        self._names = _canonical_names(template)
        own = dict(template.named_parameters()) | dict(template.named_buffers())
        trainable = [name for name, p in template.named_parameters() if p.requires_grad]
        columns = [torch.stack([m.tensors[name] for m in members]).detach() for name in trainable]
        self._blocks = Blocks.of(column.shape for column in columns)
        self.weights = self._blocks.join(columns)
        self.grads = torch.zeros_like(self.weights)
        views = zip(*map(self._blocks.views, (self.weights, self.grads)), strict=True)
        self.parameters = {}
        for name, (values, grads) in zip(trainable, views, strict=True):
            leaf = values.detach().requires_grad_()
            leaf.grad = grads
            self.parameters[name] = leaf
        self.constants = {
            name: torch.stack([m.tensors.get(name, value.detach()) for m in members])
            for name, value in own.items()
            if name not in self.parameters
        }
        self.slots = {
            name: self._join([m.slots[name] for m in members]) for name in members[0].slots
        }
        self.forward = self._make_forward()
        self.recorder = Recorder() if self.weights.is_cuda and _repeats(template) else None

    def member(self, index: int) -> MemberState:
        """Copy one member out: full state by name, optimizer memory as (P,)."""
        return MemberState(
            self.state(index),
            {
                name: torch.cat([view[index].flatten() for view in self._blocks.views(slot)])
                for name, slot in self.slots.items()
            },
        )

    def state(self, index: int) -> Weights:
        """Copy the full state of one member, as ``module.state_dict()`` would name it."""
        if self.strategy == "loop":
            return self._state_of_template()
        stacked = self.parameters | self.constants
        return {
            name: stacked[canonical][index].detach().clone()
            for name, canonical in self._names.items()
        }

    def _state_of_template(self) -> Weights:
        """Copy the state of a lone member from its module, whose forward may have assigned to its
        buffers.

        Raises:
            SweepError: if forward has done what what is stored cannot hold: other names, parameters
            replaced, attributes that matter.
        """
        state = self.template.state_dict()
        own = dict(self.template.named_parameters())
        kind = type(self.template).__name__
        for name, leaf in self.parameters.items():
            if name not in own or own[name].data_ptr() != leaf.data_ptr():
                raise SweepError(
                    f"training {kind}: its forward replaces its parameter {name!r}, which then does"
                    " not train; let it write into it: with torch.no_grad(): parameter.copy_(...)"
                )
        if state.keys() != self._names.keys():
            names = sorted(state.keys() ^ self._names.keys())
            raise SweepError(
                f"training {kind}: its forward adds {names[0]!r} to state_dict(), or takes it away;"
                " register every buffer when the network is made"
            )
        if self._example is not None:
            lost = lost_attribute(self.template, self._attributes, self._example)
            if lost is not None:
                raise SweepError(
                    f"training {kind}: its outputs depend on its attribute {lost!r}, which its"
                    " forward changes and which is not in state_dict(), so that what is stored is"
                    " another network: keep it by register_buffer(name, tensor)"
                )
        return {name: value.detach().clone() for name, value in state.items()}

    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return every parameter and every gradient (M, *shape), as views without a graph."""
        return self._blocks.views(self.weights), self._blocks.views(self.grads)

    def buffers(self) -> list[Tensor]:
        """Return the buffers as they are now; those of a lone member are its module's."""
        own = dict(self.template.named_buffers())
        return list(own.values()) if self.strategy == "loop" else [self.constants[n] for n in own]

    def per_element(self, values: Sequence[float]) -> float | Tensor:
        """Return one number per member as a number if all agree, else as a vector like
        `weights`.
        """
        if len(set(values)) == 1:
            return values[0]
        column = torch.tensor(values, dtype=self.weights.dtype, device=self.weights.device)
        filled = [
            column.view(-1, *[1] * (len(shape) - 1)).expand(shape) for shape in self._blocks.shapes
        ]
        return self._blocks.join(filled)

    def finite(self) -> list[bool]:
        """Say for each member whether all of its weights are finite."""
        views = self._blocks.views(self.weights)
        checks = [torch.isfinite(view).flatten(1).all(1) for view in views]
        answers: list[bool] = torch.stack(checks).all(0).tolist()
        return answers

    def _join(self, vectors: Sequence[Tensor]) -> Tensor:
        """Turn one vector (P,) per member into a flat vector of the stack."""
        sizes = [size // self.size for size in self._blocks.sizes]
        split = zip(*[torch.split(vector, sizes) for vector in vectors], strict=True)
        return self._blocks.join([torch.stack(parts) for parts in split])

    def _make_forward(self) -> Forward:
        stacked = self.parameters | self.constants
        if self.strategy == "fused":
            assert self.blueprint is not None
            named = stacked | {name: stacked[own] for name, own in self._names.items()}
            return fuse(self.blueprint, named, named, self.size)
        template = self.template
        if self.strategy == "vmap":

            def call(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
                outputs: Tensor = functional_call(template, dict(tensors), (inputs,))
                return outputs

            mapped = torch.vmap(call, randomness="error")
            return lambda inputs: mapped(stacked, inputs)
        _bind(template, self.parameters, self.constants)
        self._attributes = attributes_of(template)
        layouts: Layouts | None = None

        def run(inputs: Tensor) -> Tensor:
            nonlocal layouts
            mine = inputs[0]
            if layouts is None:
                self._example = mine[:2].clone()
                layouts = working_layouts(template, mine)
            outputs: Tensor = template(layouts.lay_out(mine))
            return outputs.unsqueeze(0)

        return run


def choose_strategy(
    asked: str, module: nn.Module, example: Tensor, num_members: int, batch_size: int
) -> tuple[Strategy, Blueprint | None]:
    """Choose how to run `num_members` copies of `module`; `example` (1, *S) lies on the device that
    will run them.

    ``auto``: one member loops. More are fused if the architecture can be and, on a CPU, an update
    of one member takes at most `MAX_FUSED_PRODUCTS` multiply-adds; else they loop. ``vmap`` is
    never chosen unasked: fused was faster wherever both were measured, and not every network
    survives it.

    Raises:
        NotFusableError: if ``fused`` was asked for and the network has no stacked form. ValueError:
        if ``vmap`` was asked for and the network draws random numbers (dropout), assigns to what it
        holds, or has BatchNorm
            with a cumulative average.
    """
    if asked == "vmap":
        trouble = why_not_vmap(module, example)
        if trouble:
            raise ValueError(f"strategy vmap cannot train {type(module).__name__}: {trouble}")
        return "vmap", None
    if asked == "fused":
        return "fused", read_architecture(module)
    if asked == "loop" or num_members == 1:
        return "loop", None
    blueprint = find_architecture(module)
    if blueprint is None:
        return "loop", None
    convolves = any(isinstance(m, nn.Conv2d) for m in module.modules())
    limit = MAX_FUSED_PRODUCTS["convolution" if convolves else "linear"]
    if example.device.type != "cpu" or batch_size * products(module, example) <= limit:
        return "fused", blueprint
    return "loop", None


def products(module: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of linear and convolution layers in one forward pass of `example` (1,
    *S).
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        total += layer.weight.numel() * (output.numel() // layer.weight.shape[0])

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with kept_modes(module), kept_buffers(module), torch.no_grad():
            outputs_of(module.eval(), example)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def why_not_vmap(module: nn.Module, example: Tensor) -> str | None:
    """Say what of a network ``torch.func`` cannot stack faithfully; None if nothing is known
    against it.

    What forward draws would depend on the pack, and what it assigns to is lost: both are seen by
    running it on `example` (1, *S).
    """
    for name, m in module.named_modules():
        if isinstance(m, _BatchNorm) and m.momentum is None:
            return f"{name} averages its statistics cumulatively (momentum None)"
    return effect_of_running(module, example)


def _repeats(module: nn.Module) -> bool:
    """Say whether a network is known to launch the same kernels for every batch of a shape: all its
    layers are.
    """
    return find_architecture(module) is not None


def _canonical_names(module: nn.Module) -> dict[str, str]:
    """Map each name of the state dict to the name under which its tensor is stacked (tied ones
    share one).
    """
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    for name, tensor in tensors:
        first.setdefault(id(tensor), name)
    every = {name: first[id(tensor)] for name, tensor in tensors}
    return {name: every[name] for name in module.state_dict()}


def _bind(
    module: nn.Module, parameters: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> None:
    """Make a module's own tensors views of a stack of one."""
    for name, parameter in module.named_parameters():
        source = parameters[name] if name in parameters else constants[name]
        parameter.data = source.detach()[0]
        if name in parameters:
            grads = parameters[name].grad
            assert grads is not None
            parameter.grad = grads[0]
    for name, buffer in module.named_buffers():
        buffer.data = constants[name][0]
