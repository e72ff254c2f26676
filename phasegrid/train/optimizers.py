"""One update of SGD, Adam, AdamW or RMSprop, as functions on flat vectors, equal to torch.optim's.

All tensors are flat, of one length, and changed in place: the gradient too, which is scratch. A
flat vector holds every parameter of one network or of a whole stack, so an update costs a handful
of kernels whatever the number of layers. `lr` and `weight_decay` are numbers, or vectors of the
same length where members of a stack differ; the learning rate of the update is ``factor * lr``.

All numbers that change from update to update are `Rates`. They may lie on the device, as tensors
without dimensions: then a recorded update reads the rates of its turn there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, zeros_like

from phasegrid.models.compiled import kernels_of
from phasegrid.train.recipe import Recipe, RMSprop

Slots = dict[str, Tensor]
"""The optimizer's state: tensors by name, each shaped like the weights."""

Rate = float | Tensor


class Rates(NamedTuple):
    """The numbers of one update: floats, or tensors without dimensions on the weights' device.

    Where `lr` is a vector, it is left out of them, and `step` multiplies by it; `decay` is left
    out where one of the two is a vector.
    """

    step: Rate
    """The factor of the direction: ``factor * lr``, for Adam over ``1 - beta1 ** (update + 1)``."""
    root: Rate
    """Adam's ``sqrt(1 - beta2 ** (update + 1))``; 1 for the others."""
    shrink: Rate
    """``factor * lr * decay``, by which AdamW shrinks the weights."""


def new_slots(recipe: Recipe, weights: Tensor) -> Slots:
    """Return the optimizer's state before the first update: zeros.

    Zero is right for SGD's momentum too: its first buffer becomes the gradient itself, as in torch.
    """
    names = {
        "sgd": ("momentum",) if recipe.momentum else (),
        "adam": ("exp_avg", "exp_avg_sq"),
        "adamw": ("exp_avg", "exp_avg_sq"),
        "rmsprop": _slots_of_rmsprop(recipe.rmsprop),
    }
    return {name: zeros_like(weights) for name in names[recipe.optimizer]}


def rates_at(recipe: Recipe, lr: Rate, weight_decay: Rate, factor: float, update: int) -> Rates:
    """Return the numbers of one update with learning rate ``factor * lr``; `update` counts from 0.

    >>> rates_at(Recipe(), lr=0.1, weight_decay=0.0, factor=0.5, update=7)
    Rates(step=0.05, root=1.0, shrink=0.0)
    """
    own = 1.0 if isinstance(lr, Tensor) else lr
    are_numbers = not isinstance(lr, Tensor) and not isinstance(weight_decay, Tensor)
    shrink = factor * own * (float(weight_decay) if are_numbers else 1.0)
    if recipe.optimizer not in ("adam", "adamw"):
        return Rates(own * factor, 1.0, shrink)
    beta1, beta2 = recipe.betas
    step = own * (factor / (1 - beta1 ** (update + 1)))
    return Rates(step, math.sqrt(1 - beta2 ** (update + 1)), shrink)


def rate_table(
    recipe: Recipe, lr: Rate, weight_decay: Rate, factors: Sequence[float], first_update: int
) -> Tensor:
    """Return the `Rates` of consecutive updates as rows (U, 3) in float64, on the CPU."""
    rows = [
        rates_at(recipe, lr, weight_decay, factor, update)
        for update, factor in enumerate(factors, start=first_update)
    ]
    return torch.tensor(rows, dtype=torch.float64).view(-1, len(Rates._fields))


def step(
    recipe: Recipe,
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    weight_decay: Rate,
    rates: Rates,
) -> None:
    """Make one update of `weights` in place. `rates` are those of `rates_at` for this `lr` and
    `weight_decay`. On a GPU it is one kernel, where Triton can compile it.
    """
    if weights.is_cuda and weights.dtype == torch.float32:
        kernels = kernels_of("phasegrid.train.optimizer_kernel", weights.device)
        if kernels is not None:
            kernels.step(recipe, weights, grads, slots, lr, weight_decay, rates)
            return
    scale = lr if isinstance(lr, Tensor) else 1.0
    if recipe.optimizer == "adamw":
        _shrink(weights, scale, weight_decay, rates.shrink)
    else:
        _add_decay(grads, weights, weight_decay)
    if recipe.optimizer == "sgd":
        buffer = slots.get("momentum")
        sgd_step(weights, grads, buffer, scale, rates.step, recipe.momentum, recipe.nesterov)
    elif recipe.optimizer == "rmsprop":
        rmsprop_step(weights, grads, slots, scale, rates.step, recipe.rmsprop)
    else:
        adam_step(weights, grads, slots, scale, rates, recipe.betas, recipe.adam_eps)


def clip(grads: Sequence[Tensor], most: float) -> None:
    """Scale the gradients of each of M networks, views (M, *shape), to the norm `most` if their
    norm is larger (Pascanu et al. 2013, algorithm 1). A gradient that is not finite stays not
    finite.
    """
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
    shares = most / torch.linalg.vector_norm(norms, dim=0).clamp(min=most)  # (M,)
    for g in grads:
        g.mul_(shares.view(-1, *[1] * (g.dim() - 1)))


def sgd_step(
    weights: Tensor,
    grads: Tensor,
    buffer: Tensor | None,
    lr: Rate,
    factor: Rate,
    momentum: float,
    nesterov: bool = False,
) -> None:
    """Do b = momentum b + g; w = w - factor lr (g + momentum b if nesterov else b), as
    torch.optim.SGD.

    Without a buffer the step is g.
    """
    direction = grads
    if buffer is not None:
        buffer.mul_(momentum).add_(grads)
        direction = grads.add_(buffer, alpha=momentum) if nesterov else buffer
    _descend(weights, direction, lr, factor)


def sgd_step_of_points(
    points: Tensor, shares: Tensor, grads: Tensor, buffer: Tensor, lr: Rate, momentum: float
) -> None:
    """Apply `sgd_step` to several points whose weighted mean is the network.

    The gradient of a point is its weight (`shares`) times the network's gradient. `points` and
    `buffer` are (..., n, P), `shares` (..., n) and `grads` (..., P). The outer product is added to
    the buffer directly, without storing it.
    """
    if points.dim() == 2:
        buffer.addr_(shares, grads, beta=momentum)
    else:
        buffer.baddbmm_(shares.unsqueeze(2), grads.unsqueeze(1), beta=momentum)
    _descend(points, buffer, 1.0, lr)


def adam_step(
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    rates: Rates,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Do one step of Adam (Kingma and Ba 2015, algorithm 1), as torch.optim.Adam.

    With weight decay in the gradient it is Adam, with weights shrunk before it AdamW (Loshchilov
    and Hutter 2019, algorithm 2).
    """
    (beta1, beta2), exp_avg, exp_avg_sq = betas, slots["exp_avg"], slots["exp_avg_sq"]
    exp_avg.lerp_(grads, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_(rates.root).add_(eps)
    direction = denominator.reciprocal_().mul_(exp_avg)
    _descend(weights, direction, lr, rates.step)


def rmsprop_step(
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    factor: Rate,
    settings: RMSprop,
) -> None:
    """Do v = alpha v + (1 - alpha) g^2; d = g / (sqrt(v) + eps), as torch.optim.RMSprop (Hinton
    2012, lecture 6e).

    If `centered`, v - m^2 takes the place of v under the root, with m the running mean of g
    (Graves 2013, eq. 38 to 40). With momentum, b = momentum b + d is the step, else d.
    """
    square, alpha = slots["square_avg"], settings.alpha
    square.mul_(alpha).addcmul_(grads, grads, value=1 - alpha)
    spread = square
    if settings.centered:
        mean = slots["grad_avg"].lerp_(grads, 1 - alpha)
        spread = torch.addcmul(square, mean, mean, value=-1)
    direction = grads.div_(spread.sqrt().add_(settings.eps))
    sgd_step(weights, direction, slots.get("momentum"), lr, factor, settings.momentum)


def _slots_of_rmsprop(settings: RMSprop) -> tuple[str, ...]:
    mean = ("grad_avg",) if settings.centered else ()
    return ("square_avg", *mean, *(("momentum",) if settings.momentum else ()))


def _shrink(weights: Tensor, lr: Rate, weight_decay: Rate, shrink: Rate) -> None:
    """Do w = w (1 - lr wd), where `shrink` holds the factors that are numbers."""
    if isinstance(lr, Tensor) or isinstance(weight_decay, Tensor):
        weights.mul_(1 - shrink * lr * weight_decay)
    elif weight_decay:
        weights.mul_(1 - shrink)


def _add_decay(grads: Tensor, weights: Tensor, weight_decay: Rate) -> None:
    if isinstance(weight_decay, Tensor):
        grads.addcmul_(weights, weight_decay)
    elif weight_decay:
        grads.add_(weights, alpha=weight_decay)


def _descend(weights: Tensor, direction: Tensor, lr: Rate, factor: Rate) -> None:
    """Do w = w - factor lr d."""
    if not isinstance(factor, Tensor):
        if isinstance(lr, Tensor):
            weights.addcmul_(direction, lr, value=-factor)
        else:
            weights.add_(direction, alpha=-factor * lr)
    elif isinstance(lr, Tensor):
        weights.addcmul_(direction, lr * factor, value=-1)
    else:
        weights.addcmul_(direction, factor, value=-lr)
