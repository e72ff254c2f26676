"""Run and copy a network with all of its state, and restore the state that a run must not change.

A network is user code. It may write into its inputs, assign to its buffers, keep tensors that it
computes from its parameters (as weight norm, spectral norm and pruning in their old form do), or
count its calls. The functions here work for all of these.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from phasegrid.seeding import all_draws, have_changed, kept_draws, seeded_draws

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def outputs_of(module: nn.Module, inputs: Tensor, *state: Tensor) -> Tensor:
    """Return the outputs of `module` for copies of `inputs` (N, ...) and of the state, if given: a
    network may write into its inputs.

    A copy is one pass over the inputs in memory and costs well under 2% of a forward pass.
    """
    outputs: Tensor = module(inputs.clone(), *state)
    return outputs


def copy_network(module: AnyModule) -> AnyModule:
    """Return a copy that shares nothing with `module`; tensors computed from parameters are copied
    as values.

    A plain deepcopy refuses tensors that are computed from parameters.
    """
    kept = [
        value
        for layer in module.modules()
        for value in (*vars(layer).values(), *layer._buffers.values())
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in kept})


def hidden_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return by name the tensors of a network that are not in its ``state_dict()``: non-persistent
    buffers and plain attributes.
    """
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
    """Restore the buffers on leaving, whether they were written into or replaced."""
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
    """Run a network in eval mode without gradients, then restore its modes and buffers.

    Some networks change their buffers in eval mode too, and a measurement must not depend on
    earlier ones.
    """
    with kept_modes(module), kept_buffers(module), torch.inference_mode():
        module.eval()
        yield


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes and buffers (the objects themselves) of a network at some time, by layer name.

    `hidden` holds copies of the tensors that are not in ``state_dict()``.
    """

    held: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor | None]]]
    hidden: Mapping[str, Tensor]

    def restore(self, module: nn.Module) -> None:
        """Assign all of them to `module` again."""
        for name, (attributes, buffers) in self.held.items():
            layer = module.get_submodule(name)
            for gone in vars(layer).keys() - attributes.keys():
                del vars(layer)[gone]
            vars(layer).update(attributes)
            layer._buffers.update(buffers)

    def put_back(self, twin: nn.Module, names: Sequence[str]) -> None:
        """Assign copies of the noted attributes to a copy of the network."""
        for name in names:
            prefix, _, key = name.rpartition(".")
            layer, attributes = twin.get_submodule(prefix), self.held[prefix][0]
            if name in self.hidden:
                place = layer._buffers if key in layer._buffers else vars(layer)
                place[key] = self.hidden[name].clone()
            elif key in attributes:
                vars(layer)[key] = copy.deepcopy(attributes[key])
            else:
                vars(layer).pop(key, None)

    def assigned(self, module: nn.Module) -> tuple[list[str], list[str]]:
        """Name the buffers and the other attributes of `module` that were replaced since then, and
        hidden tensors that have new values.
        """
        buffers: list[str] = []
        now = hidden_tensors(module)
        others = [n for n, was in self.hidden.items() if n in now and not torch.equal(was, now[n])]
        for name, layer in module.named_modules():
            attributes, own = self.held.get(name, ({}, {}))
            for key, buffer in layer._buffers.items():
                if own.get(key) is not buffer:
                    buffers.append(f"{name}.{key}".lstrip("."))
            for key, value in vars(layer).items():
                was = attributes.get(key, self)
                if key != "training" and was is not value and not _equal_numbers(was, value):
                    others.append(f"{name}.{key}".lstrip("."))
        return buffers, list(dict.fromkeys(others))


def attributes_of(module: nn.Module) -> Attributes:
    """Note the attributes and buffers of a network."""
    return Attributes(
        {name: (dict(vars(layer)), dict(layer._buffers)) for name, layer in module.named_modules()},
        {name: value.detach().clone() for name, value in hidden_tensors(module).items()},
    )


def effect_of_running(module: nn.Module, example: Tensor) -> str | None:
    """Say what a forward pass in train mode does besides returning outputs and writing into
    buffers; None if it does nothing else.

    A copy of `module` runs on `example` (1, *S) twice, because a list of layers would miss
    functions.
    """
    probe = copy_network(module).train()
    with kept_draws(example.device):
        drawn, before = all_draws(example.device), attributes_of(probe)
        with torch.no_grad():
            outputs_of(probe, torch.cat([example, example]))
        if have_changed(drawn, all_draws(example.device)):
            return "it draws random numbers (dropout, say)"
    buffers, others = before.assigned(probe)
    if buffers:
        return f"its forward assigns to its buffer {buffers[0]!r} instead of writing into it"
    return f"its forward assigns to its attribute {others[0]!r}" if others else None


def drawing_layers(module: nn.Module, example: Tensor) -> list[str]:
    """Name the layers whose own code draws random numbers in train mode, found by running a copy on
    `example` (N, ...).

    The generators are checked whenever a layer begins or ends; a change is due to the code that ran
    since the last check.
    """
    probe, found = copy_network(module).train(), set[str]()
    running: list[str] = []
    with kept_draws(example.device):
        last = all_draws(example.device)

        def look(begins: str | None) -> None:
            nonlocal last
            now = all_draws(example.device)
            if running and have_changed(last, now):
                found.add(running[-1])
            last = now
            running.append(begins) if begins is not None else running.pop()

        for name, layer in probe.named_modules():
            layer.register_forward_pre_hook(lambda *_, name=name: look(name))
            layer.register_forward_hook(lambda *_: look(None))
        with torch.no_grad():
            outputs_of(probe, example)
    return sorted(found)


def lost_attribute(module: nn.Module, before: Attributes, example: Tensor) -> str | None:
    """Name an attribute that has changed since `before` if the change alters the outputs of
    `module` for `example`.

    A copy of the network and a copy with the attributes of `before` are compared in eval mode and,
    from the same seed, in train mode; ``state_dict()`` does not hold such attributes.
    """
    _, others = before.assigned(module)
    for training in (False, True) if others else ():
        now, then = copy_network(module), copy_network(module)
        before.put_back(then, others)
        outputs = []
        for twin in (now, then):
            with seeded_draws(0, example.device), torch.no_grad():
                outputs.append(outputs_of(twin.train(training), example))
        if not torch.allclose(outputs[0], outputs[1], rtol=0, atol=0, equal_nan=True):
            return others[0]
    return None


@contextmanager
def kept_attributes(module: nn.Module) -> Iterator[None]:
    """Restore every attribute that is replaced while the context lasts, because tracing runs the
    network on stand-ins.
    """
    before = attributes_of(module)
    try:
        yield
    finally:
        before.restore(module)


def _equal_numbers(a: object, b: object) -> bool:
    simple = (bool, int, float, str)
    return isinstance(a, simple) and isinstance(b, simple) and a == b
