"""SGD and Adam as functions on flat vectors, equal to torch.optim's (weight decay is added to the
gradient).

All tensors are flat, of one length, and changed in place: the gradient too, which is scratch. A
flat vector holds every parameter of one network or of a whole stack, so an update costs a handful
of kernels whatever the number of layers. `lr` and `weight_decay` are numbers, or vectors of the
same length where members of a stack differ.
"""

import math
from collections.abc import Mapping

from torch import Tensor, zeros_like

from phasegrid.train.recipe import Recipe

Slots = dict[str, Tensor]
"""What an optimizer remembers, by name, each like the weights."""


def new_slots(recipe: Recipe, weights: Tensor) -> Slots:
    """Return the optimizer's memory before the first update: zeros.

    Zero is right for SGD's momentum too: its first buffer becomes the gradient itself, as in torch.
    """
    if recipe.optimizer == "adam":
        return {"exp_avg": zeros_like(weights), "exp_avg_sq": zeros_like(weights)}
    return {"momentum": zeros_like(weights)} if recipe.momentum else {}


def step(
    recipe: Recipe,
    weights: Tensor,
    grads: Tensor,
    slots: Mapping[str, Tensor],
    lr: float | Tensor,
    weight_decay: float | Tensor,
    factor: float,
    update: int,
) -> None:
    """Make one update of `weights` in place with learning rate ``factor * lr``; `update` counts
    from 0.
    """
    if recipe.optimizer == "adam":
        adam_step(
            weights,
            grads,
            slots["exp_avg"],
            slots["exp_avg_sq"],
            lr,
            weight_decay,
            factor,
            recipe.betas,
            recipe.adam_eps,
            update,
        )
    else:
        sgd_step(
            weights,
            grads,
            slots.get("momentum"),
            lr,
            weight_decay,
            factor,
            recipe.momentum,
            recipe.nesterov,
        )


def sgd_step(
    weights: Tensor,
    grads: Tensor,
    buffer: Tensor | None,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    factor: float,
    momentum: float,
    nesterov: bool,
) -> None:
    """Do g = g + wd w; b = momentum b + g; w = w - lr (g + momentum b if nesterov else b), as
    torch.optim.SGD.

    Without a buffer the step is g.
    """
    _add_scaled(grads, weights, weight_decay, 1.0)
    direction = grads
    if buffer is not None:
        buffer.mul_(momentum).add_(grads)
        direction = grads.add_(buffer, alpha=momentum) if nesterov else buffer
    _add_scaled(weights, direction, lr, -factor)


def adam_step(
    weights: Tensor,
    grads: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    factor: float,
    betas: tuple[float, float],
    eps: float,
    update: int,
) -> None:
    """Do one step of Adam (Kingma and Ba 2015, algorithm 1), with g = g + wd w, as
    torch.optim.Adam.
    """
    beta1, beta2 = betas
    _add_scaled(grads, weights, weight_decay, 1.0)
    exp_avg.lerp_(grads, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    denominator = exp_avg_sq.sqrt().div_(math.sqrt(1 - beta2 ** (update + 1))).add_(eps)
    direction = denominator.reciprocal_().mul_(exp_avg)
    _add_scaled(weights, direction, lr, -factor / (1 - beta1 ** (update + 1)))


def _add_scaled(target: Tensor, source: Tensor, scale: float | Tensor, factor: float) -> None:
    if isinstance(scale, Tensor):
        target.addcmul_(source, scale, value=factor)
    elif scale:
        target.add_(source, alpha=scale * factor)
