"""One update of SGD, Adam, AdamW or RMSprop as one Triton kernel: `phasegrid.train.optimizers.step`
in a single pass over the flat vectors.

Each number is read once and written once; torch's operations read and write the vectors three to
ten times, in as many kernels. Numbers differ from theirs by rounding. Import this module only where
Triton is installed. Formulas and sources are in `phasegrid.train.optimizers`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# Triton has no types, and reads the annotations of kernels itself.

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from phasegrid.train.optimizers import Rate, Rates, new_slots, rates_at
from phasegrid.train.recipe import Recipe

BLOCK = 1024
"""Elements of one program."""


def step(
    recipe: Recipe,
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    weight_decay: Rate,
    rates: Rates,
) -> None:
    """Make one update of `weights` in place, float32 and contiguous; `grads` does not change."""
    rmsprop = recipe.rmsprop
    is_rmsprop, is_sgd = recipe.optimizer == "rmsprop", recipe.optimizer == "sgd"
    first, second = (1.0, rmsprop.alpha) if is_rmsprop else recipe.betas
    decays = isinstance(weight_decay, Tensor)
    with torch.cuda.device_of(weights):  # Triton launches on the current device
        _update[(triton.cdiv(weights.numel(), BLOCK),)](
            weights,
            grads,
            slots.get("momentum"),
            slots.get("grad_avg" if is_rmsprop else "exp_avg"),
            slots.get("square_avg" if is_rmsprop else "exp_avg_sq"),
            lr if isinstance(lr, Tensor) else None,
            weight_decay if decays else None,
            *rates,
            weights.numel(),
            None if decays or not weight_decay else weight_decay,
            recipe.momentum if is_sgd else rmsprop.momentum,
            1 - (rmsprop.alpha if is_rmsprop else first),
            second,
            1 - second,
            rmsprop.eps if is_rmsprop else recipe.adam_eps,
            recipe.optimizer,
            is_sgd and recipe.nesterov,
            isinstance(rates.step, Tensor),
            BLOCK,
            enable_fp_fusion=True,  # said, because Triton's default changes with its version
        )


def try_out(device: torch.device) -> None:
    """Make one update of a few weights, to see whether Triton can compile for `device`."""
    recipe, weights = Recipe(), torch.zeros(64, device=device)
    both = recipe.lr, recipe.weight_decay
    slots = new_slots(recipe, weights)
    step(recipe, weights, weights.clone(), slots, *both, rates_at(recipe, *both, 1.0, 0))


@triton.jit(do_not_specialize=["step", "root", "shrink"])
def _update(
    weights,
    grads,
    buffer,
    mean,
    square,
    lr,
    decays,
    step,
    root,
    shrink,
    num,
    decay,
    momentum,
    part_mean,
    keep_square,
    part_square,
    eps,
    KIND: tl.constexpr,
    NESTEROV: tl.constexpr,
    IN_TABLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mine = at < num
    w = tl.load(weights + at, mine, other=0.0)
    g = tl.load(grads + at, mine, other=0.0)
    step = _number(step, IN_TABLE)
    if lr is not None:
        step = step * tl.load(lr + at, mine, other=0.0)
    if decay is not None or decays is not None:
        shrink = _number(shrink, IN_TABLE)
        if lr is not None:
            shrink = shrink * tl.load(lr + at, mine, other=0.0)
        if decays is not None:
            decay = tl.load(decays + at, mine, other=0.0)
        if lr is not None or decays is not None:
            shrink = shrink * decay
        if KIND == "adamw":
            w = w * (1.0 - shrink)
        else:
            g = g + decay * w
    if square is not None:
        g = _scaled(
            g,
            mean,
            square,
            at,
            mine,
            root,
            part_mean,
            keep_square,
            part_square,
            eps,
            KIND,
            IN_TABLE,
        )
    if buffer is not None:
        b = momentum * tl.load(buffer + at, mine, other=0.0) + g
        tl.store(buffer + at, b, mine)
        g = g + momentum * b if NESTEROV else b
    tl.store(weights + at, w - step * g, mine)


@triton.jit
def _scaled(
    g,
    mean,
    square,
    at,
    mine,
    root,
    part_mean,
    keep_square,
    part_square,
    eps,
    KIND: tl.constexpr,
    IN_TABLE: tl.constexpr,
):
    """Move the running means, and return the direction of Adam or RMSprop."""
    v = keep_square * tl.load(square + at, mine, other=0.0) + part_square * (g * g)
    tl.store(square + at, v, mine)
    m = g
    if mean is not None:
        m = tl.load(mean + at, mine, other=0.0)
        m = m + part_mean * (g - m)
        tl.store(mean + at, m, mine)
    if KIND == "rmsprop":
        if mean is not None:
            v = v - m * m
        direction = tl.div_rn(g, tl.sqrt_rn(v) + eps)
    else:
        direction = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), _number(root, IN_TABLE)) + eps)
    return direction


@triton.jit
def _number(value, IN_TABLE: tl.constexpr):
    """Read a number that is given, or that lies on the device."""
    if IN_TABLE:
        value = tl.load(value).to(tl.float32)
    return value
