"""Compile Triton kernels for GPUs of two generations, where there is none.

Run in a process of its own, so that Triton keeps its files in the folder that the caller names. A
launch is not made but compiled, with the types of its arguments. The last line on stdout says what
was begun last.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from phasegrid.models import norm_kernel
from phasegrid.train import optimizer_kernel
from phasegrid.train.optimizers import Rates, new_slots, rates_at
from tests.benchmarks import weight_gradient
from tests.children.optimizer_kernel import RECIPES

TARGETS = [GPUTarget("cuda", capability, 32) for capability in (80, 90)]
DTYPES = (torch.float32, torch.bfloat16)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}


class Compiled:
    """Stands for a kernel: ``kernel[grid](...)`` compiles it for every target."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self.compile

    def compile(self, *args: Any, **options: Any) -> None:
        named = dict(zip(self.kernel.arg_names, args, strict=False))
        named |= {name: options.pop(name) for name in self.kernel.arg_names if name in options}
        signature = {p.name: _type(named[p.name], p.is_constexpr) for p in self.kernel.params}
        constants = {name: named[name] for name, kind in signature.items() if kind == "constexpr"}
        for target in TARGETS:
            source = ASTSource(self.kernel, signature, constants)
            found = triton.compile(source, target=target, options=options)
            assert found.asm["cubin"]


def _type(value: Any, is_constexpr: bool) -> str:
    if is_constexpr or value is None:
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def compile_optimizers() -> None:
    optimizer_kernel._update = Compiled(optimizer_kernel._update)
    weights = torch.zeros(64)
    for (name, recipe), vectors in itertools.product(RECIPES.items(), (False, True)):
        print(name, vectors, flush=True)
        slots = new_slots(recipe, weights)
        both = (weights, weights) if vectors else (recipe.lr, recipe.weight_decay)
        rates = rates_at(recipe, *both, 1.0, 0)
        if not vectors:
            rates = Rates(*torch.tensor(rates).unbind())
        optimizer_kernel.step(recipe, weights, weights, slots, *both, rates)


def compile_norms() -> None:
    for name in ("_sum_forward", "_normalize", "_sum_backward", "_differentiate"):
        setattr(norm_kernel, name, Compiled(getattr(norm_kernel, name)))
    one = torch.ones(6)
    running = one, one, torch.tensor(0)
    flags = (False, True)
    for dtype, last, added, relu in itertools.product(DTYPES, flags, flags, flags):
        print(dtype, last, added, relu, flush=True)
        layout = torch.channels_last if last else torch.contiguous_format
        x = torch.ones(2, 6, 3, 3, dtype=dtype).to(memory_format=layout).requires_grad_()
        kept = running if relu else None
        both = norm_kernel.norm(x, x if added else None, one, one, kept, 0.1, 1e-5, relu)
        sum(y.sum() for y in both[: 1 + added]).backward()


def compile_weight_gradients() -> None:
    weight_gradient._multiply = Compiled(weight_gradient._multiply)
    for dtype, tf32 in itertools.product(DTYPES, (False, True)):
        print("weight gradient", dtype, tf32, flush=True)
        x = torch.ones(2, 8, 4, 4, dtype=dtype)
        weight_gradient.weight_gradient(x, x, tf32)


def main() -> None:
    compile_weight_gradients()
    compile_optimizers()
    compile_norms()
    print("whole", flush=True)


if __name__ == "__main__":
    main()
