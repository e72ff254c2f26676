"""Check rules between fields: of a recipe, of a recipe and its data, and those that models, data
sets and metrics declare.

A rule returns the wrong field and the message, or None. `reads` are the fields that a rule reads:
if one of them already has a mistake, the rule is skipped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phasegrid.declare import DatasetFacts, Finding, Metric, Model, Rule, import_function
from phasegrid.keys import Json
from phasegrid.models.shapes import image_mistake
from phasegrid.registry import declared_objective
from phasegrid.tasks import TASKS, mismatch
from phasegrid.train.compat import num_from_aside, share_aside
from phasegrid.train.recipe import Collect

_RANK = Collect("swag").rank  # the usual one


@dataclass(frozen=True, slots=True)
class RecipeRule:
    """A rule between fields of a recipe."""

    reads: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], Finding | None]


DATA_READS = ("train.batch_size", "train.batch_unit", "train.objective", "train.accumulate")
"""The fields of a recipe that `data_mistake` looks at."""


def mistakes_of(rules: Sequence[Rule], args: Mapping[str, Json]) -> list[Finding]:
    """Return the mistakes that the rules of a declaration find between its arguments."""
    return [finding for rule in rules if (finding := _asked(rule, args)) is not None]


def metric_mistake(
    metric: Metric, args: Mapping[str, Json], recipe: Mapping[str, Json], facts: DatasetFacts
) -> Finding | None:
    """Return why a metric with these arguments does not fit the recipe and the data of a cell."""
    return None if metric.fits is None else _asked(metric.fits, args, recipe, facts)


def networks_mistake(metric: Metric, args: Mapping[str, Json], num: int) -> Finding | None:
    """Return why a metric with these arguments cannot measure `num` networks together."""
    return None if metric.of_networks is None else _asked(metric.of_networks, args, num)


def fewer(metric: Metric, found: int) -> str:
    """Say which metric takes as few networks as were found; empty if there is none."""
    is_one = metric.for_fewer and found == 1
    return f"; {metric.for_fewer} is the metric of one network" if is_one else ""


def source_mistake(
    metric: Metric, reads: str | None, args: Mapping[str, Json], source: Mapping[str, Json]
) -> Finding | None:
    """Return why a metric with these arguments cannot read the artifact `reads` that a request with
    the arguments `source` leaves.
    """
    rule = metric.source_rules.get(reads or "")
    return None if rule is None else _asked(rule, args, source)


def model_mistake(
    name: str, declared: Model, args: Mapping[str, Json], facts: DatasetFacts
) -> Finding | None:
    """Return why a model with these arguments does not fit its data."""
    mistake = mismatch(f"model {name}", declared.takes, facts.task)
    mistake = mistake or image_mistake(name, declared, facts.input_shape)
    if mistake:
        return "model.name", mistake
    if declared.fits is None:
        return None
    finding = _asked(import_function(declared.fits), args, facts.input_shape, facts.num_classes)
    return finding and (f"model.{finding[0]}", finding[1])


def data_mistake(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Return the mistake between a recipe and its data, or None."""
    return (
        TASKS[facts.task].batch_mistake(recipe, facts)
        or _accumulation_mistake(recipe, facts)
        or _objective_mistake(recipe, facts)
        or _aside_mistake(recipe, facts)
    )


def _accumulation_mistake(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    task = TASKS[facts.task]
    if recipe["accumulate"] == 1 or task.one_shape:
        return None
    return (
        "train.accumulate",
        f"found {recipe['accumulate']} for {task.examples}, whose batches differ in length or"
        " follow one another; allowed: 1",
    )


def _aside_mistake(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    """Return why an objective cannot take its share of a batch from what a data set sets aside."""
    if recipe["objective"] is None:
        return None
    share = share_aside(recipe)
    if not 0 <= share < 1:
        return "train.objective", f"found the share {share} of a batch; allowed: in [0, 1)"
    if num_from_aside(recipe, facts.num_train, facts.num_aside) <= facts.num_aside:
        return None
    name = declared_objective(recipe["objective"]["name"]).aside
    have = facts.num_aside / (facts.num_aside + facts.num_train)
    return (
        f"train.objective.{name}",
        f"found {share}, but the data set sets aside only {have:.3g} of its training examples;"
        f" allowed: at most that. Set dataset.aside to {share} or more",
    )


def _objective_mistake(recipe: Mapping[str, Any], facts: DatasetFacts) -> Finding | None:
    chosen = recipe["objective"]
    tasks = () if chosen is None else declared_objective(chosen["name"]).tasks
    if not tasks or facts.task in tasks:
        return None
    return (
        "train.objective",
        f"found {chosen['name']}, which is for"
        f" {' or '.join(TASKS[task].examples for task in tasks)}"
        f" (task {', '.join(tasks)}), but the data set holds {TASKS[facts.task].examples}; allowed"
        " there: cross_entropy, or an objective of your own that declares it",
    )


def _nesterov(recipe: Mapping[str, Any]) -> Finding | None:
    if not recipe["nesterov"]:
        return None
    if recipe["optimizer"] != "sgd":
        return "train.nesterov", f"found true with optimizer {recipe['optimizer']}; it is SGD's"
    if recipe["momentum"] == 0:
        return "train.nesterov", "found true with momentum 0; it needs momentum > 0"
    return None


def _smoothing(recipe: Mapping[str, Any]) -> Finding | None:
    chosen, smoothing = recipe["objective"], recipe["label_smoothing"]
    if chosen is None or smoothing == 0:
        return None
    name = chosen["name"]
    return (
        "train.label_smoothing",
        f"found {smoothing} with objective {name}; it is cross_entropy's",
    )


def _step(recipe: Mapping[str, Any]) -> Finding | None:
    schedule = recipe["schedule"]
    epochs: Sequence[int] = schedule["at_epochs"]
    if schedule["name"] == "step" and not epochs:
        return "train.schedule", "a step schedule needs at_epochs, as in at_epochs: [75, 120]"
    if list(epochs) != sorted(set(epochs)):
        return "train.schedule.at_epochs", f"found {list(epochs)}; allowed: rising epochs"
    return None


_LENGTHS = ("cycle_epochs", "cycle_updates", "cycles")


def _cycles(recipe: Mapping[str, Any]) -> Finding | None:
    schedule = recipe["schedule"]
    given = [name for name in _LENGTHS if schedule[name] is not None]
    if schedule["name"] in ("cyclic", "cosine_restarts") and len(given) != 1:
        found = " and ".join(given) if given else "none"
        return (
            "train.schedule",
            f"found {found} of {', '.join(_LENGTHS)}; {schedule['name']} needs one of them",
        )
    if "cycle_epochs" in given and recipe["batch_unit"] != "examples":
        return (
            "train.schedule.cycle_epochs",
            (
                f"found with batch_unit {recipe['batch_unit']}, where the number of batches varies"
                " from pass to pass; allowed: cycle_updates or cycles"
            ),
        )
    if schedule["growth"] != 1 and (schedule["name"] != "cosine_restarts" or "cycles" in given):
        return (
            "train.schedule.growth",
            (
                f"found {schedule['growth']}; it is for cosine_restarts with cycle_epochs or"
                " cycle_updates"
            ),
        )
    return None


def _pieces(recipe: Mapping[str, Any]) -> Finding | None:
    schedule = recipe["schedule"]
    shares = [share for share, _ in schedule["pieces"]]
    if not shares and schedule["name"] == "pieces":
        example = "pieces: [[0.5, 1], [0.9, 0.01]]"
        return "train.schedule", f"found no points; allowed: [share done, factor], as in {example}"
    if shares != sorted(set(shares)):
        return "train.schedule.pieces", f"found the shares {shares}; allowed: rising ones"
    return None


def _varying_batches(recipe: Mapping[str, Any]) -> Finding | None:
    if recipe["batch_unit"] != "examples" and recipe["updates"] is None:
        return (
            "train.updates",
            (
                f"found null with batch_unit {recipe['batch_unit']}, where the number of batches"
                " varies"
                " from pass to pass; allowed: a number of updates, as in updates: 100000"
            ),
        )
    return None


def _each_moment_once(recipe: Mapping[str, Any]) -> Finding | None:
    for name in ("epochs", "updates", "optimizer") if recipe["checkpoints"] else ():
        listed = recipe["checkpoints"][name]
        twice = [value for place, value in enumerate(listed) if value in listed[:place]]
        if twice:
            return f"train.checkpoints.{name}", f"found {twice[0]} twice; each once"
    return None


def _rank(recipe: Mapping[str, Any]) -> Finding | None:
    wish = recipe["collect"]
    if wish is None or wish["name"] == "swag" or wish["rank"] == _RANK:
        return None
    return "train.collect.rank", f"found {wish['rank']} for {wish['name']}; it is swag's"


RECIPE_RULES: tuple[RecipeRule, ...] = (
    RecipeRule(("train.nesterov", "train.optimizer", "train.momentum"), _nesterov),
    RecipeRule(("train.schedule",), _step),
    RecipeRule(("train.objective", "train.label_smoothing"), _smoothing),
    RecipeRule(("train.schedule", "train.batch_unit"), _cycles),
    RecipeRule(("train.schedule",), _pieces),
    RecipeRule(("train.batch_unit", "train.updates"), _varying_batches),
    RecipeRule(("train.checkpoints",), _each_moment_once),
    RecipeRule(("train.collect",), _rank),
)


def _asked(rule: Callable[..., Finding | None], *about: object) -> Finding | None:
    try:
        return rule(*about)
    except Exception as error:  # a user's code can raise anything
        return "", f"its rule {rule.__name__} raises {type(error).__name__}: {error}"
