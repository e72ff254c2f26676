"""Prepare a network under a BatchNorm policy, and examples, for the Hessian."""

from typing import Literal

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.keys import stream_seed
from phasegrid.metrics.network.precision import full_precision
from phasegrid.models.network_state import copy_network
from phasegrid.models.weights import batch_norm_modules, has_batch_norm, refresh_batch_norm


def prepare(
    model: nn.Module,
    batch_norm: Literal["as_saved", "refreshed", "train"],
    train_inputs: Tensor,
    rng: torch.Generator,
) -> nn.Module:
    """Copy `model` into eval mode under a BatchNorm policy.

    ``refreshed``: running statistics from one pass over `train_inputs` in an order drawn from
    `rng`. ``train``: statistics of the batch itself; everything else, including dropout, stays in
    eval mode.
    """
    module = copy_network(model).eval()
    if batch_norm == "refreshed" and has_batch_norm(module):
        order = torch.randperm(len(train_inputs), generator=rng, device=rng.device)
        shuffled = train_inputs[order.to(train_inputs.device)]
        with full_precision(train_inputs.device):
            refresh_batch_norm(module, as_parameters(shuffled, module))
    if batch_norm == "train":
        for layer in batch_norm_modules(module):
            layer.train()
            layer.track_running_stats = False  # use only the batch's statistics
    return module


def draw_examples(data: Dataset, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `num` training examples without replacement (all, if there are fewer): the same ones for
    the same `seed`.
    """
    rng = torch.Generator().manual_seed(stream_seed(seed, "examples"))
    chosen = torch.randperm(len(data.train_labels), generator=rng)[:num]
    chosen = chosen.to(data.train_labels.device)
    return data.train_inputs[chosen], data.train_labels[chosen]


def as_parameters(inputs: Tensor, module: nn.Module) -> Tensor:
    """Cast floating `inputs` to the dtype of the parameters."""
    dtype = next(module.parameters()).dtype
    return inputs.to(dtype) if inputs.is_floating_point() else inputs
