"""All that makes a network what it is: run it, copy it, and keep what running it must not change.

A network is its user's code. It may write into its inputs, assign to its buffers, keep tensors that it computes from its
parameters (weight norm, spectral norm and pruning in their old form do), or count its calls: what is here holds for all of these.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def outputs_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what `module` makes of a copy of `inputs` (N, ...): a network may write into what it is given.

    The copy costs well under 2% of a forward pass: one pass over the inputs in memory.
    """
    outputs: Tensor = module(inputs.clone())
    return outputs


def copy_network(module: AnyModule) -> AnyModule:
    """Return a copy that shares nothing with `module`; tensors computed from parameters are copied as values.

    A plain deepcopy refuses those.
    """
    kept = [
        value
        for layer in module.modules()
        for value in (*vars(layer).values(), *layer._buffers.values())
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in kept})


def hidden_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what a network has beside its ``state_dict()``, by name: buffers that are not persistent, plain attributes."""
    hidden: dict[str, Tensor] = {}
    for prefix, layer in module.named_modules():
        own = {name: value for name, value in vars(layer).items() if isinstance(value, Tensor)}
        for name in layer._non_persistent_buffers_set:
            buffer = layer._buffers[name]
            own |= {} if buffer is None else {name: buffer}
        hidden |= {f"{prefix}.{name}".lstrip("."): value for name, value in own.items()}
    return hidden


@contextmanager
def kept_modes(module: nn.Module) -> Iterator[None]:
    """Restore train or eval mode of every submodule on leaving."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers on leaving, whether they were written into or assigned to."""
    before = [
        (layer, name, buffer, buffer.clone())
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for layer, name, buffer, value in before:
            layer._buffers[name] = buffer
            if not torch.equal(buffer, value):
                buffer.detach().copy_(value)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run a network in eval mode without gradients; its modes and buffers are as before afterwards.

    Some networks change their buffers in eval mode too, and a measurement must not depend on those before it.
    """
    with kept_modes(module), kept_buffers(module), torch.inference_mode():
        module.eval()
        yield


@contextmanager
def kept_attributes(module: nn.Module) -> Iterator[None]:
    """Restore every attribute that is assigned to while the context lasts: tracing runs the network on stand-ins."""
    before = [(layer, dict(vars(layer)), dict(layer._buffers)) for layer in module.modules()]
    try:
        yield
    finally:
        for layer, attributes, buffers in before:
            vars(layer).clear()
            vars(layer).update(attributes)
            layer._buffers.update(buffers)
