"""Build the network that a trial names, built in or a plug-in, from a seed."""

import torch
from torch import nn

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
        SweepError: if no model has this name, or its `make` function does not return a module.
        DataError: if the model cannot take such inputs, or is for another kind of data.
    """
    declared = _declared(part.name)
    require_kind(part.name, declared.takes, tokens)
    make = import_function(declared.make)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        shape = (input_shape, num_classes) if tokens is None else (tokens,)
        module = make(*shape, **part.args, **part.locators)
    if not isinstance(module, nn.Module):
        raise SweepError(
            f"building model {part.name}: its make function returned {type(module).__name__}; "
            "it must return a torch.nn.Module"
        )
    return module


def _declared(name: str) -> Model:
    if name in MODELS:
        return MODELS[name]
    from phasegrid.plugins import resolve

    model = resolve("model", name)
    assert isinstance(model, Model)
    return model
