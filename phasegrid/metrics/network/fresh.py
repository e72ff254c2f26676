"""Weights of a network that is initialised anew."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import parameters_vector


def fresh_vector(
    model: nn.Module,
    rng: torch.Generator,
    asked: str,
    then: Callable[[nn.Module], object] = lambda _layer: None,
) -> Tensor:
    """Initialise a copy of `model` anew on the CPU and return its weights (P,); global random state
    is restored.

    The model's own ``reset_parameters()`` does this if it has one; otherwise that of each layer,
    followed by `then`.

    Raises:
        MetricError: if a layer has parameters and no ``reset_parameters()``; `asked` says what
            needs it, and what else can be asked for.
    """
    seed = int(torch.randint(1 << 62, (), generator=rng, device=rng.device))
    fresh = copy_network(model).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, layer in _layers_to_reset(fresh):
            reset = getattr(layer, "reset_parameters", None)
            if reset is None:
                needs, _, instead = asked.partition(";")
                raise MetricError(
                    f"{needs}: layer {name!r} ({type(layer).__name__}) has parameters but no"
                    f" reset_parameters();{instead}"
                )
            reset()
            then(layer)
    return parameters_vector(fresh)


def _layers_to_reset(model: nn.Module) -> list[tuple[str, nn.Module]]:
    if hasattr(model, "reset_parameters"):
        return [("", model)]
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if any(p.requires_grad for p in layer.parameters(recurse=False))
    ]
