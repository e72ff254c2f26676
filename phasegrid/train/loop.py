"""Train a pack of trials: from trials and data to weights and histories.

Trials whose shapes and updates agree (`phasegrid.train.compat`) train as one stack, and all stacks
advance side by side (`phasegrid.train.lanes`).

The random draws of a member do not depend on its pack. The rounding of its sums depends on the
shape of its stack and on its place there, and training amplifies rounding; on a CPU, what the other
members hold changes no bit. So a trial whose result is stored already still trains in its place of
a stack, as a stand-in, as long as another member of the stack is wanted.
"""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import torch

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.train.beginning import Beginning, DataSets, begin
from phasegrid.train.family import Family, Surroundings
from phasegrid.train.groups import grouped
from phasegrid.train.lanes import Lanes
from phasegrid.train.member import Trained, result_of
from phasegrid.train.publishing import Publisher
from phasegrid.train.resume import Saver
from phasegrid.train.snapshots import Snapshots
from phasegrid.train.stack_plan import StackPlan


def train_pack(
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    *,
    device: torch.device | str,
    strategy: Literal["auto", "loop", "vmap", "fused", "merged"] = "auto",
    stack_size: int | None = None,
    plans: Sequence[StackPlan | None] | None = None,
    lanes: int | None = None,
    starts: Sequence[Beginning | None] | None = None,
    wanted: Collection[int] | None = None,
    publisher: Publisher | None = None,
    snapshots: Snapshots | None = None,
    same_stacks: bool = False,
    snapshot_every_s: float = 60.0,
    on_epoch: Callable[[int, int], None] | None = None,
    on_trained: Callable[[int, Trained], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trained]:
    """Train every trial on its data set and return the results in order; trials may share a data
    set.

    `starts` holds what each trial starts from, or None for an initialisation by its seed.
    `publisher` keeps at once what trials leave on the way; without one it is lost. `strategy` is
    how stacks run (see `phasegrid.train.stack`), and `stack_size` the most members of a stack
    (None: no limit); both change how numbers are rounded. `plans` says both for each trial, where
    it is not None. At most `lanes` stacks run at the same time (None: 32), and no more than
    fill the device by their plans; the others wait. On a GPU each has a stream of its own.

    `wanted` are the places of the trials whose results are asked for (None: all). Other trials
    train only if they share a stack with one of these, and their results are as far as they came.
    When a wanted trial is finished, ``on_trained(its place, its result)`` is called while others go
    on; then nothing is returned. It returns whether the result was kept: the snapshots of a stack
    are deleted after its last member, if all results were kept.

    After an epoch, snapshots of the trainings that go on are saved if `snapshot_every_s` have
    passed; then ``on_epoch(epochs done, epochs)`` is called, of the stack with the most to do, or
    with the sums over all stacks if some have to wait. If it raises, every stack goes on to the end
    of its epoch, and snapshots are saved before the exception goes on. A trial with a snapshot goes
    on from it in whatever pack; with `same_stacks` it does so only if its whole stack goes on, bit
    for bit on a CPU. A stack that runs out of memory waits for others to end, or is halved, and
    begins the epoch again. Only what `keep` and the histories need is evaluated.

    Raises:
        ValueError: if a batch is larger than its training set, or the network cannot run by the
        strategy asked for. torch.OutOfMemoryError: if not even one member fits.
    """
    place = torch.device(device)
    own, sets = list(starts or [None] * len(trials)), DataSets(place)
    chosen = frozenset(range(len(trials)) if wanted is None else wanted)
    usual = StackPlan(strategy, stack_size)
    by_trial = [plan or usual for plan in plans or [None] * len(trials)]
    for trial, dataset in zip(trials, data, strict=True):
        sets.fed_to(trial, dataset)  # it lies on the device before any lane reads it
    running = Lanes(place, lanes, clock)
    around = Surroundings(
        trials, data, own, sets, chosen, publisher, on_trained, running.now, clock, snapshot_every_s
    )
    families = [
        Family(around, stack, Saver(snapshots, stack.plan.strategy, same_stacks, publisher))
        for stack in grouped(trials, data, own, by_trial, sets)
        if not chosen.isdisjoint(stack.places)
    ]

    def after_turn(ended_an_epoch: bool) -> None:
        if on_epoch is None or not ended_an_epoch:
            return
        try:
            on_epoch(*_progress(families))
        except BaseException:
            running.drain()
            for family in families:
                family.save()
            raise

    running.run(families, after_turn)
    if on_trained is not None:
        return []
    results = {i: result for family in families for i, result in family.results.items()}
    return [
        results[i] if i in results else result_of(begin(trial, data[i], own[i], sets)[0])
        for i, trial in enumerate(trials)
    ]


def _progress(families: Sequence[Family]) -> tuple[int, int]:
    """Return how many epochs are done of how many: of the one with the most to do, as not all last
    equally long, or of all if some wait.
    """
    begun = [family.epochs for family in families if family.epochs]
    if len(begun) == len(families):
        going_on = [family for family in families if not family.has_ended]
        last = max(going_on or families, key=_left if going_on else _done)
        return last.epochs_done, last.epochs
    mean = sum(begun) / len(begun)
    return sum(map(_done, families)), round(mean * len(families))


def _done(family: Family) -> int:
    return family.epochs_done


def _left(family: Family) -> int:
    return family.epochs - family.epochs_done
