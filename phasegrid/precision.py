"""The arithmetic of a recipe's ``precision``: TF32 allowed or not, autocast to bfloat16 or not."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

Autocast = Callable[[], AbstractContextManager[Any]]


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 products and convolutions; torch's own default allows them in convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def autocast_of(precision: str, device: torch.device) -> Autocast:
    """Return the context of a forward pass: bfloat16 autocast for ``bf16``, none otherwise."""
    if precision != "bf16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
