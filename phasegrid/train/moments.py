"""The moments of a training at which weights are published or collected. No torch here: the
planner asks too.

Epochs and updates are counted from 1; 0 is the initialisation. Artifacts are named after their
moment: ``weights@epoch-40``, ``weights@update-900``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from phasegrid.declare import DatasetFacts
from phasegrid.keys import canonical_json
from phasegrid.train.compat import num_from_aside
from phasegrid.train.recipe import Recipe, Schedule
from phasegrid.train.schedules import Moment, factor_of, lowest_updates


@dataclass(frozen=True, slots=True)
class Moments:
    """After which epochs and updates to act: the listed ones, and every so many (0: none), starting
    at `first_epoch` and `first_update`.
    """

    every_epochs: int = 0
    every_updates: int = 0
    epochs: frozenset[int] = frozenset()
    updates: frozenset[int] = frozenset()
    first_epoch: int = 0
    first_update: int = 0

    @property
    def within_epochs(self) -> bool:
        """Whether any of them are updates."""
        return bool(self.every_updates or self.updates)

    def after_epoch(self, epoch: int) -> list[str]:
        """Return the name of the end of an epoch, ``epoch-40``, if it is one of them."""
        every = self.every_epochs
        due = epoch in self.epochs or bool(every and epoch % every == 0)
        return [f"epoch-{epoch}"] if due and epoch >= self.first_epoch else []

    def after_update(self, update: int) -> list[str]:
        """Return the name of the end of an update, ``update-900``, if it is one of them."""
        every = self.every_updates
        due = update in self.updates or bool(every and update % every == 0)
        return [f"update-{update}"] if due and update >= self.first_update else []


def updates_per_epoch(
    recipe: Mapping[str, Any], facts: DatasetFacts, batch_norm: bool = False
) -> int | None:
    """Return the number of updates in an epoch; None if batches are filled with tokens, because it
    then varies. A last batch of one example joins the one before if the network has `batch_norm`.
    """
    if recipe["batch_unit"] != "examples":
        return None
    num = facts.num_train + num_from_aside(recipe, facts.num_train, facts.num_aside)
    whole, rest = divmod(num, int(recipe["batch_size"]))
    return max(1, whole + (rest > batch_norm and not recipe["drop_last"]))


def moment_of(recipe: Recipe, name: str, per_epoch: int, ran: int | None) -> tuple[float, float]:
    """Return the epochs done when a training left the weights of this `name`, and the learning rate
    of the update before; before the first update, that of the first. What is no checkpoint is of
    the end, after `ran` epochs (None: as many as planned).
    """
    total = recipe.updates or recipe.epochs * per_epoch
    unit, _, number = name.partition("@")[2].partition("-")
    done = total if ran is None else min(total, ran * per_epoch)
    if number:
        done = int(number) * (per_epoch if unit == "epoch" else 1)
    update = max(done - 1, 0)
    when = Moment(update, max(total, 1), update // per_epoch, per_epoch)
    return done / per_epoch, recipe.lr * factor_of(recipe.schedule)(when)


def all_moments(recipe: Mapping[str, Any], per_epoch: int) -> tuple[str, ...]:
    """Return every moment at which a training publishes weights, in order."""
    known = _RECIPE.validate_python(dict(recipe))
    total = known.updates or known.epochs * per_epoch
    wish = checkpoint_moments(known, total, per_epoch)
    epochs = range(-(-total // per_epoch) + 1)
    found = [(epoch * per_epoch, at) for epoch in epochs for at in wish.after_epoch(epoch)]
    found += [(update, at) for update in range(total + 1) for at in wish.after_update(update)]
    return tuple(at for _, at in sorted(found))


def lowest_moments(recipe: Mapping[str, Any], per_epoch: int) -> tuple[str, ...]:
    """Return the moments, ``update-900``, at which a training with ``checkpoints: {at:
    lowest_rate}`` publishes weights because its learning rate is at a minimum.
    """
    total = recipe["updates"] or int(recipe["epochs"]) * per_epoch
    return _lowest(canonical_json(recipe["schedule"]), int(total), per_epoch)


@lru_cache(maxsize=256)
def _lowest(schedule: str, total: int, per_epoch: int) -> tuple[str, ...]:
    updates = lowest_updates(_SCHEDULE.validate_json(schedule), total, per_epoch)
    return tuple(f"update-{update}" for update in updates)


_SCHEDULE = TypeAdapter(Schedule)
_RECIPE = TypeAdapter(Recipe)


def checkpoint_moments(recipe: Recipe, total: int, per_epoch: int) -> Moments:
    """Return when a training of `total` updates, with `per_epoch` updates per epoch, publishes
    weights.
    """
    wish = recipe.checkpoints
    if wish is None:
        return Moments(recipe.keep_every)
    epochs, updates = set(wish.epochs), set(wish.updates)
    if recipe.keep_every:
        epochs |= set(range(0, -(-total // per_epoch) + 1, recipe.keep_every))
    if wish.at == "lowest_rate":
        updates |= set(lowest_updates(recipe.schedule, total, per_epoch))
    every = wish.every_epochs or 0, wish.every_updates or 0
    return Moments(*every, frozenset(epochs), frozenset(updates))


def collecting_moments(recipe: Recipe, total: int, per_epoch: int) -> Moments:
    """Return when the collector of a training takes the weights."""
    wish = recipe.collect
    if wish is None:
        return Moments()
    low = lowest_updates(recipe.schedule, total, per_epoch) if wish.at else ()
    usual = 0 if wish.every_updates or wish.at else 1
    return Moments(
        wish.every_epochs or usual,
        wish.every_updates or 0,
        updates=frozenset(low),
        first_epoch=wish.from_epoch,
        first_update=wish.from_epoch * per_epoch,
    )
