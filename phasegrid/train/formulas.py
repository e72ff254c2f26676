"""One update of one network, by the formulas as written in their papers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phasegrid.tasks.batches import Batch
from phasegrid.train.objectives import training_criterion
from phasegrid.train.recipe import Recipe
from phasegrid.train.sharpness import ETA

Memory = dict[str, Tensor]
"""The optimizer state of one parameter, by the symbols of its formula."""


def loss_of(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    """Return the loss of each label (B,)."""
    return training_criterion(recipe)(logits[None], Batch(logits[None], labels[None]))[0]


def differentiate(
    net: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[Tensor, Sequence[Tensor]]:
    """Return the logits of a batch, in float64, and the gradient of its mean loss.

    With SAM that is the gradient at w + e, e = rho T^2 g / |T g| (`phasegrid.train.sharpness`).
    """
    weights = list(net.parameters())
    logits: Tensor = net(inputs)
    loss = loss_of(logits, labels, recipe).mean()
    gradient = torch.autograd.grad(loss, weights)
    if recipe.sam is not None:
        kept = [(tensor, tensor.detach().clone()) for tensor in [*weights, *net.buffers()]]
        T = [w.abs() + ETA if recipe.sam.adaptive else torch.ones_like(w) for w in weights]
        Tg = [t * g for t, g in zip(T, gradient, strict=True)]
        norm = torch.cat([each.flatten() for each in Tg]).norm()
        for w, t, each in zip(weights, T, Tg, strict=True):
            w.data += recipe.sam.rho * t * each / norm
        loss = loss_of(net(inputs), labels, recipe).mean()
        gradient = torch.autograd.grad(loss, weights)
        for tensor, before in kept:
            tensor.data.copy_(before)
    return logits.detach().double(), gradient


def descend(w: Tensor, g: Tensor, memory: Memory, recipe: Recipe, lr: float, n: int) -> None:
    """Make update n, counted from 1, of one parameter; `phasegrid.train.optimizers` names the
    papers.
    """
    zero = torch.zeros_like(w)
    if recipe.optimizer == "adamw":
        w *= 1 - lr * recipe.weight_decay
    else:
        g = g + recipe.weight_decay * w
    if recipe.optimizer == "sgd":
        b = memory["b"] = recipe.momentum * memory.get("b", zero) + g
        step = g + recipe.momentum * b if recipe.nesterov else b
    elif recipe.optimizer == "rmsprop":
        alpha = recipe.rmsprop.alpha
        v = memory["v"] = alpha * memory.get("v", zero) + (1 - alpha) * g**2
        m = memory["m"] = alpha * memory.get("m", zero) + (1 - alpha) * g
        v = v - m**2 if recipe.rmsprop.centered else v
        scaled = g / (v.sqrt() + recipe.rmsprop.eps)
        step = memory["b"] = recipe.rmsprop.momentum * memory.get("b", zero) + scaled
    else:
        beta1, beta2 = recipe.betas
        m = memory["m"] = beta1 * memory.get("m", zero) + (1 - beta1) * g
        v = memory["v"] = beta2 * memory.get("v", zero) + (1 - beta2) * g**2
        step = m / (1 - beta1**n) / ((v / (1 - beta2**n)).sqrt() + recipe.adam_eps)
    w -= lr * step
