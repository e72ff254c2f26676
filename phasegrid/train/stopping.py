"""Decide from the history alone when training stops and which epoch's weights are kept. No torch
here.

Yang et al. 2021 stop once the training loss has settled and keep the epoch of the lowest training
loss; their published code never stops, but from epoch 30 on keeps the weights of the first epoch at
which the loss has settled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from phasegrid.train.recipe import Recipe, Stop

PUBLISHED_CODE_FIRST_EPOCH = 30


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after an epoch: `keep` its weights, `stop`. `held` says whether the stop rule's
    test holds now.
    """

    keep: bool
    stop: bool
    held: bool


def settled(losses: Sequence[float], stop: Stop) -> bool:
    """Say whether each of the last `patience` changes of the epoch losses is smaller than
    `min_delta` in absolute value.

    ``plateau`` requires less than `min_delta`; ``published_code`` allows equality, and requires 30
    epochs of history.
    """
    if len(losses) <= stop.patience:
        return False
    recent = losses[-stop.patience - 1 :]
    changes = [abs(b - a) for a, b in pairwise(recent)]
    if stop.rule == "plateau":
        return all(change < stop.min_delta for change in changes)
    return len(losses) >= PUBLISHED_CODE_FIRST_EPOCH and all(c <= stop.min_delta for c in changes)


def judge(
    recipe: Recipe,
    losses: Sequence[float],
    accuracies: Sequence[float],
    test_losses: Sequence[float],
    held_before: bool,
) -> Verdict:
    """Judge the epoch just finished, the last one in `losses` (training loss, averaged over the
    epoch).

    `accuracies` (test, percent) are used only by ``keep: best_test``, `test_losses` only by
    ``best_test_loss``. `held_before` says whether the stop rule's test held at an earlier epoch. Of
    equal epochs the first is kept.
    """
    held = recipe.stop is not None and settled(losses, recipe.stop)
    if recipe.stop is not None and recipe.stop.rule == "published_code" and (held or held_before):
        return Verdict(keep=not held_before, stop=False, held=held)
    return Verdict(keep=_is_best(recipe, losses, accuracies, test_losses), stop=held, held=held)


def _is_best(
    recipe: Recipe,
    losses: Sequence[float],
    accuracies: Sequence[float],
    test_losses: Sequence[float],
) -> bool:
    if recipe.keep == "last":
        return True
    if recipe.keep == "best_test":
        return accuracies[-1] > max(accuracies[:-1], default=-math.inf)
    if recipe.keep == "best_test_loss":
        return test_losses[-1] < min(test_losses[:-1], default=math.inf)
    return losses[-1] < min(losses[:-1], default=math.inf)
