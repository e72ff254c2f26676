"""An experiment: the gradient of a 3x3 kernel of stride 1 by a Triton kernel that repeats bit for
bit.

Every program takes one place of the kernel and a part of the rows of the images, and multiplies
gradients by inputs there; the parts are then summed in order. cuDNN's fast weight gradients of
narrow layers add atomically; its deterministic ones do not split rows. Step ``kernels`` of the
script for a GPU times all three. Nothing in phasegrid uses it yet.

Letters: N examples, H x W places, C and O channels in and out, R = N H W rows. Images lie with
channels last.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64
"""Rows that a program multiplies at once."""
PROGRAMS = 1024


def weight_gradient(x: Tensor, grad: Tensor, tf32: bool = False) -> Tensor:
    """Return the gradient (O, C, 3, 3) for inputs x (N, C, H, W) and gradients (N, O, H, W)."""
    (num, channels, height, width), out = x.shape, grad.shape[1]
    rows = num * height * width
    wide, tall = (min(max(triton.next_power_of_2(size), 16), 64) for size in (channels, out))
    blocks = triton.cdiv(channels, wide) * triton.cdiv(out, tall)
    parts = max(min(PROGRAMS // (9 * blocks), triton.cdiv(rows, 8 * ROWS)), 1)
    found = x.new_empty((parts, out, 3, 3, channels), dtype=torch.float32)
    _multiply[(parts, 9, blocks)](
        x,
        grad,
        found,
        rows,
        channels,
        out,
        height,
        width,
        parts,
        ROWS=ROWS,
        TALL=tall,
        WIDE=wide,
        PRECISION="tf32" if tf32 else "ieee",
    )
    return found.sum(0).permute(0, 3, 1, 2).to(x.dtype)


@triton.jit
def _multiply(
    x,
    grad,
    found,
    R,
    C,
    num_out,
    H,
    W,
    parts,
    ROWS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    part = tl.program_id(0)
    down = tl.program_id(1) // 3
    right = tl.program_id(1) % 3
    across = (C + WIDE - 1) // WIDE
    out = tl.program_id(2) // across * TALL + tl.arange(0, TALL)
    channel = tl.program_id(2) % across * WIDE + tl.arange(0, WIDE)
    total = tl.zeros((TALL, WIDE), tl.float32)
    for begin in tl.range(part * ROWS, R, parts * ROWS):
        row = begin + tl.arange(0, ROWS)
        h = row // W % H + down - 1
        w = row % W + right - 1
        inside = (row < R) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        source = row + (down - 1) * W + right - 1
        g = tl.load(
            grad + row[None, :].to(tl.int64) * num_out + out[:, None],
            (row < R)[None, :] & (out < num_out)[:, None],
            other=0.0,
        )
        v = tl.load(
            x + source[:, None].to(tl.int64) * C + channel[None, :],
            inside[:, None] & (channel < C)[None, :],
            other=0.0,
        )
        total = tl.dot(g, v, total, input_precision=PRECISION)
    at = ((part.to(tl.int64) * num_out + out[:, None]) * 9 + tl.program_id(1)) * C + channel[
        None, :
    ]
    tl.store(found + at, total, (out < num_out)[:, None] & (channel < C)[None, :])
