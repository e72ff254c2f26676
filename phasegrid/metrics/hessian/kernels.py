"""Select kernels with correct and fast second derivatives, in place of wrong, slow or missing
ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from phasegrid.metrics.hessian.convolutions import convolve


@contextmanager
def plain_attention() -> Iterator[None]:
    """Compute attention from products and a softmax: the fused kernels have no second
    derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def fast_kernels(images_last: bool) -> Iterator[None]:
    """Compute attention as in `plain_attention`, and convolutions of images that lie channels last
    with second derivatives of their own (`phasegrid.metrics.hessian.convolutions`).

    On a CPU a product with the Hessian of ResNet18 then takes 0.8 times as long at widths 8 and 64.
    Images that are contiguous keep torch's: there it is faster (width 2: 0.8 times as long).
    """
    with plain_attention(), _Instead(torch.conv2d, convolve) if images_last else nullcontext():
        yield


@contextmanager
def reference_kernels() -> Iterator[None]:
    """Avoid the kernels whose second derivatives are known to be missing or wrong, even if the
    others are slow.

    Recurrent layers of cuDNN have no second derivative (oneDNN is not used in float64). The second
    derivative of torch's weight norm (at least 2.6 to 2.15) treats the norms as constants.
    """
    with (
        plain_attention(),
        torch.backends.cudnn.flags(enabled=False),
        _Instead(torch._weight_norm, _weight_norm),
    ):
        yield


class _Instead(TorchFunctionMode):
    """Calls `ours` wherever torch's function `theirs` is called."""

    def __init__(self, theirs: object, ours: Callable[..., object]) -> None:
        super().__init__()
        self._theirs, self._ours = theirs, ours

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return (self._ours if func is self._theirs else func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Compute torch's weight norm, g v / |v|, by operations that can be differentiated any number
    of times.
    """
    return v * (g / torch.norm_except_dim(v, 2, dim))
