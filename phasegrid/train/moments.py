"""The moments of a training at which weights are published or collected. No torch here.

Epochs and updates are counted from 1; 0 is the initialisation. Artifacts are named after their
moment: ``weights@epoch-40``, ``weights@update-900``.
"""

from dataclasses import dataclass

from phasegrid.train.recipe import Recipe
from phasegrid.train.schedules import lowest_updates


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
