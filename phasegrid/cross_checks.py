"""Rules between fields: of a recipe, of a metric's arguments, of a trial and its data. Tables of small functions.

A rule returns the field to blame and what to say, or None. `reads` are the fields it looks at: it is not asked
where one of them
already has a mistake.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from phasegrid.declare import DatasetFacts
from phasegrid.jobs import Json

Finding: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """A rule between fields of a recipe."""

    reads: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], Finding | None]


def metric_mistakes(name: str, args: Mapping[str, Json]) -> list[Finding]:
    """Return what is wrong between the arguments of a built-in metric: (field, message)."""
    rules = _METRIC_RULES.get(name, ())
    return [finding for rule in rules if (finding := rule(args)) is not None]


def data_mistake(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Return what is wrong between a recipe and the data it is for."""
    if recipe["batch_size"] > facts.num_train:
        return (
            "train.batch_size",
            f"found {recipe['batch_size']}, more than the {facts.num_train} training examples; "
            f"allowed: at most {facts.num_train}",
        )
    return None


def _nesterov(recipe: Mapping[str, Any]) -> Finding | None:
    if not recipe["nesterov"]:
        return None
    if recipe["optimizer"] != "sgd":
        return "train.nesterov", f"found true with optimizer {recipe['optimizer']}; it is SGD's"
    if recipe["momentum"] == 0:
        return "train.nesterov", "found true with momentum 0; it needs momentum > 0"
    return None


def _step(recipe: Mapping[str, Any]) -> Finding | None:
    schedule = recipe["schedule"]
    epochs: Sequence[int] = schedule["at_epochs"]
    if schedule["name"] == "step" and not epochs:
        return "train.schedule", "a step schedule needs at_epochs, as in at_epochs: [75, 120]"
    if list(epochs) != sorted(set(epochs)):
        return "train.schedule.at_epochs", f"found {list(epochs)}; allowed: rising epochs"
    return None


RECIPE_RULES: tuple[RecipeRule, ...] = (
    RecipeRule(("train.nesterov", "train.optimizer", "train.momentum"), _nesterov),
    RecipeRule(("train.schedule",), _step),
)


def _cka_noise(args: Mapping[str, Any]) -> Finding | None:
    if args["pixel_noise"] is not None and args["mixup_alpha"] is not None:
        return "pixel_noise", f"found {args['pixel_noise']}; it needs mixup_alpha: null beside it"
    return None


def _cka_layers(args: Mapping[str, Any]) -> Finding | None:
    layers: Sequence[str] = args["layers"]
    if len(set(layers)) < len(layers):
        return "layers", f"found {list(layers)}; each layer once"
    return None


def _simplex_lambda(args: Mapping[str, Any]) -> Finding | None:
    given, connectors = args["volume_lambda"], args["connectors"]
    if isinstance(given, (list, tuple)) and len(given) != connectors:
        return (
            "volume_lambda",
            f"found a list of {len(given)}; allowed: one number, or one per connector ({connectors})",
        )
    return None


_METRIC_RULES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Finding | None], ...]] = {
    "cka": (_cka_noise, _cka_layers),
    "simplex": (_simplex_lambda,),
}
