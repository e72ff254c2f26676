"""Magnitude pruning: set the smallest weights to zero before training, and keep them zero.

Han et al. 2015 prune a trained network by magnitude and continue its training; Frankle and Carbin
2019 keep the mask and train again from the initialisation. Here the mask is computed from the
weights that a training starts with, which are an initialisation or another training's weights (a
stage), so both methods can be expressed. Only the weights of linear layers and convolutions are
pruned; biases, BatchNorm and all other layers are not. Of n weights the round(density n) largest in
magnitude stay, counted over the whole network (``global``) or in each layer (``layer``, at least
one); of equal ones the first.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from phasegrid.models.weights import Weights
from phasegrid.train.recipe import Prune


def prunable(module: nn.Module) -> list[str]:
    """Return the names of the weights of linear layers and convolutions, tied ones once."""
    own = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, _ConvNd))]
    return list(dict.fromkeys(own[id(m.weight)] for m in layers if id(m.weight) in own))


def masks(weights: Weights, names: Sequence[str], prune: Prune) -> Weights:
    """Return what stays (1) and what is pruned (0) of each of the weights of these names."""
    if prune.scope == "layer":
        return {name: _largest([weights[name]], prune.density)[0] for name in names}
    found = _largest([weights[name] for name in names], prune.density)
    return dict(zip(names, found, strict=True))


def mask_row(module: nn.Module, found: Mapping[str, Tensor]) -> Tensor:
    """Return masks as one vector (P,) over the trainable parameters; 1 where nothing is masked."""
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    return torch.cat(
        [found.get(name, torch.ones_like(p)).detach().flatten().to(p) for name, p in parameters]
    )


def density_of(weights: Weights, names: Sequence[str]) -> float | None:
    """Return the share of weights that are not zero; None where there are none."""
    total = sum(weights[name].numel() for name in names)
    return sum(int(weights[name].count_nonzero()) for name in names) / total if total else None


def _largest(tensors: Sequence[Tensor], density: float) -> list[Tensor]:
    """Return 1 for the largest magnitudes of some tensors together, else 0."""
    if not tensors:
        return []
    sizes = torch.cat([tensor.detach().abs().flatten() for tensor in tensors])
    count = max(1, round(density * len(sizes)))
    stays = torch.zeros_like(sizes)
    stays[sizes.argsort(descending=True, stable=True)[:count]] = 1
    parts = torch.split(stays, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
