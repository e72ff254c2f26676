"""BatchNorm on batch statistics, an addition and ReLU as two Triton kernels forward and two
backward; torch makes up to five of each.

The first kernel of a pass sums over parts of the rows, the second ends the sums and computes the
outputs. Parts depend on shapes alone and nothing is added atomically, so results repeat bit for
bit. Statistics and sums are float32 whatever the inputs are; means and squared deviations are
merged as in Chan, Golub and LeVeque 1983. Import this module only where Triton is installed.

Letters: N examples, C channels, S places of an image, R = N S rows, P parts. Images are dense and
lie with channels last, at row * C + channel, or first, at (n C + channel) S + s.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"
# Triton has no types, and reads the annotations of kernels itself; neither has autograd.Function.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from phasegrid.models.norms import Running

TILE = 4096
"""Elements that a program reads at once, with `WARPS` warps."""
WARPS = 8
MOST_CHANNELS = 32
"""Channels of a program."""
MOST_PARTS = 128


def norm(
    x: Tensor,
    residual: Tensor | None,
    gain: Tensor | None,
    shift: Tensor | None,
    running: Running | None,
    momentum: float,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return BatchNorm of x (N, C, ...) on the statistics of the batch, plus `residual`, after
    ReLU if `relu`, twice, for two users; update the `running` mean, variance and number of batches
    in place.

    Raises:
        ValueError: if there is only one value per channel.
    """
    channels = x.shape[1]
    if x.numel() <= channels:
        raise ValueError(
            f"BatchNorm in train mode needs more than one value per channel; its input is"
            f" {tuple(x.shape)}: use larger batches, or drop_last"
        )
    if gain is None or shift is None:
        gain, shift = x.new_ones(channels).float(), x.new_zeros(channels).float()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        outputs: tuple[Tensor, Tensor] = _Norm.apply(
            x, residual, gain, shift, running, momentum, eps, relu
        )
    return outputs


def try_out(device: torch.device) -> None:
    """Run forward and backward on a few numbers, to see whether Triton can compile for `device`."""
    with torch.enable_grad():
        x = torch.arange(8.0, device=device).view(4, 2).requires_grad_()
        one = torch.ones(2, device=device)
        norm(x, x, one, one, None, 0.1, 1e-5, True)[0].sum().backward()


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        gain: Tensor,
        shift: Tensor,
        running: Running | None,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> tuple[Tensor, Tensor]:
        x = _dense(x)
        residual = None if residual is None else _like(residual, x)
        shape, grid, options = _plan(x)
        parts = x.new_empty((2, options["PARTS"], x.shape[1]), dtype=torch.float32)
        moments = x.new_empty((2, x.shape[1]), dtype=torch.float32)
        y = torch.empty_like(x)
        _sum_forward[grid](x, *parts, *shape, **options)
        _normalize[grid](
            x,
            residual,
            y,
            gain,
            shift,
            *parts,
            *moments,
            *(running or (None, None, None)),
            *shape,
            momentum,
            eps,
            1 if running is None else running[2].numel(),
            RELU=relu,
            MEMBERS=1 if running is None else triton.next_power_of_2(running[2].numel()),
            **options,
        )
        ctx.save_for_backward(x, y if relu and residual is not None else None, gain, shift, moments)
        ctx.relu, ctx.has_residual = relu, residual is not None
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, gain, shift, moments = ctx.saved_tensors
        grad, other = ([_like(grad, x) for grad in grads if grad is not None] + [None])[:2]
        shape, grid, options = _plan(x)
        parts = x.new_empty((2, options["PARTS"], x.shape[1]), dtype=torch.float32)
        sums = x.new_empty((2, x.shape[1]), dtype=torch.float32)
        dx = torch.empty_like(x)
        is_changed = ctx.relu or other is not None
        masked = torch.empty_like(x) if is_changed and ctx.has_residual else None
        given = grad, other, x, y, gain, shift, *moments
        _sum_backward[grid](*given, *parts, *shape, RELU=ctx.relu, **options)
        _differentiate[grid](*given, *parts, *sums, dx, masked, *shape, RELU=ctx.relu, **options)
        through = (masked if is_changed else grad) if ctx.has_residual else None
        return dx, through, sums[1], sums[0], None, None, None, None


def _dense(x: Tensor) -> Tensor:
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if is_last else x.contiguous()


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Return `values` with the dtype and in the memory layout of x."""
    if values.stride() == x.stride() and values.dtype == x.dtype:
        return values
    return torch.empty_like(x).copy_(values)


def _plan(x: Tensor) -> tuple[tuple[int, int, int], tuple[int, int], dict[str, Any]]:
    """Return the shape (R, C, S), the grid of programs and the sizes of the kernels for x."""
    channels = x.shape[1]
    rows, places = x.numel() // channels, x.numel() // (len(x) * channels)
    wide = min(triton.next_power_of_2(channels), MOST_CHANNELS)
    tall = TILE // wide
    parts = min(triton.next_power_of_2(triton.cdiv(rows, tall)), MOST_PARTS)
    options = {
        "FIRST": places > 1 and x.is_contiguous(),  # (one channel: both hold)
        "PARTS": parts,
        "TALL": tall,
        "WIDE": wide,
        "num_warps": WARPS,
        "enable_fp_fusion": True,  # said, because Triton's default changes with its version
    }
    return (rows, channels, places), (parts, triton.cdiv(channels, wide)), options


@triton.jit
def _at(row, channel, C, S, FIRST: tl.constexpr):
    """Return the places of rows (TALL,) and channels (WIDE,) in memory, (TALL, WIDE)."""
    if FIRST:
        at = (row // S * C * S + row % S)[:, None] + (channel * S)[None, :]
    else:
        at = (row * C)[:, None] + channel[None, :]
    return at


@triton.jit
def _sum_forward(
    x,
    part_mean,
    part_square,
    R,
    C,
    S,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write the mean and the sum of squared deviations of every channel in a part."""
    part = tl.program_id(0)
    channel = tl.program_id(1).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    mean = tl.zeros((TALL, WIDE), tl.float32)
    square = tl.zeros((TALL, WIDE), tl.float32)
    seen = tl.zeros((TALL, WIDE), tl.float32)
    for begin in tl.range(part * TALL, R, PARTS * TALL):
        row = begin + tl.arange(0, TALL).to(tl.int64)
        mine = (row < R)[:, None] & (channel < C)[None, :]
        value = tl.load(x + _at(row, channel, C, S, FIRST), mine, other=0.0).to(tl.float32)
        seen += tl.where(mine, 1.0, 0.0)
        off = tl.where(mine, value - mean, 0.0)
        mean += off / tl.maximum(seen, 1.0)
        square += off * tl.where(mine, value - mean, 0.0)
    num = tl.maximum(tl.sum(seen, 0), 1.0)
    whole = tl.sum(seen * mean, 0) / num
    off = mean - whole[None, :]
    to = part.to(tl.int64) * C + channel
    tl.store(part_mean + to, whole, channel < C)
    tl.store(part_square + to, tl.sum(square + seen * off * off, 0), channel < C)


@triton.jit
def _normalize(
    x,
    residual,
    y,
    gain,
    shift,
    part_mean,
    part_square,
    out_mean,
    out_scale,
    running_mean,
    running_variance,
    count,
    R,
    C,
    S,
    momentum,
    eps,
    members,
    RELU: tl.constexpr,
    MEMBERS: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """End the statistics, write them (the deviation as its inverse), and write the outputs."""
    part = tl.program_id(0)
    channel = tl.program_id(1).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    known = channel < C
    every = tl.arange(0, PARTS)
    from_parts = (every.to(tl.int64) * C)[:, None] + channel[None, :]
    means = tl.load(part_mean + from_parts, known[None, :], other=0.0)
    squares = tl.load(part_square + from_parts, known[None, :], other=0.0)
    num = _rows_of(every, R, PARTS, TALL).to(tl.float32)[:, None]
    mean = tl.sum(num * means, 0) / R
    off = means - mean[None, :]
    square = tl.sum(squares + num * off * off, 0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(square / R + eps))
    if part == 0:
        tl.store(out_mean + channel, mean, known)
        tl.store(out_scale + channel, scale, known)
        if running_mean is not None:
            old = tl.load(running_mean + channel, known, other=0.0)
            tl.store(running_mean + channel, old + momentum * (mean - old), known)
            old = tl.load(running_variance + channel, known, other=0.0)
            unbiased = square / (R - 1)
            tl.store(running_variance + channel, old + momentum * (unbiased - old), known)
            if tl.program_id(1) == 0:
                member = tl.arange(0, MEMBERS)
                counted = tl.load(count + member, member < members, other=0)
                tl.store(count + member, counted + 1, member < members)
    a = tl.load(gain + channel, known, other=0.0)[None, :]
    b = tl.load(shift + channel, known, other=0.0)[None, :]
    for begin in tl.range(part * TALL, R, PARTS * TALL):
        row = begin + tl.arange(0, TALL).to(tl.int64)
        mine = (row < R)[:, None] & known[None, :]
        at = _at(row, channel, C, S, FIRST)
        value = tl.load(x + at, mine, other=0.0).to(tl.float32)
        value = (value - mean[None, :]) * scale[None, :] * a + b
        if residual is not None:
            value += tl.load(residual + at, mine, other=0.0).to(tl.float32)
        if RELU:
            value = tl.where(value < 0.0, 0.0, value)  # NaN stays NaN
        tl.store(y + at, value, mine)


@triton.jit
def _sum_backward(
    grad,
    other,
    x,
    y,
    gain,
    shift,
    mean,
    scale,
    part_grad,
    part_product,
    R,
    C,
    S,
    RELU: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Write the sums of the gradient, and of its products with the normalized inputs, in a part."""
    part = tl.program_id(0)
    channel = tl.program_id(1).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    known = channel < C
    m, s, a, b = _moments(mean, scale, gain, shift, channel, known)
    total = tl.zeros((TALL, WIDE), tl.float32)
    product = tl.zeros((TALL, WIDE), tl.float32)
    for begin in tl.range(part * TALL, R, PARTS * TALL):
        row = begin + tl.arange(0, TALL).to(tl.int64)
        mine = (row < R)[:, None] & known[None, :]
        at = _at(row, channel, C, S, FIRST)
        g, normal = _masked(grad, other, x, y, at, mine, m, s, a, b, RELU)
        total += g
        product += g * normal
    to = part.to(tl.int64) * C + channel
    tl.store(part_grad + to, tl.sum(total, 0), known)
    tl.store(part_product + to, tl.sum(product, 0), known)


@triton.jit
def _differentiate(
    grad,
    other,
    x,
    y,
    gain,
    shift,
    mean,
    scale,
    part_grad,
    part_product,
    out_grad,
    out_product,
    dx,
    masked,
    R,
    C,
    S,
    RELU: tl.constexpr,
    FIRST: tl.constexpr,
    PARTS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """End the sums, which are the gradients of shift and gain, and write the gradients of x and of
    the residual (`masked`).
    """
    part = tl.program_id(0)
    channel = tl.program_id(1).to(tl.int64) * WIDE + tl.arange(0, WIDE)
    known = channel < C
    m, s, a, b = _moments(mean, scale, gain, shift, channel, known)
    from_parts = (tl.arange(0, PARTS).to(tl.int64) * C)[:, None] + channel[None, :]
    total = tl.sum(tl.load(part_grad + from_parts, known[None, :], other=0.0), 0)
    product = tl.sum(tl.load(part_product + from_parts, known[None, :], other=0.0), 0)
    if part == 0:
        tl.store(out_grad + channel, total, known)
        tl.store(out_product + channel, product, known)
    mean_grad = (total / R)[None, :]
    mean_product = (product / R)[None, :]
    for begin in tl.range(part * TALL, R, PARTS * TALL):
        row = begin + tl.arange(0, TALL).to(tl.int64)
        mine = (row < R)[:, None] & known[None, :]
        at = _at(row, channel, C, S, FIRST)
        g, normal = _masked(grad, other, x, y, at, mine, m, s, a, b, RELU)
        tl.store(dx + at, a * s * (g - mean_grad - normal * mean_product), mine)
        if masked is not None:
            tl.store(masked + at, g, mine)


@triton.jit
def _rows_of(part, R, PARTS: tl.constexpr, TALL: tl.constexpr):
    """Return the number of rows of every part: its whole tiles, and its share of the last one."""
    tiles = R // TALL
    rest = tl.where(tiles % PARTS == part, R % TALL, 0)
    return (tiles // PARTS + (part < tiles % PARTS).to(tl.int32)) * TALL + rest


@triton.jit
def _moments(mean, scale, gain, shift, channel, known):
    m = tl.load(mean + channel, known, other=0.0)[None, :]
    s = tl.load(scale + channel, known, other=0.0)[None, :]
    a = tl.load(gain + channel, known, other=0.0)[None, :]
    b = tl.load(shift + channel, known, other=0.0)[None, :]
    return m, s, a, b


@triton.jit
def _masked(grad, other, x, y, at, mine, m, s, a, b, RELU: tl.constexpr):
    """Return the gradient before ReLU, and the normalized inputs. Without a residual the outputs
    are computed again, which costs less than reading them.
    """
    g = tl.load(grad + at, mine, other=0.0).to(tl.float32)
    if other is not None:
        g += tl.load(other + at, mine, other=0.0).to(tl.float32)
    normal = (tl.load(x + at, mine, other=0.0).to(tl.float32) - m) * s
    normal = tl.where(mine, normal, 0.0)
    if RELU:
        if y is not None:
            passed = tl.load(y + at, mine, other=0.0).to(tl.float32) > 0.0
        else:
            passed = (normal * a + b) > 0.0
        g = tl.where(passed, g, 0.0)
    return g, normal
