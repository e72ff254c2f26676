"""Train a family: trainings that begin as one stack, epoch by epoch, until each has ended.

A member that has stopped or diverged leaves its stack at the next epoch. A stack that runs out of
memory is halved and begins the epoch again; so a family may come to be several groups.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.evaluation import Evaluation, evaluate
from phasegrid.seeding import repeatable
from phasegrid.train.beginning import Beginning, DataSets, begin
from phasegrid.train.epoch import run_epoch
from phasegrid.train.groups import (
    Group,
    StackOf,
    expected_epochs,
    halved,
    make_group,
    stacked,
    unstack,
    without_finished,
)
from phasegrid.train.lanes import Lane
from phasegrid.train.member import (
    Trained,
    TrialState,
    needs_test,
    record_epoch,
    release,
    result_of,
    undoing,
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
from phasegrid.train.stack import MemberState, Stack


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all families of a pack share: its trials with their data and starts, those `wanted`, and
    how results and snapshots are kept. `now` is the clock that times epochs.
    """

    trials: Sequence[Trial]
    data: Sequence[Dataset]
    starts: Sequence[Beginning | None]
    sets: DataSets
    wanted: Collection[int]
    publisher: Publisher | None
    on_trained: Callable[[int, Trained], bool] | None
    now: Callable[[], float]
    clock: Callable[[], float]
    snapshot_every_s: float


@dataclass(slots=True)
class Family:
    """The trainings that begin as one stack.

    Unless they are handed over, `results` holds each that is wanted when it has ended, and in the
    end how far the others came. `epochs_done` of at most `epochs` are done, 0 before the beginning.
    """

    around: Surroundings
    stack: StackOf
    saver: Saver
    results: dict[int, Trained] = field(default_factory=dict)
    epochs_done: int = 0
    epochs: int = 0
    _members: dict[int, TrialState] = field(default_factory=dict)
    _groups: list[Group] = field(default_factory=list)
    _to_do: list[Group] = field(default_factory=list)
    _left: list[Group] = field(default_factory=list)
    _ended: set[int] = field(default_factory=set)
    _within_epoch: bool = False
    _last_saved: float = 0.0

    @property
    def share(self) -> float:
        """The part of the device that it fills."""
        return self.stack.plan.share

    @property
    def has_ended(self) -> bool:
        """Whether none of its trainings goes on."""
        return bool(self._members) and not self._groups

    def steps(self, lane: Lane) -> Iterator[bool]:
        """Train to the end, or go on; yield after each piece of work whether it ended an epoch."""
        if not self._members:
            self._begin()
        if not self.epochs:
            self._end_epoch()
        while self._groups:
            self._within_epoch = True
            while self._to_do:
                left = yield from self._advance(self._to_do[0], lane)
                if left is None:
                    self._to_do[:1] = halved(self._to_do[0])
                else:
                    self._left += left
                    del self._to_do[0]
            self._end_epoch()
            self._within_epoch = False
            yield True
        for i, member in self._members.items():
            if self.around.on_trained is None and i not in self.results:
                self.results[i] = result_of(member)
            release(member)

    def save(self) -> None:
        """Save snapshots of all members that have not ended, unless they are within an epoch."""
        if self._groups and not self._within_epoch:
            self._save()

    def _save(self) -> None:
        for group in self._groups:
            unstack(group)
        self.saver.save([group.members for group in self._groups])

    def _begin(self) -> None:
        around, wanted = self.around, set(self.around.wanted)
        begun = {
            i: begin(around.trials[i], around.data[i], around.starts[i], around.sets)
            for i in self.stack.places
        }
        members = {i: member for i, (member, _) in begun.items()}
        for i, member in members.items():
            member.strategy = self.stack.way
            if around.publisher is not None and i in wanted:
                member.publish = partial(around.publisher.publish, around.trials[i].key)
        parts = self.saver.resume(members, self.stack.places, wanted, around.sets.device)
        groups = [make_group([members[i] for i in part], begun[part[0]][1]) for part in parts]
        for group in groups:
            _leave_beginnings(group)
        self.epochs = max(expected_epochs(group) for group in groups)
        self._last_saved = around.clock()
        self._members, self._groups, self._to_do = members, groups, list(groups)

    def _end_epoch(self) -> None:
        """Hand over the members that have ended; save the others if it is time."""
        going_on = {id(member) for group in self._left for member in group.members}
        for group in self._groups:
            for member in group.members:
                if id(member) not in going_on and id(member) not in self._ended:
                    self._end(member, group.template)
                    self._ended.add(id(member))
        wanted = {id(m) for i, m in self._members.items() if i in self.around.wanted}
        self._groups = [
            group for group in self._left if any(id(member) in wanted for member in group.members)
        ]
        self._to_do, self._left = list(self._groups), []
        self.epochs_done = max(len(member.history) for member in self._members.values())
        if self._groups and self.saver.wanted:
            now = self.around.clock()
            if now - self._last_saved >= self.around.snapshot_every_s:
                self._save()
                self._last_saved = now

    def _end(self, member: TrialState, template: nn.Module) -> None:
        """Publish what a finished member leaves; pass its result on and delete its snapshots."""
        leave_optimizer(member)
        leave_collected(member, template)
        (i,) = [place for place, own in self._members.items() if own is member]
        if i not in self.around.wanted:
            return
        result = result_of(member)
        if self.around.on_trained is None:
            self.results[i] = result
        if self.around.on_trained is None or self.around.on_trained(i, result):
            self.saver.forget(member)

    def _advance(self, group: Group, lane: Lane) -> Generator[bool, None, list[Group] | None]:
        """Train a group for one epoch. Return the groups that go on: itself, one of fewer members,
        or none.

        If memory runs out, all is as it was before the epoch: then return None for several members,
        which must be halved, and raise `torch.OutOfMemoryError` for one.
        """
        members = group.members
        if len(members) > 1 or lane.gives_back:
            unstack(group)
        undo = [undoing(member) for member in members]
        try:
            return (yield from self._run_epoch(group))
        except torch.OutOfMemoryError as error:
            group.stack = None
            for restore in undo:
                restore()
            if len(members) == 1:
                raise
            fall_back("a stack of trainings was halved, because memory ran out", error)
        return None

    def _run_epoch(self, group: Group) -> Generator[bool, None, list[Group]]:
        members, started = group.members, self.around.now()
        first, epoch = members[0], len(members[0].history)
        if group.stack is None:
            group.stack = stacked(group, self.stack.plan.strategy)
        stack, feeds, recipe = group.stack, [m.feed for m in members], first.recipe
        watched = group.moments.within_epochs or group.collecting.within_epochs
        watch = partial(_watch_updates, group) if watched else None
        numbers = yield from run_epoch(
            stack, feeds, recipe, group.cut, epoch, first.updates, first.before, watch
        )
        tests = [
            _test(group, stack, i) if needs_test(member, numbers[i]) else None
            for i, member in enumerate(members)
        ]
        share = (self.around.now() - started) / len(members)
        for i, (member, number, test) in enumerate(zip(members, numbers, tests, strict=True)):
            record_epoch(member, number, test, partial(_copy_of, stack, i, member.recipe), share)
        for at in group.moments.after_epoch(epoch + 1):
            leave_of_stack(stack, members, at)
        if group.collecting.after_epoch(epoch + 1):
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
