"""Tools on the weights of a network: flat vectors, interpolation, distances, BatchNorm refresh.

Nothing here knows a recipe, a store or a device: tensors stay where they are. Letters: P trainable
parameters, N examples. A flat vector holds the trainable parameters in the order of
``module.named_parameters()`` (tied ones once).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phasegrid.models.blocks import Blocks, Filled
from phasegrid.models.network_state import copy_network, kept_modes, outputs_of
from phasegrid.tasks.batches import cut

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ParameterSlice:
    """Where one trainable parameter lies in the flat vector."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class FlatModule:
    """A copy of a module whose trainable parameters are set from, and read as, one flat vector
    (P,).

    ``loss.backward()`` accumulates what `gradient` returns; clear it with `zero_grad` of this class
    (the module's own would drop the views). The module given is never changed. All trainable
    parameters become `dtype` (float32 or float64), buffers too. They lie in one vector with gaps
    (`phasegrid.models.blocks`), which is filled and read in one operation each.

    >>> flat = FlatModule(nn.Linear(2, 1))
    >>> flat.assign(torch.tensor([1.0, 2.0, 3.0]))
    >>> flat(torch.ones(1, 2)).item()
    6.0
    """

    module: nn.Module
    slices: tuple[ParameterSlice, ...]

    def __init__(self, module: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.module = copy_network(module) if dtype is None else copy_network(module).to(dtype)
        self.slices = parameter_slices(self.module)
        vector = parameters_vector(self.module)
        blocks = Blocks.of(part.shape for part in self.slices)
        self._weights, self._grads = Filled(blocks, vector), Filled(blocks, vector)
        parameters = dict(self.module.named_parameters())
        for part, weights, grads in zip(
            self.slices, self._weights.views, self._grads.views, strict=True
        ):
            parameters[part.name].data = weights
            parameters[part.name].grad = grads
        self.assign(vector)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._weights.vector.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._weights.vector.device

    def read(self) -> Tensor:
        """Copy the weights into a vector (P,)."""
        return self._weights.read()

    def assign(self, vector: Tensor) -> None:
        """Set the weights to `vector` (P,), cast to their dtype, without touching the gradient."""
        self._weights.fill(vector)

    def gradient(self) -> Tensor:
        """Copy what gradients have accumulated into a vector (P,)."""
        return self._grads.read()

    def zero_grad(self) -> None:
        """Set the gradient to zero, keeping the views."""
        self._grads.vector.zero_()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the module's output at the present weights."""
        outputs: Tensor = self.module(inputs)
        return outputs


def parameter_slices(module: nn.Module) -> tuple[ParameterSlice, ...]:
    """List where each trainable parameter lies in the flat vector."""
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


def assign_vector(module: nn.Module, vector: Tensor) -> None:
    """Write the flat `vector` (P,) into the trainable parameters of `module`, in place.

    Raises:
        ValueError: if the vector does not have P entries.
    """
    slices = parameter_slices(module)
    total = slices[-1].stop if slices else 0
    if vector.shape != (total,):
        raise ValueError(
            f"a vector of shape {tuple(vector.shape)} cannot fill {total} trainable parameters"
        )
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for part in slices:
            parameters[part.name].copy_(vector[part.start : part.stop].view(part.shape))


def cpu_state(module: nn.Module) -> Weights:
    """Copy the full state (parameters and buffers) to the CPU, contiguous and detached."""
    return {name: own_copy(value) for name, value in module.state_dict().items()}


def own_copy(value: Tensor) -> Tensor:
    """Return a contiguous copy of `value` on the CPU that shares no memory with it."""
    return value.detach().to("cpu", copy=True).contiguous()


def interpolate(a: Mapping[str, Tensor], b: Mapping[str, Tensor], t: float) -> Weights:
    """Return (1 - t) a + t b for every floating tensor of two states; others (counters) are taken
    from `a`.

    Raises:
        ValueError: if the states do not have the same names and shapes.
    """
    if {k: v.shape for k, v in a.items()} != {k: v.shape for k, v in b.items()}:
        raise ValueError("cannot interpolate states whose tensors differ in name or shape")
    return {
        name: (1 - t) * value + t * b[name] if value.is_floating_point() else value.clone()
        for name, value in a.items()
    }


def l2_distance(a: Tensor, b: Tensor) -> float:
    """Return the Euclidean distance of two flat vectors (P,), summed in float64."""
    return float(torch.linalg.vector_norm(a.double() - b.double()))


def batch_norm_modules(module: nn.Module) -> list[_BatchNorm]:
    """List the BatchNorm layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def has_batch_norm(module: nn.Module) -> bool:
    """Say whether any BatchNorm layer keeps running statistics."""
    return bool(batch_norm_modules(module))


def refresh_batch_norm(module: nn.Module, inputs: Tensor, batch_size: int = 500) -> None:
    """Re-estimate the running statistics of every BatchNorm layer from `inputs` (N, ...), in place.

    The statistics are reset and become the average over batches, weighted by batch size, of the
    batch mean and the unbiased batch variance, one forward pass with BatchNorm in train mode and
    everything else (dropout) in eval mode (Garipov et al. 2018, published code; the practice of
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
