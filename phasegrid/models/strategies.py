"""Choose how several networks of one architecture run as one `phasegrid.models.flat`."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phasegrid.models.fused import Blueprint, find_architecture, read_architecture
from phasegrid.models.network_state import (
    effect_of_running,
    kept_buffers,
    kept_modes,
    outputs_of,
)

Strategy = Literal["loop", "vmap", "fused", "merged"]

MAX_FUSED_PRODUCTS = {"linear": 10_000_000, "convolution": 600_000_000}
"""On a CPU with more multiply-adds per member and update, one network keeps a core busy, and fusing
does not pay.

Measured with tests/benchmarks/bench_packing.py, three members, fused against loop: perceptron of
width 256, batch 64 (5e6) 1.05 and batch 256 (2e7) 0.99; ResNet18 of width 8, 32x32 pixels, batch 64
(6e8) 1.15, of width 16, batch 32 (1e9) 0.6.
"""

MAX_FUSED_BYTES = 2**22
"""On a CPU with larger activations of one layer per member and update, a stack leaves the caches,
and fusing does not pay.

Measured on float32 images of 32x32 pixels in batches of 128, five members, fused against loop:
small CNN of width 4 (2 MiB) 1.18, of width 8 (4 MiB) 0.95, of width 16 (8 MiB) 0.90.
"""


def choose_strategy(
    asked: str, module: nn.Module, example: Tensor, num_members: int, batch_size: int
) -> tuple[Strategy, Blueprint | None]:
    """Choose how to run `num_members` copies of `module`; `example` (1, *S) lies on the device that
    will run them.

    ``auto``: one member loops. More are fused if the architecture can be and, on a CPU, an update
    of one member takes at most `MAX_FUSED_PRODUCTS` multiply-adds and less than `MAX_FUSED_BYTES`
    for the outputs of a layer; else they loop. ``auto`` never chooses ``vmap``: ``fused`` was
    faster wherever both were measured, and ``vmap`` does not work for every network. Nor does it
    choose ``merged``, which a measurement on a GPU may.

    Raises:
        NotFusableError: if ``fused`` or ``merged`` was requested and the network has no stacked
            form.
        ValueError: if ``vmap`` was requested and the network draws random numbers (dropout),
            assigns to its attributes, or has BatchNorm with a cumulative average.
    """
    if asked == "vmap":
        trouble = why_not_vmap(module, example)
        if trouble:
            raise ValueError(f"strategy vmap cannot train {type(module).__name__}: {trouble}")
        return "vmap", None
    if asked == "fused":
        return "fused", read_architecture(module)
    if asked == "merged":
        return "merged", read_architecture(module)
    if asked == "loop" or num_members == 1:
        return "loop", None
    blueprint = find_architecture(module)
    if blueprint is None:
        return "loop", None
    convolves = any(isinstance(m, nn.Conv2d) for m in module.modules())
    limit = MAX_FUSED_PRODUCTS["convolution" if convolves else "linear"]
    if example.device.type == "cpu" and (
        batch_size * products(module, example) > limit
        or batch_size * largest_output_bytes(module, example) >= MAX_FUSED_BYTES
    ):
        return "loop", None
    return "fused", blueprint


def products(module: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of linear and convolution layers in one forward pass of `example` (1,
    *S).
    """
    outputs = _outputs_of_products(module, example)
    return sum(layer.weight[0].numel() * output.numel() for layer, output in outputs)


def largest_output_bytes(module: nn.Module, example: Tensor) -> int:
    """Return the bytes of the largest output of a linear or convolution layer for `example` (1,
    *S); 0 if the network has no such layer.
    """
    outputs = _outputs_of_products(module, example)
    return max((output.numel() * output.element_size() for _, output in outputs), default=0)


def _outputs_of_products(
    module: nn.Module, example: Tensor
) -> list[tuple[nn.Linear | nn.Conv2d, Tensor]]:
    """Run `example` (1, *S) and return the linear and convolution layers with their outputs."""
    found: list[tuple[nn.Linear | nn.Conv2d, Tensor]] = []

    def note(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        found.append((layer, output))

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with kept_modes(module), kept_buffers(module), torch.no_grad():
            outputs_of(module.eval(), example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def why_not_vmap(module: nn.Module, example: Tensor) -> str | None:
    """Say why ``torch.func`` cannot stack a network correctly; None if no reason is known.

    Random draws of forward would depend on the pack, and its assignments would be lost. Running it
    on `example` (1, *S) shows both.
    """
    for name, m in module.named_modules():
        if isinstance(m, _BatchNorm) and m.momentum is None:
            return f"{name} averages its statistics cumulatively (momentum None)"
    return effect_of_running(module, example)
