"""Build the network that a trial names, built in or a plug-in, from a seed."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phasegrid.declare import Model, Tokens, import_function
from phasegrid.errors import SweepError
from phasegrid.jobs import Part
from phasegrid.models import MODELS
from phasegrid.models.shapes import require_kind


def build_model(
    part: Part,
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    tokens: Tokens | None = None,
) -> nn.Module:
    """Build the model `part` names, on the CPU, with its own initialisation drawn from `seed`.

    A model that takes sentence pairs is made for the `tokens` of their data set, any other for `input_shape` and
    `num_classes`.

    The same seed gives the same weights; the global random state is as before afterwards, on every device.

    Raises:
        SweepError: if no model has this name, its `make` function does not return a module, or the module draws tensors that are
            not in its ``state_dict()``: those of a trial would be lost with its process.
        DataError: if the model cannot take such inputs, or is for another kind of data.
    """
    declared = _declared(part.name)
    require_kind(part.name, declared.takes, tokens)
    shape = (input_shape, num_classes) if tokens is None else (tokens,)
    module = _make(declared, part, shape, seed)
    hidden = _hidden_tensors(module)
    if hidden:  # which no checkpoint holds, so they must be those of any other seed
        others = _hidden_tensors(_make(declared, part, shape, seed ^ 1))
        _refuse_drawn(part, hidden, others)
    return module


def _make(declared: Model, part: Part, shape: tuple[object, ...], seed: int) -> nn.Module:
    make = import_function(declared.make)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        module = make(*shape, **copy.deepcopy({**part.args, **part.locators}))
    if not isinstance(module, nn.Module):
        raise SweepError(
            f"building model {part.name}: its make function returned {type(module).__name__}; "
            "it must return a torch.nn.Module"
        )
    return module


def _hidden_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return what a network has beside its ``state_dict()``, by name: buffers that are not persistent, plain attributes."""
    hidden: dict[str, Tensor] = {}
    for prefix, layer in module.named_modules():
        own = {name: value for name, value in vars(layer).items() if isinstance(value, Tensor)}
        for name in layer._non_persistent_buffers_set:
            buffer = layer._buffers[name]
            own |= {} if buffer is None else {name: buffer}
        hidden |= {f"{prefix}.{name}".lstrip("."): value for name, value in own.items()}
    return hidden


def _refuse_drawn(part: Part, hidden: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    for name, value in hidden.items():
        if name not in others or not torch.equal(value, others[name]):
            raise SweepError(
                f"building model {part.name}: {name!r} is drawn at random, but is not in state_dict(); what is stored of a trial "
                "would lack it, and networks that train together would share the first one's: keep it by "
                "register_buffer(name, tensor), persistent as by default"
            )


def _declared(name: str) -> Model:
    if name in MODELS:
        return MODELS[name]
    from phasegrid.plugins import resolve

    model = resolve("model", name)
    assert isinstance(model, Model)
    return model
