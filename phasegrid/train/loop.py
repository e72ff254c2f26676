"""Train a pack of trials: from trials and data to weights and histories.

Trials whose shapes and updates agree (`phasegrid.train.compat`) train as one stack, and all stacks
advance epoch by epoch. A member that has stopped or diverged leaves its stack at the next epoch.

The random draws of a member do not depend on its pack. The rounding of its sums depends on the
shape of its stack and on its place there, and training amplifies rounding; on a CPU, what the other
members hold changes no bit. So a trial whose result is stored already still trains in its place of
a stack, as a stand-in, as long as another member of the stack is wanted.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.evaluation import Evaluation, evaluate
from phasegrid.seeding import repeatable
from phasegrid.train.beginning import Beginning, begin
from phasegrid.train.epoch import EpochNumbers, run_epoch
from phasegrid.train.groups import (
    Group,
    expected_epochs,
    grouped,
    halved,
    make_group,
    stacked,
    unstack,
    without_finished,
)
from phasegrid.train.member import (
    Trained,
    TrialState,
    needs_test,
    record_epoch,
    result_of,
)
from phasegrid.train.objectives import criterion_of
from phasegrid.train.precision import tensor_float_32
from phasegrid.train.publishing import (
    Publisher,
    collect_of_stack,
    leave,
    leave_collected,
    leave_of_stack,
    leave_optimizer,
)
from phasegrid.train.recipe import Recipe
from phasegrid.train.resume import Saver
from phasegrid.train.snapshots import Snapshots
from phasegrid.train.stack import MemberState, Stack


def train_pack(
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    *,
    device: torch.device | str,
    strategy: Literal["auto", "loop", "vmap", "fused", "merged"] = "auto",
    stack_size: int | None = None,
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
    (None: no limit); both change how numbers are rounded.

    `wanted` are the places of the trials whose results are asked for (None: all). Other trials
    train only if they share a stack with one of these, and their results are as far as they came.
    When a wanted trial is finished, ``on_trained(its place, its result)`` is called while others go
    on. It returns whether the result was kept: the snapshots of a stack are deleted after its last
    member, if all results were kept.

    After an epoch, snapshots of the trainings that go on are saved if `snapshot_every_s` have
    passed; then ``on_epoch(epochs done, most epochs)`` is called. If it raises, snapshots are saved
    before the exception goes on. A trial with a snapshot goes on from it in whatever pack; with
    `same_stacks` it does so only if its whole stack goes on, bit for bit on a CPU. A stack that
    runs out of memory is halved and begins the epoch again. Only what `keep` and the histories need
    is evaluated.

    Raises:
        ValueError: if a batch is larger than its training set, or the network cannot run by the
        strategy asked for. torch.OutOfMemoryError: if not even one member fits.
    """
    place = torch.device(device)
    moved = {id(d): d.to(place) for d in data}  # one copy, however many trials share it
    beginnings = starts or [None] * len(trials)
    members, modules = begin(trials, [moved[id(d)] for d in data], beginnings, place)
    chosen = set(range(len(trials))) if wanted is None else set(wanted)
    if publisher is not None:
        for i in chosen:
            members[i].publish = partial(publisher.publish, trials[i].key)
    saver = Saver(snapshots, strategy, same_stacks, publisher)
    groups = [
        make_group([members[i] for i in part], modules[part[0]])
        for alike in grouped(members, modules, strategy, stack_size)
        if not chosen.isdisjoint(alike)
        for part in saver.resume(members, alike, chosen, place)
    ]
    del modules  # only the one that a group keeps is needed on
    for group in groups:
        _leave_beginnings(group)
    last_saved, total = clock(), max((expected_epochs(group) for group in groups), default=0)
    asked = _Wanted({id(members[i]): i for i in chosen}, saver, on_trained)
    while groups:
        left = _one_epoch(groups, strategy, clock, asked.end)
        groups = [group for group in left if asked.has_one_of(group)]
        if groups and saver.wanted and clock() - last_saved >= snapshot_every_s:
            _save(saver, groups)
            last_saved = clock()
        if on_epoch:
            try:
                on_epoch(max(len(member.history) for member in members), total)
            except BaseException:
                _save(saver, groups)
                raise
    return [result_of(member) for member in members]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The members whose results are asked for: their `places` by identity, and who is told of
    their results.
    """

    places: Mapping[int, int]
    saver: Saver
    on_trained: Callable[[int, Trained], bool] | None

    def has_one_of(self, group: Group) -> bool:
        """Say whether a group holds such a member."""
        return any(id(member) in self.places for member in group.members)

    def end(self, member: TrialState, template: nn.Module) -> None:
        """Publish what a finished member leaves; pass its result on and delete its snapshots."""
        leave_optimizer(member)
        leave_collected(member, template)
        i = self.places.get(id(member))
        if i is None:
            return
        if self.on_trained is None or self.on_trained(i, result_of(member)):
            self.saver.forget(member)


def _one_epoch(
    groups: Sequence[Group],
    strategy: str,
    clock: Callable[[], float],
    end: Callable[[TrialState, nn.Module], None],
) -> list[Group]:
    """Train groups for one epoch and return the groups that go on; call `end` for each member that
    does not.
    """
    left = [part for group in groups for part in _advance(group, strategy, clock)]
    going_on = {id(member) for group in left for member in group.members}
    for group in groups:
        for member in group.members:
            if id(member) not in going_on:
                end(member, group.template)
    return left


def _advance(group: Group, strategy: str, clock: Callable[[], float]) -> list[Group]:
    """Train a group for one epoch. Return the groups that go on: itself, one of fewer members, its
    halves, or none.
    """
    members, started = group.members, clock()
    numbers = _run_or_run_out(group, strategy)
    if numbers is None:
        halves = halved(group)
        return [left for half in halves for left in _advance(half, strategy, clock)]
    stack = group.stack
    assert stack is not None
    tests = [
        _test(group, stack, i) if needs_test(member, numbers[i]) else None
        for i, member in enumerate(members)
    ]
    share = (clock() - started) / len(members)
    for i, (member, number, test) in enumerate(zip(members, numbers, tests, strict=True)):
        record_epoch(member, number, test, partial(_copy_of, stack, i, member.recipe), share)
    for at in group.moments.after_epoch(len(members[0].history)):
        leave_of_stack(stack, members, at)
    if group.collecting.after_epoch(len(members[0].history)):
        collect_of_stack(stack, members)
    return without_finished(group)


def _copy_of(stack: Stack, index: int, recipe: Recipe) -> MemberState:
    """Copy what is kept of a member: its weights and, where the recipe asks for it, the rest."""
    return stack.member(index) if recipe.keeps_optimizer else MemberState(stack.state(index))


def _leave_beginnings(group: Group) -> None:
    """Publish what the members of a group begin with, if they have not begun before."""
    for at in (*group.moments.after_epoch(0), *group.moments.after_update(0)):
        for member in group.members:
            if not member.history:
                leave(member, at, member.state)


def _watch_updates(group: Group, done: int) -> None:
    assert group.stack is not None
    for at in group.moments.after_update(done):
        leave_of_stack(group.stack, group.members, at)
    if group.collecting.after_update(done):
        collect_of_stack(group.stack, group.members)


def _run_or_run_out(group: Group, strategy: str) -> list[EpochNumbers] | None:
    """Run an epoch of a group; None if several members ran out of memory, and all is as it was
    before the epoch.
    """
    members, recipe = group.members, group.members[0].recipe
    epoch = len(members[0].history)
    if len(members) > 1:
        unstack(group)
    streams = [(m.feed.order.get_state(), m.feed.augment.get_state()) for m in members]
    collected = [m.collected for m in members]
    try:
        if group.stack is None:
            group.stack = stacked(group, strategy)
        feeds, first = [m.feed for m in members], members[0]
        watched = group.moments.within_epochs or group.collecting.within_epochs
        watch = partial(_watch_updates, group) if watched else None
        return run_epoch(
            group.stack, feeds, recipe, group.cut, epoch, first.updates, first.before, watch
        )
    except torch.OutOfMemoryError as error:
        if len(members) == 1:
            raise
        fall_back("a stack of trainings was halved, because memory ran out", error)
    group.stack = None
    for member, (order, augment) in zip(members, streams, strict=True):
        member.feed.order.set_state(order)
        member.feed.augment.set_state(augment)
    for member, state in zip(members, collected, strict=True):
        member.collected = state
    return None


def _test(group: Group, stack: Stack, index: int) -> Evaluation:
    """Evaluate a member's present weights on its test set, without TF32 whatever it trains with."""
    member, device = group.members[index], stack.network.weights.device
    data = replace(member.data, objective=criterion_of(member.recipe))
    scoring, seed = data.scoring, stream_seed(member.trial.stream, f"test/{len(member.history)}")
    if stack.network.strategy != "loop":  # a lone member's template is the member itself
        group.template.load_state_dict(stack.state(index))
    with tensor_float_32(False):
        return repeatable(
            seed,
            device,
            lambda: evaluate(group.template, data.test_inputs, data.test_labels, scoring),
        )


def _save(saver: Saver, groups: Sequence[Group]) -> None:
    for group in groups:
        unstack(group)
    saver.save([group.members for group in groups])
