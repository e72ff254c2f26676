"""Train a pack of trials: from trials and data to weights and histories.

Trials whose shapes and updates agree (`phasegrid.train.compat`) train as one stack; the others
beside it. All stacks advance epoch by epoch. A member that has stopped or diverged leaves its stack
at the next epoch.

What a member draws does not depend on its pack. How its sums are rounded depends on the shape of
its stack and on its place there, and training amplifies rounding; what the other members hold
changes no bit of it (on a CPU). So trials whose results are there already train along where they
stand in a stack, as stand-ins, until nobody else is left.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.fallbacks import fall_back
from phasegrid.jobs import Trial
from phasegrid.keys import stream_seed
from phasegrid.models.build import build_model
from phasegrid.models.evaluation import Evaluation, evaluate
from phasegrid.models.fused import Blueprint
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import Strategy, choose_strategy
from phasegrid.models.weights import (
    Weights,
    has_batch_norm,
    num_parameters,
    parameters_vector,
)
from phasegrid.seeding import repeatable
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Cut, epoch_bounds
from phasegrid.train.aside import joined
from phasegrid.train.compat import num_from_aside, pack_signature, recipe_of
from phasegrid.train.epoch import EpochNumbers, run_epoch
from phasegrid.train.member import (
    EpochRecord,
    Trained,
    TrialState,
    needs_test,
    new_member,
    record_epoch,
    result_of,
)
from phasegrid.train.moments import Moments, checkpoint_moments, collecting_moments
from phasegrid.train.objectives import criterion_of
from phasegrid.train.optimizers import Slots, new_slots
from phasegrid.train.precision import tensor_float_32
from phasegrid.train.pruning import mask_row, masks, prunable
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

__all__ = ["Beginning", "EpochRecord", "Trained", "train_pack"]


@dataclass(slots=True)
class _Group:
    """Members that train as one stack, publish their weights at the same `moments` and have them
    collected at those of `collecting`. `stack` is None until the next epoch builds it.
    """

    members: list[TrialState]
    template: nn.Module
    cut: Cut
    moments: Moments
    collecting: Moments
    stack: Stack | None = None


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a training starts from: the weights of another network of its model and, where they are
    kept, what an optimizer remembered after `updates` updates.
    """

    weights: Weights
    slots: Slots = field(default_factory=dict)
    updates: int = 0


def train_pack(
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    *,
    device: torch.device | str,
    strategy: Literal["auto", "loop", "vmap", "fused"] = "auto",
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
    """Train every trial on its data set (one per trial; they may be the same object) and return
    them in order.

    `starts` says of each trial what it starts from; None, or an initialisation where that is None,
    stands for its own seed's. What recipes have trials leave on the way goes to `publisher` at once
    (None: is not kept). `strategy` is how stacks run (see `phasegrid.train.stack`), `stack_size`
    the most members of one (None: all that can); both change how numbers are rounded. `wanted` are
    the places of those whose results are asked for (None: all); of the others those that stand in a
    stack with one of them train along, and what is returned of them is as far as they came. When a
    wanted trial is finished ``on_trained(its place, what it came to)`` is called, while others go
    on; the snapshots of a stack are deleted with its last one, unless that says False of one (the
    result could not be kept). After each epoch snapshots are saved of those that go on, if
    `snapshot_every_s` have passed, then ``on_epoch(epochs done, most epochs)`` is called; if that
    raises, snapshots are saved first and the exception goes on. A trial with a snapshot goes on
    from it, in whatever pack; with `same_stacks` only where its whole stack goes on, bit for bit on
    a CPU. When a stack of several members runs out of memory it is halved and the epoch begun
    again. Nothing is evaluated but what `keep` and the histories need.

    Raises:
        ValueError: if a batch is larger than its training set, or the network cannot run by the
        strategy asked for. torch.OutOfMemoryError: if not even one member fits.
    """
    place = torch.device(device)
    moved = {
        id(d): d.to(place) for d in data
    }  # one copy on the device, however many trials share it
    beginnings = starts or [None] * len(trials)
    members, modules = _begin(trials, [moved[id(d)] for d in data], beginnings, place)
    chosen = set(range(len(trials))) if wanted is None else set(wanted)
    if publisher is not None:
        for i in chosen:
            members[i].publish = partial(publisher.publish, trials[i].key)
    saver = Saver(snapshots, strategy, same_stacks, publisher)
    groups = [
        _group([members[i] for i in part], modules[part[0]])
        for alike in _grouped(members, modules, strategy, stack_size)
        if not chosen.isdisjoint(alike)
        for part in saver.resume(members, alike, chosen, place)
    ]
    del modules  # only the one that a group keeps is needed on
    for group in groups:
        _leave_beginnings(group)
    last_saved, total = clock(), max((_expected_epochs(group) for group in groups), default=0)
    place_of = {id(member): i for i, member in enumerate(members)}
    while groups:
        groups, before = [], groups
        for group in before:
            groups += _advance(group, strategy, clock)
        going_on = {id(member) for group in groups for member in group.members}
        for group, member in [(g, m) for g in before for m in g.members if id(m) not in going_on]:
            i = place_of[id(member)]
            leave_optimizer(member)
            leave_collected(member, group.template)
            if i in chosen and (on_trained is None or on_trained(i, result_of(member))):
                saver.forget(member)
        groups = [g for g in groups if any(place_of[id(m)] in chosen for m in g.members)]
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


def _begin(
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    starts: Sequence[Beginning | None],
    device: torch.device,
) -> tuple[list[TrialState], list[nn.Module]]:
    """Build every trial's network from its own stream, or as its start has it, and put its
    beginning into a member.
    """
    members, modules = [], []
    lengths = {
        id(d): d.operations.lengths(d.train_inputs, d.train_labels)
        for d in {id(d): d for d in data}.values()
    }
    fed: dict[tuple[int, int], Dataset] = {}  # one copy, however many trials share it
    for trial, dataset, start in zip(trials, data, starts, strict=True):
        sets = len(dataset.train_labels), len(dataset.aside_labels)
        num_aside = num_from_aside(trial.recipe, *sets)
        if num_aside and (id(dataset), num_aside) not in fed:
            fed[id(dataset), num_aside] = joined(dataset, num_aside)
        seed = stream_seed(trial.seed, "init")
        module = build_model(
            trial.model,
            dataset.input_shape,
            dataset.num_classes,
            seed=seed,
            task=dataset.task,
            form=dataset.form,
        )
        if start is not None:
            module.load_state_dict(start.weights)
        module = module.to(device).train()
        tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}
        slots = new_slots(recipe_of(trial), parameters_vector(module))
        before = 0
        if start is not None:
            slots |= {n: start.slots[n].to(device) for n in slots if n in start.slots}
            before = start.updates
        size = num_parameters(module)
        state = MemberState(tensors, slots)
        mine, known = fed.get((id(dataset), num_aside), dataset), lengths[id(dataset)]
        member = new_member(trial, mine, state, size, known, before, num_aside)
        if member.recipe.prune is not None:
            member.prunable = prunable(module)
            found = masks(tensors, member.prunable, member.recipe.prune)
            tensors.update({name: tensors[name] * mask for name, mask in found.items()})
            member.mask = mask_row(module, found)
        members.append(member)
        modules.append(module)
    return members, modules


def _grouped(
    members: Sequence[TrialState],
    modules: Sequence[nn.Module],
    strategy: str,
    stack_size: int | None,
) -> list[list[int]]:
    """Say which members train as one stack; those that loop are alone."""
    by_kind: dict[object, list[int]] = {}
    for i, member in enumerate(members):
        data = member.data
        shapes = (data.train_inputs.shape, data.num_classes, data.augment)
        kind = (pack_signature(member.trial), shapes, member.before)
        by_kind.setdefault(kind, []).append(i)
    layout = []
    for alike in by_kind.values():
        most = min(stack_size or len(alike), len(alike))
        way, _ = _choose(strategy, members[alike[0]], modules[alike[0]], most)
        size = 1 if way == "loop" else most
        layout += [alike[start : start + size] for start in range(0, len(alike), size)]
        for i in alike:
            members[i].strategy = way
    return layout


def _choose(
    strategy: str, member: TrialState, module: nn.Module, count: int
) -> tuple[Strategy, Blueprint | None]:
    """Choose how `count` members like this one run; one by one where batches are of all shapes.

    Raises:
        NotFusableError, ValueError: as `choose_strategy`; ValueError too if stacks are asked for
        where batches are of all shapes.
    """
    task = TASKS[member.data.task]
    if task.one_shape:
        example = member.data.train_inputs[:1]
        return choose_strategy(strategy, module, example, count, member.recipe.batch_size)
    if strategy not in ("auto", "loop"):
        raise ValueError(
            f"strategy {strategy} cannot train on {task.examples}, whose batches differ in length"
            " or follow one another; use auto or loop"
        )
    return "loop", None


def _group(members: list[TrialState], template: nn.Module) -> _Group:
    recipe, num = members[0].recipe, len(members[0].data.train_inputs)
    if recipe.batch_unit != "examples":
        cut, per_epoch = Cut(None, recipe.batch_size), 1
    else:
        join_single = has_batch_norm(template)
        bounds = epoch_bounds(num, recipe.batch_size, recipe.drop_last, join_single)
        cut, per_epoch = Cut(bounds), len(bounds)
    total = recipe.updates or recipe.epochs * per_epoch
    moments, collecting = (
        when(recipe, total, per_epoch) for when in (checkpoint_moments, collecting_moments)
    )
    return _Group(members, template, cut, moments, collecting)


def _expected_epochs(group: _Group) -> int:
    """Return how many epochs the members of a group take at most, an estimate where the number of
    batches varies.
    """
    member = group.members[0]
    if member.recipe.updates is None:
        return member.recipe.epochs
    return math.ceil(member.recipe.updates / group.cut.num_batches(member.feed.lengths))


def _advance(group: _Group, strategy: str, clock: Callable[[], float]) -> list[_Group]:
    """Train a group for one epoch; return what is left of it: nothing, itself, fewer members, or
    halves.
    """
    members, started = group.members, clock()
    numbers = _run_or_run_out(group, strategy)
    if numbers is None:
        halves = _halved(group)
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
    return _without_finished(group)


def _copy_of(stack: Stack, index: int, recipe: Recipe) -> MemberState:
    """Copy what is kept of a member: its weights and, where the recipe asks for it, the rest."""
    return stack.member(index) if recipe.keeps_optimizer else MemberState(stack.state(index))


def _leave_beginnings(group: _Group) -> None:
    """Publish what the members of a group begin with, if they have not begun before."""
    for at in (*group.moments.after_epoch(0), *group.moments.after_update(0)):
        for member in group.members:
            if not member.history:
                leave(member, at, member.state)


def _watch_updates(group: _Group, done: int) -> None:
    assert group.stack is not None
    for at in group.moments.after_update(done):
        leave_of_stack(group.stack, group.members, at)
    if group.collecting.after_update(done):
        collect_of_stack(group.stack, group.members)


def _run_or_run_out(group: _Group, strategy: str) -> list[EpochNumbers] | None:
    """Run an epoch of a group; None if several members ran out of memory, and all is as it was
    before the epoch.
    """
    members, recipe = group.members, group.members[0].recipe
    epoch = len(members[0].history)
    if len(members) > 1:
        _unstack(group)
    streams = [(m.feed.order.get_state(), m.feed.augment.get_state()) for m in members]
    collected = [m.collected for m in members]
    try:
        if group.stack is None:
            group.stack = _stacked(group, strategy)
        feeds, first = [m.feed for m in members], members[0]
        watched = group.moments.within_epochs or group.collecting.within_epochs
        watch = partial(_watch_updates, group) if watched else None
        return run_epoch(
            group.stack, feeds, recipe, group.cut, epoch, first.updates, first.before, watch
        )
    except torch.OutOfMemoryError as error:
        if len(members) == 1:
            raise
        fall_back("a stack of trainings was halved, for want of memory", error)
    group.stack = None
    for member, (order, augment) in zip(members, streams, strict=True):
        member.feed.order.set_state(order)
        member.feed.augment.set_state(augment)
    for member, state in zip(members, collected, strict=True):
        member.collected = state
    return None


def _stacked(group: _Group, strategy: str) -> Stack:
    way, blueprint = _choose(strategy, group.members[0], group.template, len(group.members))
    found = [m.mask for m in group.members if m.mask is not None]
    return Stack(group.template, [m.state for m in group.members], way, blueprint, found)


def _unstack(group: _Group) -> None:
    """Copy the current state of a stack into its members."""
    if group.stack is not None:
        for i, member in enumerate(group.members):
            member.state = group.stack.member(i)


def _without_finished(group: _Group) -> list[_Group]:
    active = [member for member in group.members if not member.finished]
    if len(active) == len(group.members):
        return [group]
    if not active:
        return []
    _unstack(group)
    return [replace(group, members=active, stack=None)]


def _halved(group: _Group) -> list[_Group]:
    middle = len(group.members) // 2
    return [
        replace(group, members=group.members[:middle], stack=None),
        replace(
            group,
            members=group.members[middle:],
            template=copy_network(group.template),
            stack=None,
        ),
    ]


def _test(group: _Group, stack: Stack, index: int) -> Evaluation:
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


def _save(saver: Saver, groups: Sequence[_Group]) -> None:
    for group in groups:
        _unstack(group)
    saver.save([group.members for group in groups])
