"""Which trials can train as one stack, and on how many examples set aside. No torch here: the
planner asks too.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import TypeAdapter

from phasegrid.jobs import Trial
from phasegrid.keys import Json, canonical_json
from phasegrid.registry import declared_objective
from phasegrid.train.recipe import Recipe

FREE_RECIPE_FIELDS = frozenset({"lr", "weight_decay"})
"""Recipe fields in which the members of one stack may differ: each becomes one number per
member.
"""

FREE_DATASET_FIELDS = frozenset({"label_noise", "label_noise_to", "image_noise", "corruption_seed"})
"""Data set arguments that change its values but not its shapes."""

_RECIPE = TypeAdapter(Recipe)


def recipe_of(trial: Trial) -> Recipe:
    """Return the recipe of a trial as a dataclass."""
    return _RECIPE.validate_python(dict(trial.recipe))


def pack_signature(trial: Trial) -> str:
    """Return a text that is equal for trials that can train as one stack: same model, shapes and
    kind of update.

    The seed, `lr`, `weight_decay`, and noise on labels or inputs may differ.
    """
    dataset = _without(trial.dataset.args, FREE_DATASET_FIELDS)
    recipe = _without(trial.recipe, FREE_RECIPE_FIELDS)
    return canonical_json([trial.model.spec(), trial.dataset.name, dataset, recipe])


def by_kind(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials that can train as one stack together, in the order of the first of each."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(pack_signature(trial), []).append(trial)
    return list(kinds.values())


def parted(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Part trainings that failed together, to find the one that is to blame: those of one kind each
    alone, those of several kinds into two halves of the kinds.
    """
    kinds = by_kind(trials)
    if len(kinds) == 1:
        return [[trial] for trial in trials]
    half = len(kinds) // 2
    return [list(chain.from_iterable(part)) for part in (kinds[:half], kinds[half:])]


def share_aside(recipe: Mapping[str, Any]) -> float:
    """Return the share of every batch that is taken from the examples set aside."""
    chosen = recipe.get("objective")
    if chosen is None:
        return 0.0
    name = declared_objective(chosen["name"]).aside
    return float(chosen["args"][name]) if name else 0.0


def num_from_aside(recipe: Mapping[str, Any], num_train: int, num_aside: int) -> int:
    """Return how many of the examples set aside are used beside `num_train`: floor(num_train share
    / (1 - share) + 1/2). If the result is greater than `num_aside`, too few are set aside.

    A data set that sets aside this same share has enough, whichever way that was rounded.
    """
    return num_for_share(share_aside(recipe), num_train, num_aside)


def num_for_share(share: float, num_train: int, num_aside: int) -> int:
    """Do `num_from_aside` for a `share` of every batch."""
    wanted = int(num_train * share / (1 - share) + 0.5)
    suffices = share * (num_train + num_aside) <= num_aside + 0.5
    return min(wanted, num_aside) if suffices else wanted


def packable(a: Trial, b: Trial) -> bool:
    """Say whether two trials can train as one stack."""
    return pack_signature(a) == pack_signature(b)


def _without(values: Mapping[str, Json], names: frozenset[str]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if name not in names}
