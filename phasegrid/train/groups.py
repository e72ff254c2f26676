"""Group the members of a pack that train as one stack; shrink groups as members leave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import Trial
from phasegrid.models.fused import Blueprint
from phasegrid.models.network_state import copy_network
from phasegrid.models.strategies import Strategy, choose_strategy
from phasegrid.models.weights import has_batch_norm
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Cut, epoch_bounds
from phasegrid.train.beginning import Beginning, DataSets, initial_network
from phasegrid.train.compat import pack_signature, recipe_of
from phasegrid.train.member import TrialState
from phasegrid.train.moments import Moments, checkpoint_moments, collecting_moments
from phasegrid.train.recipe import Recipe
from phasegrid.train.stack import Stack
from phasegrid.train.stack_plan import StackPlan


@dataclass(frozen=True, slots=True)
class StackOf:
    """The trials at `places` of a pack, which begin as one stack and run by `way`."""

    places: list[int]
    plan: StackPlan
    way: Strategy


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
    trials: Sequence[Trial],
    data: Sequence[Dataset],
    starts: Sequence[Beginning | None],
    plans: Sequence[StackPlan],
    sets: DataSets,
) -> list[StackOf]:
    """Say which trials train as one stack, by the plan of the first of those that could; those that
    loop are alone.
    """
    by_kind: dict[object, list[int]] = {}
    for i, (trial, dataset, start) in enumerate(zip(trials, data, starts, strict=True)):
        shapes = dataset.train_inputs.shape, len(dataset.aside_labels)
        before = 0 if start is None else start.updates
        facts = shapes, dataset.num_classes, dataset.augment
        by_kind.setdefault((pack_signature(trial), facts, before), []).append(i)
    layout = []
    for alike in by_kind.values():
        first, plan = alike[0], plans[alike[0]]
        most = min(plan.stack_size or len(alike), len(alike))
        module = initial_network(trials[first], data[first]).to(sets.device)
        recipe = recipe_of(trials[first])
        way, _ = _choose(plan.strategy, recipe, sets.moved(data[first]), module, most)
        size = 1 if way == "loop" else most
        parts = [alike[start : start + size] for start in range(0, len(alike), size)]
        layout += [StackOf(part, plan, way) for part in parts]
    return layout


def _choose(
    strategy: str, recipe: Recipe, data: Dataset, module: nn.Module, count: int
) -> tuple[Strategy, Blueprint | None]:
    """Choose how `count` members like this one run; one by one where batches are of all shapes.

    Raises:
        NotFusableError, ValueError: as `choose_strategy`; ValueError too if stacks are asked for
        where batches are of all shapes.
    """
    task = TASKS[data.task]
    if task.one_shape:
        example = data.train_inputs[:1]
        size = math.ceil(recipe.batch_size / recipe.accumulate)
        return choose_strategy(strategy, module, example, count, size)
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
    first = group.members[0]
    way, blueprint = _choose(strategy, first.recipe, first.data, group.template, len(group.members))
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
