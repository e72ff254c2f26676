"""What a network says about inputs, batch by batch, in eval mode."""

import torch
from torch import Tensor, nn

from phasegrid.weights import kept_modes


def predict(module: nn.Module, inputs: Tensor, batch_size: int = 500) -> Tensor:
    """Return the outputs (N, ...) of `module` in eval mode on `inputs` (N, ...); modes are restored."""
    with kept_modes(module), torch.inference_mode():
        module.eval()
        return torch.cat([module(batch) for batch in torch.split(inputs, batch_size)])
