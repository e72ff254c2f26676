"""The passes of strategy ``merged``: those of ``fused`` in fewer kernels of a GPU.

BatchNorm, additions and ReLU are one operation (`phasegrid.models.norms`). Under autocast all
weights of linear and convolution layers are cast in one kernel; autocast itself casts tensor by
tensor, and their gradients back. Gradients are copied into the flat vector together; torch adds
them one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from phasegrid.models.blocks import Blocks
from phasegrid.models.fused import Blueprint, fuse
from phasegrid.models.norms import merged_norm


@dataclass(frozen=True, slots=True)
class _Way:
    """A forward pass in one dtype: the `leaves` that it reads, in the order of the parameters, and
    the `copy` of all weights that some of them are views of.
    """

    leaves: list[Tensor]
    copy: Tensor | None
    forward: Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Merged:
    """The passes of M networks whose `parameters` (M, *shape) are views of the flat vector
    `weights`, in that order, and whose other tensors are `constants`.

    `names` maps every name of a network's state to that of its tensor. `statistics` says whether
    BatchNorm updates its running ones.
    """

    blueprint: Blueprint
    blocks: Blocks
    weights: Tensor
    parameters: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    names: Mapping[str, str]
    size: int
    statistics: bool
    _ways: dict[torch.dtype, _Way] = field(default_factory=dict)
    _leaves: Sequence[Tensor] = ()

    def forward(self, inputs: Tensor) -> Tensor:
        """Run inputs (M, B, *S) to logits (M, B, C), in autocast's dtype where that is enabled."""
        kind = self.weights.device.type
        is_cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if is_cast else self.weights.dtype
        if dtype not in self._ways:
            self._ways[dtype] = self._build(dtype)
        way = self._ways[dtype]
        if way.copy is not None:
            with torch.no_grad():
                way.copy.copy_(self.weights)
        self._leaves = way.leaves
        return way.forward(inputs)

    def differentiate(self, losses: Tensor, factors: Tensor, grads: Sequence[Tensor]) -> None:
        """Write the gradients of the sum of `losses` times `factors`, which the last forward pass
        led to, into `grads` in the order of the parameters.
        """
        found = torch.autograd.grad(losses, self._leaves, factors, materialize_grads=True)
        alike: dict[tuple[torch.dtype, bool], tuple[list[Tensor], list[Tensor]]] = {}
        for to, grad in zip(grads, found, strict=True):
            tos, origins = alike.setdefault((grad.dtype, to.stride() == grad.stride()), ([], []))
            tos.append(to)
            origins.append(grad)
        for tos, origins in alike.values():  # a kernel each, if they need no other layout
            torch._foreach_copy_(tos, origins)

    def _build(self, dtype: torch.dtype) -> _Way:
        copy, read = None, dict(self.parameters)
        if dtype != self.weights.dtype:
            copy = self.weights.to(dtype)
            cast = zip(self.parameters, self.blocks.views(copy), strict=True)
            ours = self._of_products()
            read |= {name: view.requires_grad_() for name, view in cast if name in ours}
        stacked = {**read, **self.constants}
        named = stacked | {name: stacked[own] for name, own in self.names.items()}
        buffers = named if self.statistics else {}
        norm = merged_norm(self.weights.device)
        forward = fuse(self.blueprint, named, buffers, self.size, norm)
        return _Way(list(read.values()), copy, forward)

    def _of_products(self) -> set[str]:
        """Return the parameters of linear and convolution layers, which autocast casts."""
        return {
            self.names[f"{name}.{own}"]
            for name, layer in self.blueprint.modules.items()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
            for own, _ in layer.named_parameters(recurse=False)
        }
