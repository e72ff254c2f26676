"""How connectors follow their gradient: SGD with momentum, or Adam.

Letters: P parameters; leading dimensions, if any, are those of complexes that train together.
"""

import torch
from torch import Tensor

from phasegrid.metrics.simplex import SimplexArgs
from phasegrid.train.optimizers import Rates, adam_step, new_slots, sgd_step
from phasegrid.train.recipe import Recipe


class Descent:
    """The state of the optimizer of `theta` (..., P). What changes from update to update lies in
    tensors that stay where they are, so that a recorded update repeats exactly.
    """

    def __init__(self, settings: SimplexArgs, theta: Tensor) -> None:
        self._recipe = Recipe(optimizer=settings.optimizer, momentum=settings.momentum)
        self._slots = new_slots(self._recipe, theta)
        self._rate, self._done = theta.new_zeros(1), theta.new_zeros(1, dtype=torch.float64)

    def begin_epoch(self, lr: float) -> None:
        """Set the learning rate."""
        self._rate.fill_(lr)

    def update(self, theta: Tensor, grads: Tensor) -> None:
        """Move `theta` against the gradient in place, as torch.optim.SGD or torch.optim.Adam do
        without weight decay; the gradient is overwritten.
        """
        recipe, slots = self._recipe, self._slots
        if recipe.optimizer == "sgd":
            sgd_step(theta, grads, slots.get("momentum"), 1.0, self._rate, recipe.momentum)
            return
        beta1, beta2 = recipe.betas
        self._done.add_(1)
        step = self._rate / (1 - beta1**self._done).to(theta)
        rates = Rates(step, (1 - beta2**self._done).sqrt().to(theta), 0.0)
        adam_step(theta, grads, slots, 1.0, rates, recipe.betas, recipe.adam_eps)
