"""Keep the arithmetic of a measurement from what surrounds it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phasegrid.train.precision import tensor_float_32


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in the dtype of the weights, whatever TF32 or autocast was allowed before."""
    with tensor_float_32(False), torch.autocast(device.type, enabled=False):
        yield
