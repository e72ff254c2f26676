"""The objective of a recipe as functions: the training loss, and the criterion for scoring and for
derivatives.

Both are the same function, but scoring sets the arguments that an objective declares as
`training_only` (label smoothing) to their defaults.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from phasegrid.declare import Objective, import_function, later_defaults
from phasegrid.registry import declared_objective
from phasegrid.tasks.losses import CROSS_ENTROPY, Criterion
from phasegrid.train.recipe import CROSS_ENTROPY_NAME, Recipe


def training_criterion(recipe: Recipe) -> Criterion:
    """Return what a recipe trains with."""
    return _criterion(*_chosen(recipe))


def criterion_of(recipe: Recipe) -> Criterion:
    """Return the criterion that networks trained by this recipe are scored by."""
    if recipe.objective is None:
        return CROSS_ENTROPY
    declared, args = _chosen(recipe)
    scored = {name: value for name, value in args.items() if name not in declared.training_only}
    return _criterion(declared, scored)


def _criterion(declared: Objective, args: Mapping[str, Any]) -> Criterion:
    def with_args(function: str | Callable[..., Any] | None) -> Any:
        return None if function is None else partial(import_function(function), **args)

    loss, curvature, reduced = map(with_args, (declared.loss, declared.curvature, declared.reduced))
    return Criterion(loss, curvature, reduced, declared.predicts == "probabilities")


def _chosen(recipe: Recipe) -> tuple[Objective, dict[str, Any]]:
    """Return the declaration of a recipe's objective, and its arguments."""
    if recipe.objective is None:
        smoothing = {"label_smoothing": recipe.label_smoothing}
        return declared_objective(CROSS_ENTROPY_NAME), smoothing
    declared = declared_objective(str(recipe.objective["name"]))
    given = recipe.objective["args"]
    assert isinstance(given, dict)
    return declared, {**later_defaults(declared.args), **given}
