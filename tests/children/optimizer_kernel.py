"""Make updates with the Triton kernel of the optimizers, interpreted on the CPU, and compare them
with torch's operations in float64.

Run in a process of its own, with TRITON_INTERPRET=1: Triton reads it when it is imported. The last
line on stdout says what was begun last.
"""

import itertools
import sys

import torch
from torch import Tensor

from phasegrid.train import optimizer_kernel
from phasegrid.train.optimizers import Rate, Rates, new_slots, rate_table, rates_at, step
from phasegrid.train.recipe import Recipe, RMSprop

RECIPES = {
    "sgd": Recipe(lr=0.1),
    "plain sgd": Recipe(lr=0.1, momentum=0.0, weight_decay=0.0),
    "nesterov": Recipe(lr=0.1, momentum=0.5, nesterov=True),
    "adam": Recipe(optimizer="adam", lr=0.01, weight_decay=0.1, betas=(0.8, 0.99)),
    "adamw": Recipe(optimizer="adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.99)),
    "rmsprop": Recipe(optimizer="rmsprop", lr=0.01, weight_decay=0.1),
    "rmsprop, all fields": Recipe(
        optimizer="rmsprop", lr=0.01, rmsprop=RMSprop(0.9, 0.7, 1e-3, centered=True)
    ),
}
CASES = ((1, True), (63, False), (1089, True))  # weights, and whether rates lie in a table
FACTORS = (1.0, 0.5, 0.0, 0.3)


def draws(num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, generator=generator)


def compare(recipe: Recipe, num: int, vectors: str, in_table: bool) -> None:
    """Make four updates of `num` weights both ways."""
    lr: Rate = draws(num, 1).abs() / 10 if "lr" in vectors else recipe.lr
    decay: Rate = draws(num, 2).abs() / 10 if "decay" in vectors else recipe.weight_decay
    exact = [rate.double() if isinstance(rate, Tensor) else rate for rate in (lr, decay)]
    ours, theirs = draws(num, 3), draws(num, 3).double()
    slots, slots_exact = new_slots(recipe, ours), new_slots(recipe, theirs)
    table = rate_table(recipe, lr, decay, FACTORS, 7)
    for update, factor in enumerate(FACTORS):
        gradient = draws(num, 4 + update)
        kept = gradient.clone()
        rates = rates_at(recipe, lr, decay, factor, 7 + update)
        step(recipe, theirs, gradient.double(), slots_exact, *exact, rates)
        if in_table:
            rates = Rates(*table[update].float().unbind())
        optimizer_kernel.step(recipe, ours, gradient, slots, lr, decay, rates)
        assert torch.equal(gradient, kept)
    # a few roundings of float32 in each of four updates
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=2e-6)
    for name, slot in slots.items():
        torch.testing.assert_close(slot.double(), slots_exact[name], rtol=2e-6, atol=2e-6)


def main() -> None:
    few = "--few" in sys.argv
    vectors = ("",) if few else ("", "lr", "decay", "lr and decay")
    cases = CASES[:1] if few else CASES
    for (name, recipe), which, case in itertools.product(RECIPES.items(), vectors, cases):
        print(name, which, *case, flush=True)
        compare(recipe, case[0], which, case[1])
    print("whole", flush=True)


if __name__ == "__main__":
    main()
