"""A convolution whose second derivative takes the kernels of convolutions and of their gradients.

The gradient of y = x * W + b is (g_x, g_W, g_b) = backward(g; x, W). Its parts are linear in g and
in W or x. For vectors (v_x, v_W, v_b) at these outputs its own gradient is

    at g: v_x * W + x * v_W + v_b,        at (x, W): backward(g; v_x, v_W) without the bias.

So a product with the Hessian takes six times the arithmetic of a forward pass, which is twice that
of a gradient. Torch computes the second part by convolutions in which examples take the place of
channels and whole feature maps that of kernels; libraries are not made for these.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor

_Pair: TypeAlias = "int | tuple[int, int] | list[int] | str"
_How: TypeAlias = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, whether transposed, output padding and groups."""


def convolve(
    input: Tensor,  # noqa: A002  # the names of torch.conv2d, by which callers give them
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Compute `torch.conv2d`, differentiable twice; images without a batch or with padding that is
    given by a name are left to torch.
    """
    if isinstance(padding, str) or input.dim() != 4:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
    how = (_pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups)
    output: Tensor = _Convolution.apply(input, weight, bias, how)
    return output


def _pair(value: _Pair) -> list[int]:
    assert not isinstance(value, str)
    return [value, value] if isinstance(value, int) else [*value] * (2 // len(value))


class _Convolution(torch.autograd.Function):
    """y = x * W + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return _plain(x, weight, bias, how)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_Gradient.apply(g, x, weight, ctx.how, ctx.needs_input_grad[:3]), None


class _Gradient(torch.autograd.Function):
    """(g_x, g_W, g_b) = backward(g; x, W)."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, how: _How, needed: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        ctx.save_for_backward(g, x, weight)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return _gradient(g, x, weight, how, needed)

    @staticmethod
    def backward(
        ctx: Any, v_x: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        v_x, v_weight = _like(v_x, x), _like(v_weight, weight)
        at_g = None
        if ctx.needs_input_grad[0]:
            at_g = _sum(
                None if v_x is None else torch.ops.aten.convolution(v_x, weight, None, *ctx.how),
                None
                if v_weight is None
                else torch.ops.aten.convolution(x, v_weight, None, *ctx.how),
                None if v_bias is None else v_bias.view(1, -1, 1, 1).expand_as(g),
            )
        needed = (
            ctx.needs_input_grad[1] and v_weight is not None,
            ctx.needs_input_grad[2] and v_x is not None,
            False,
        )
        at_x, at_weight, _ = _gradient(
            g, x if v_x is None else v_x, weight if v_weight is None else v_weight, ctx.how, needed
        )
        return at_g, at_x, at_weight, None, None


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    output: Tensor = torch.ops.aten.convolution(x, weight, bias, *how)
    return output


def _gradient(
    g: Tensor, x: Tensor, weight: Tensor, how: _How, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    if not any(needed):
        return None, None, None
    sizes = [len(weight)] if needed[2] else None
    found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
        g, x, weight, sizes, *how, needed
    )
    return found


def _like(value: Tensor | None, other: Tensor) -> Tensor | None:
    """Return `value` in the memory layout of `other`, so that both take the same kernels."""
    if value is None:
        return None
    last = not other.is_contiguous()
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _sum(*terms: Tensor | None) -> Tensor | None:
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None
