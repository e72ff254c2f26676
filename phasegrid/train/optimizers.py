"""One update of SGD, Adam, AdamW or RMSprop, as functions on flat vectors, equal to torch.optim's.

All tensors are flat, of one length, and changed in place: the gradient too, which is scratch. A
flat vector holds every parameter of one network or of a whole stack, so an update costs a handful
of kernels whatever the number of layers. `lr` and `weight_decay` are numbers, or vectors of the
same length where members of a stack differ; the learning rate of the update is ``factor * lr``.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, zeros_like

from phasegrid.train.recipe import Recipe, RMSprop

Slots = dict[str, Tensor]
"""The optimizer's state: tensors by name, each shaped like the weights."""

Rate = float | Tensor


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


def step(
    recipe: Recipe,
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    weight_decay: Rate,
    factor: float,
    update: int,
) -> None:
    """Make one update of `weights` in place with learning rate ``factor * lr``; `update` counts
    from 0.
    """
    if recipe.optimizer == "adamw":
        _shrink(weights, lr, weight_decay, factor)
    else:
        _add_scaled(grads, weights, weight_decay, 1.0)
    if recipe.optimizer == "sgd":
        sgd_step(
            weights, grads, slots.get("momentum"), lr, factor, recipe.momentum, recipe.nesterov
        )
    elif recipe.optimizer == "rmsprop":
        rmsprop_step(weights, grads, slots, lr, factor, recipe.rmsprop)
    else:
        adam_step(weights, grads, slots, lr, factor, recipe.betas, recipe.adam_eps, update)


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
    factor: float,
    momentum: float,
    nesterov: bool = False,
) -> None:
    """Do b = momentum b + g; w = w - lr (g + momentum b if nesterov else b), as torch.optim.SGD.

    Without a buffer the step is g.
    """
    direction = grads
    if buffer is not None:
        buffer.mul_(momentum).add_(grads)
        direction = grads.add_(buffer, alpha=momentum) if nesterov else buffer
    _add_scaled(weights, direction, lr, -factor)


def sgd_step_of_points(
    points: Tensor, shares: Tensor, grads: Tensor, buffer: Tensor, lr: float, momentum: float
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
    points.add_(buffer, alpha=-lr)


def adam_step(
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    factor: float,
    betas: tuple[float, float],
    eps: float,
    update: int,
) -> None:
    """Do one step of Adam (Kingma and Ba 2015, algorithm 1), as torch.optim.Adam.

    With weight decay in the gradient it is Adam, with weights shrunk before it AdamW (Loshchilov
    and Hutter 2019, algorithm 2).
    """
    (beta1, beta2), exp_avg, exp_avg_sq = betas, slots["exp_avg"], slots["exp_avg_sq"]
    exp_avg.lerp_(grads, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2 ** (update + 1))).add_(eps)
    direction = denominator.reciprocal_().mul_(exp_avg)
    _add_scaled(weights, direction, lr, -factor / (1 - beta1 ** (update + 1)))


def rmsprop_step(
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: Rate,
    factor: float,
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


def _shrink(weights: Tensor, lr: Rate, weight_decay: Rate, factor: float) -> None:
    """Do w = w (1 - lr wd)."""
    if isinstance(weight_decay, Tensor) or weight_decay:
        weights.mul_(1 - factor * lr * weight_decay)


def _add_scaled(target: Tensor, source: Tensor, scale: Rate, factor: float) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(source, scale, value=factor)
    elif scale:
        target.add_(source, alpha=scale * factor)
