"""Group the members of a pack that train as one stack; shrink groups as members leave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from phasegrid.models.fused import Blueprint
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import Strategy, choose_strategy
from phasegrid.models.weights import (
    has_batch_norm,
)
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Cut, epoch_bounds
from phasegrid.train.compat import pack_signature
from phasegrid.train.member import (
    TrialState,
)
from phasegrid.train.moments import Moments, checkpoint_moments, collecting_moments
from phasegrid.train.stack import Stack


@dataclass(slots=True)
class Group:
    """Members that train as one stack, publish their weights at the same `moments` and have them
    collected at those of `collecting`. `stack` is None until the next epoch builds it.
    """

    members: list[TrialState]
    template: nn.Module
    cut: Cut
    moments: Moments
    collecting: Moments
    stack: Stack | None = None


def grouped(
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


def make_group(members: list[TrialState], template: nn.Module) -> Group:
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
    return Group(members, template, cut, moments, collecting)


def expected_epochs(group: Group) -> int:
    """Return how many epochs the members of a group take at most, an estimate where the number of
    batches varies.
    """
    member = group.members[0]
    if member.recipe.updates is None:
        return member.recipe.epochs
    return math.ceil(member.recipe.updates / group.cut.num_batches(member.feed.lengths))


def stacked(group: Group, strategy: str) -> Stack:
    way, blueprint = _choose(strategy, group.members[0], group.template, len(group.members))
    found = [m.mask for m in group.members if m.mask is not None]
    return Stack(group.template, [m.state for m in group.members], way, blueprint, found)


def unstack(group: Group) -> None:
    """Copy the current state of a stack into its members."""
    if group.stack is not None:
        for i, member in enumerate(group.members):
            member.state = group.stack.member(i)


def without_finished(group: Group) -> list[Group]:
    active = [member for member in group.members if not member.finished]
    if len(active) == len(group.members):
        return [group]
    if not active:
        return []
    unstack(group)
    return [replace(group, members=active, stack=None)]


def halved(group: Group) -> list[Group]:
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
