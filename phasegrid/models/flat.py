"""Run one network on flat vectors, or several of one architecture in one set of tensors.

Every trainable parameter of M networks is one tensor (M, *shape), a view of one flat vector
(`phasegrid.models.blocks`), and so is its gradient. So one operation serves all networks, and any
point of weight space can be set by copying a vector. BatchNorm statistics and other buffers are
stacked separately. Strategies:

- ``fused``: grouped kernels (`phasegrid.models.fused`), for the types of layers that are known
  there;
- ``merged``: as ``fused``, in fewer kernels of a GPU (`phasegrid.models.merged`); kernels of
  convolutions lie in the layout of the images, so that they need not be converted;
- ``vmap``: ``torch.func``, for any network whose forward draws nothing and assigns to nothing;
- ``loop``: a single network; the tensors of its module are views of the flat vector.

Networks never mix. Letters: M networks, P trainable parameters of one, B examples of a batch.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from phasegrid.models.blocks import Blocks, FlatVector
from phasegrid.models.fused import Blueprint, fuse
from phasegrid.models.image_layouts import layer_out, layouts_of
from phasegrid.models.merged import Merged
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import Strategy
from phasegrid.models.weights import Weights

Forward = Callable[..., Any]
"""From inputs (M, B, *S) to outputs (M, B, ...). A single network may also get a state (B, ...);
then it also returns the state at the end (`phasegrid.tasks.carrying`).
"""


class FlatNetwork:
    """M networks with the architecture of `module` and the given `states`, on one device.

    `weights` and `grads` are flat, ordered by parameter, then network, with gaps of zeros between
    parameters. `rows` and `gradient` are the same numbers without gaps, (M, P), in the order of
    ``module.named_parameters()`` (tied parameters once). `parameters` are leaves whose data and
    gradients are views of the flat vectors (``merged``: the data alone); `constants` are all other
    tensors. Gradients add up until `zero_grad` of this class clears them; that of the module would
    drop the views. `module` must not be used afterwards: with ``loop`` it becomes the network,
    otherwise its code runs on other tensors.

    With ``keeps_statistics=False`` BatchNorm of a ``fused`` or ``merged`` network uses the
    statistics of the batch and does not update running ones.

    Raises:
        ValueError: if nothing is trainable.

    >>> flat = FlatNetwork.of(nn.Linear(2, 1))
    >>> flat.assign(torch.tensor([1.0, 2.0, 3.0]))
    >>> flat.module(torch.ones(1, 2)).item()
    6.0
    """

    module: nn.Module
    size: int
    strategy: Strategy
    weights: Tensor
    grads: Tensor
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    forward: Forward

    def __init__(
        self,
        module: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        strategy: Strategy = "loop",
        blueprint: Blueprint | None = None,
        keeps_statistics: bool = True,
    ) -> None:
        assert strategy != "loop" or len(states) == 1
        self.module, self.size, self.strategy = module, len(states), strategy
        self._names = _canonical_names(module)
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        trainable = [name for name, p in module.named_parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(
                f"{type(module).__name__} has no trainable parameter to put in a vector"
            )
        columns = [torch.stack([state[name] for state in states]).detach() for name in trainable]
        last = strategy == "merged" and _has_channels_last(module, len(states), columns[0].device)
        self._blocks = Blocks.of((column.shape for column in columns), channels_last=last)
        self.weights = self._blocks.join(columns)
        self.grads = torch.zeros_like(self.weights)
        self._weights, self._grads = (
            FlatVector(self._blocks, vector, self.size) for vector in (self.weights, self.grads)
        )
        self.parameters = {}
        for name, values, grads in zip(trainable, *self.views(), strict=True):
            leaf = values.detach().requires_grad_()
            leaf.grad = None if strategy == "merged" else grads
            self.parameters[name] = leaf
        self.constants = {
            name: torch.stack([state.get(name, value.detach()) for state in states])
            for name, value in own.items()
            if name not in self.parameters
        }
        self._merged: Merged | None = None
        if strategy == "merged":
            assert blueprint is not None
            tensors = self.weights, self.parameters, self.constants, self._names
            self._merged = Merged(blueprint, self._blocks, *tensors, self.size, keeps_statistics)
        self.forward = self._make_forward(blueprint, keeps_statistics)

    @classmethod
    def of(cls, module: nn.Module) -> "FlatNetwork":
        """Return a single network with the weights of `module`, which is copied, not changed."""
        return cls(copy_network(module), [module.state_dict()])

    @property
    def names(self) -> Set[str]:
        """The names of a network's full state."""
        return self._names.keys()

    def rows(self) -> Tensor:
        """Copy the weights into rows (M, P)."""
        return self._weights.read()

    def assign(self, rows: Tensor) -> None:
        """Set the weights to `rows` (M, P), or (P,) for a single network, cast to their dtype;
        gradients do not change.
        """
        self._weights.fill(rows)

    def gradient(self) -> Tensor:
        """Copy the accumulated gradients into rows (M, P)."""
        return self._grads.read()

    def differentiate(self, losses: Tensor, weights: Tensor) -> None:
        """Write the gradient of the sum of `losses` times `weights` into `grads`."""
        if self._merged is None:
            self.zero_grad()
            losses.backward(weights)  # type: ignore[no-untyped-call]
        else:
            self._merged.differentiate(losses, weights, self._grads.views)

    def zero_grad(self) -> None:
        """Set the gradient to zero, keeping the views."""
        self.grads.zero_()

    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return every parameter and every gradient (M, *shape), as views without a graph."""
        return self._weights.views, self._grads.views

    def flat(self, rows: Sequence[Tensor]) -> Tensor:
        """Return one vector (P,) of each network as a flat vector like `weights`."""
        sizes = [size // self.size for size in self._blocks.sizes]
        split = zip(*[torch.split(vector, sizes) for vector in rows], strict=True)
        return self._blocks.join([torch.stack(parts) for parts in split])

    def row(self, flat: Tensor, index: int) -> Tensor:
        """Copy the part (P,) of one network from a flat vector like `weights`."""
        return torch.cat([view[index].flatten() for view in self._blocks.views(flat)])

    def per_element(self, values: Sequence[float]) -> float | Tensor:
        """Given one number for each network, return it as a number if all agree, else as a vector
        like `weights`.
        """
        if len(set(values)) == 1:
            return values[0]
        column = torch.tensor(values, dtype=self.weights.dtype, device=self.weights.device)
        filled = [
            column.view(-1, *[1] * (len(shape) - 1)).expand(shape) for shape in self._blocks.shapes
        ]
        return self._blocks.join(filled)

    def are_finite(self) -> Tensor:
        """Return for each network whether all of its weights are finite, (M,) on its device."""
        checks = [torch.isfinite(view).flatten(1).all(1) for view in self._weights.views]
        return torch.stack(checks).all(0)

    def finite(self) -> list[bool]:
        """Say for each network whether all of its weights are finite."""
        answers: list[bool] = self.are_finite().tolist()
        return answers

    def buffers(self) -> list[Tensor]:
        """Return the present buffers. Those of a single network come from its module, whose forward
        may have replaced them.
        """
        own = dict(self.module.named_buffers())
        return list(own.values()) if self.strategy == "loop" else [self.constants[n] for n in own]

    def state(self, index: int = 0) -> Weights:
        """Copy the full state of one network, with the names of ``module.state_dict()``."""
        if self.strategy == "loop":
            return {name: v.detach().clone() for name, v in self.module.state_dict().items()}
        stacked = self.parameters | self.constants
        return {
            name: stacked[canonical][index].detach().clone(memory_format=torch.contiguous_format)
            for name, canonical in self._names.items()
        }

    def constant(self, name: str) -> Tensor:
        """Return an untrained tensor of a single network by its name in the state, where the
        network reads it, also if forward has put another into its place.
        """
        prefix, _, key = name.rpartition(".")
        own, held = self.module.get_submodule(prefix)._buffers, self.constants[self._names[name]][0]
        if key in own:
            own[key] = held
        return held

    def _make_forward(self, blueprint: Blueprint | None, keeps_statistics: bool) -> Forward:
        """Return the function from inputs (M, B, *S) to outputs (M, B, ...)."""
        stacked = self.parameters | self.constants
        if self._merged is not None:
            return self._merged.forward
        if self.strategy == "fused":
            assert blueprint is not None
            named = stacked | {name: stacked[own] for name, own in self._names.items()}
            return fuse(blueprint, named, named if keeps_statistics else {}, self.size)
        module = self.module
        if self.strategy == "vmap":

            def call(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
                outputs: Tensor = functional_call(module, dict(tensors), (inputs,))
                return outputs

            mapped = torch.vmap(call, randomness="error")
            return lambda inputs: mapped(stacked, inputs)
        _bind(module, self.parameters, self.constants)
        lay_out = layer_out(module)

        def run(inputs: Tensor, *state: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            outputs = module(lay_out(inputs[0]), *state)
            return (outputs[0].unsqueeze(0), outputs[1]) if state else outputs.unsqueeze(0)

        return run


def _has_channels_last(module: nn.Module, members: int, device: torch.device) -> bool:
    return layouts_of(module, members).of(device) == torch.channels_last


def _canonical_names(module: nn.Module) -> dict[str, str]:
    """Map each name of the state dict to the name under which its tensor is stacked; tied tensors
    share one.
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
    """Replace a module's own tensors by views of a stack of one network."""
    for name, parameter in module.named_parameters():
        source = parameters[name] if name in parameters else constants[name]
        parameter.data = source.detach()[0]
        if name in parameters:
            grads = parameters[name].grad
            assert grads is not None
            parameter.grad = grads[0]
    for name, buffer in module.named_buffers():
        buffer.data = constants[name][0]
