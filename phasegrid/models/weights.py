"""Work on the weights of a network: flat vectors, distances, BatchNorm refresh.

Tensors stay on their devices. Letters: P trainable parameters, N examples. A flat vector holds the
trainable parameters in the order of ``module.named_parameters()`` (tied ones once).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from phasegrid.models.network_state import kept_modes, outputs_of
from phasegrid.tasks.batches import cut

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ParameterSlice:
    """The place of one trainable parameter in the flat vector."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


def parameter_slices(module: nn.Module) -> tuple[ParameterSlice, ...]:
    """List the place of each trainable parameter in the flat vector."""
    slices, start = [], 0
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            stop = start + parameter.numel()
            slices.append(ParameterSlice(name, start, stop, tuple(parameter.shape)))
            start = stop
    return tuple(slices)


def num_parameters(module: nn.Module) -> int:
    """Count the trainable parameters, P."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def parameters_vector(module: nn.Module) -> Tensor:
    """Copy the trainable parameters into one vector (P,), detached, in their own dtype.

    Raises:
        ValueError: if nothing is trainable.
    """
    parts = [p.detach().reshape(-1) for p in module.parameters() if p.requires_grad]
    if not parts:
        raise ValueError(f"{type(module).__name__} has no trainable parameter to put in a vector")
    return torch.cat(parts)


def cpu_state(module: nn.Module) -> Weights:
    """Copy the full state (parameters and buffers) to the CPU, contiguous and detached."""
    return {name: own_copy(value) for name, value in module.state_dict().items()}


def own_copy(value: Tensor) -> Tensor:
    """Return a contiguous copy of `value` on the CPU that shares no memory with it."""
    return value.detach().to("cpu", copy=True).contiguous()


def l2_distance(a: Tensor, b: Tensor) -> float:
    """Return the Euclidean distance of two flat vectors (P,), summed in float64."""
    return float(torch.linalg.vector_norm(a.double() - b.double()))


def batch_norm_modules(module: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def has_batch_norm(module: nn.Module) -> bool:
    """Say whether any BatchNorm layer keeps running statistics."""
    return bool(batch_norm_modules(module))


def uses_batch_statistics(module: nn.Module) -> bool:
    """Say whether in the present mode of `module` an example's output depends on its batch: a
    normalisation uses the statistics of that.
    """
    return any(
        layer.training or layer.running_mean is None
        for layer in module.modules()
        if isinstance(layer, _NormBase)
    )


def refresh_batch_norm(module: nn.Module, inputs: Tensor, batch_size: int = 500) -> None:
    """Re-estimate the running statistics of every BatchNorm layer from `inputs` (N, ...), in place.

    The statistics are reset and become the averages of batch mean and unbiased batch variance over
    batches, weighted by batch size. This takes one forward pass with BatchNorm in train mode and
    everything else (dropout) in eval mode (Garipov et al. 2018, published code; also done by
    Izmailov et al. 2018). The mean is exact up to the change it causes in later layers; the
    variance leaves out the spread between batch means. Modes and momenta are restored. Does nothing
    without BatchNorm.
    """
    layers = batch_norm_modules(module)
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    with kept_modes(module), torch.no_grad():
        module.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        try:
            for batch in cut(len(inputs), batch_size):
                for layer in layers:
                    layer.momentum = (batch.stop - batch.start) / batch.stop
                outputs_of(module, inputs[batch])
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
