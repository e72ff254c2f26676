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


def choose_strategy(
    asked: str, module: nn.Module, example: Tensor, num_members: int, batch_size: int
) -> tuple[Strategy, Blueprint | None]:
    """Choose how to run `num_members` copies of `module`; `example` (1, *S) lies on the device that
    will run them.

    ``auto``: one member loops. More are fused if the architecture can be and, on a CPU, an update
    of one member takes at most `MAX_FUSED_PRODUCTS` multiply-adds; else they loop. ``auto`` never
    chooses ``vmap``: ``fused`` was faster wherever both were measured, and ``vmap`` does not work
    for every network. Nor does it choose ``merged``, which a measurement on a GPU may.

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
    if example.device.type != "cpu" or batch_size * products(module, example) <= limit:
        return "fused", blueprint
    return "loop", None


def products(module: nn.Module, example: Tensor) -> int:
    """Count the multiply-adds of linear and convolution layers in one forward pass of `example` (1,
    *S).
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        total += layer.weight.numel() * (output.numel() // layer.weight.shape[0])

    layers = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with kept_modes(module), kept_buffers(module), torch.no_grad():
            outputs_of(module.eval(), example)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def why_not_vmap(module: nn.Module, example: Tensor) -> str | None:
    """Say why ``torch.func`` cannot stack a network correctly; None if no reason is known.

    Random draws of forward would depend on the pack, and its assignments would be lost. Running it
    on `example` (1, *S) shows both.
    """
    for name, m in module.named_modules():
        if isinstance(m, _BatchNorm) and m.momentum is None:
            return f"{name} averages its statistics cumulatively (momentum None)"
    return effect_of_running(module, example)
