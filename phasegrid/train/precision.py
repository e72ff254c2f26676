"""The arithmetic of a recipe's ``precision`` (TF32, bfloat16 autocast), and deterministic
kernels.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

Autocast = Callable[[], AbstractContextManager[Any]]


@contextmanager
def tensor_float_32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions; torch itself allows it in convolutions."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def precision_now(device: torch.device) -> str:
    """Return the precision in which a device now computes with numbers in float32."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    shortened = products.allow_tf32 or convolutions.allow_tf32
    return "tf32" if device.type == "cuda" and shortened else "fp32"


@contextmanager
def deterministic_kernels(device: torch.device, wanted: bool) -> Iterator[None]:
    """Make a GPU compute with deterministic kernels; an operation without one raises a RuntimeError
    that names it.

    1.75 to 2 times slower (ResNet18 of width 8 on an H200). A CPU is deterministic already, for a
    fixed number of threads. cuBLAS reads its setting from the environment, where it stays.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # a module whose attribute is a property
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # nothing here reads memory before it writes it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        memory.fill_uninitialized_memory = filled


@contextmanager
def distinct_places() -> Iterator[None]:
    """Write to places that differ from each other. That is deterministic as it is; with
    deterministic kernels torch would sort the places first, which takes many more kernels.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def autocast_of(precision: str, device: torch.device) -> Autocast:
    """Return the context of a forward pass: bfloat16 autocast for ``bf16``, none otherwise."""
    if precision != "bf16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def without_bf16(outputs: Tensor) -> Tensor:
    """Return the outputs of a pass under autocast in float32, for the loss; others as they are."""
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs
