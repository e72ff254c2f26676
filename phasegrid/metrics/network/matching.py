"""Match the channels of one network to those of another by their weights.

Weight matching (Ainsworth et al. 2023, algorithm 1): among all orders P of the hidden channels of
network b, find one for which the trained weights are near those of network a,

    max_P  sum over the weights  <W_a, P(W_b)>,

which is min_P |theta_a - P(theta_b)|. With all groups of channels but one held, the best order of
that one is a linear assignment problem. Groups are taken in random order, again and again, until
none changes: a local optimum, as the problem as a whole is NP-hard. The objective never falls.

Where Ainsworth et al. begin with the given order, this begins with the better of that and of one
pass through the network in which each group is matched by the weights whose other channels have
been matched already. A copy with its channels in another order is thereby recovered exactly.

Letters: n channels of a group.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.metrics.network.folding import computes_the_same
from phasegrid.metrics.network.permuting import (
    Axis,
    Groups,
    channel_groups,
    permuted,
    reordered,
)
from phasegrid.models.network_state import copy_network

CHECKED_EXAMPLES = 16
"""Number of examples on which an aligned network is compared with what it was."""

LEAST_GAIN = 1e-12
"""The smallest gain for which channels are moved, as a share of the objective: above the rounding
of float64.
"""


@dataclass(frozen=True, slots=True)
class Matching:
    """The order of the channels of every group, and the objective at the beginning and after each
    change.
    """

    orders: Sequence[Tensor]
    objective: Sequence[float]


def aligned(
    model: nn.Module, reference: nn.Module, inputs: Tensor, rng: torch.Generator
) -> tuple[nn.Module, float]:
    """Return a copy of `model` with its channels in the order that brings its weights near those of
    `reference`, and the share of hidden channels that moved, in percent. The copy computes the same
    function, which is checked on a few of `inputs`.

    Raises:
        MetricError: if the networks differ in their parameters, their channels cannot be followed,
            or the copy computes something else.
    """
    groups = channel_groups(model, inputs)
    own, other = (dict(each.named_parameters()) for each in (model, reference))
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in other.items()}:
        raise MetricError(
            "matching channels: the networks differ in the names or shapes of their parameters;"
            " both must have the same architecture"
        )
    orders = match_weights(other, own, groups, rng).orders
    twin = copy_network(model)
    twin.load_state_dict(permuted(model.state_dict(), groups, orders))
    if not computes_the_same(model, twin, inputs[:CHECKED_EXAMPLES]):
        raise MetricError(
            f"matching channels: {type(model).__name__} with its channels in another order computes"
            " another function; it reads their order in code that is not in its graph; use"
            " align: none"
        )
    moved = sum(int((order != torch.arange(len(order))).sum()) for order in orders)
    return twin, 100 * moved / max(1, sum(groups.sizes))


def match_weights(
    reference: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    groups: Groups,
    rng: torch.Generator,
) -> Matching:
    """Match channels by the named trained `weights` of two networks of one architecture.

    The order in which groups are visited is drawn from `rng`; all sums are in float64.
    """
    pairs = [
        _Pair(reference[name].detach().double(), weights[name].detach().double(), axes)
        for name, axes in groups.axes.items()
        if name in weights and weights[name].requires_grad
    ]
    given = _Search(pairs, groups.sizes, [torch.arange(size) for size in groups.sizes])
    passed = _Search(pairs, groups.sizes, [None] * len(groups.sizes))
    for group in range(len(groups.sizes)):
        passed.orders[group] = passed.best(group)
    return (passed if passed.objective() > given.objective() else given).descend(rng)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A weight of both networks."""

    reference: Tensor
    own: Tensor
    axes: tuple[Axis, ...]

    def product(self, orders: Sequence[Tensor | None]) -> float:
        """Return <W_a, P(W_b)>."""
        return float((self.reference * self._moved(orders, None)).sum())

    def products(self, orders: Sequence[Tensor | None], axis: Axis) -> Tensor | None:
        """Return the products (n, n) of the channels along an axis; None if the order along another
        one is not known yet.
        """
        if any(orders[other.group] is None for other in self.axes if other is not axis):
            return None
        own, reference = self._moved(orders, axis), self.reference
        return _by_channel(reference, axis) @ _by_channel(own, axis).t()

    def _moved(self, orders: Sequence[Tensor | None], held: Axis | None) -> Tensor:
        value = self.own
        for axis in self.axes:
            order = orders[axis.group]
            if axis is not held and order is not None:
                value = reordered(value, axis, order)
        return value


@dataclass(slots=True)
class _Search:
    """The weights, the number of channels of each group, and their orders (None: not known yet)."""

    pairs: Sequence[_Pair]
    sizes: Sequence[int]
    orders: list[Tensor | None]

    def objective(self, group: int | None = None) -> float:
        """Return the sum over the weights, or over those with channels of a group."""
        return sum(pair.product(self.orders) for pair in self._read_by(group))

    def best(self, group: int) -> Tensor:
        """Return the best order of a group, by the weights whose other channels are in order."""
        total = torch.zeros(self.sizes[group], self.sizes[group], dtype=torch.float64)
        for pair in self._read_by(group):
            for axis in pair.axes:
                if axis.group == group:
                    found = pair.products(self.orders, axis)
                    total += 0 if found is None else found.cpu()
        _, order = linear_sum_assignment(total.numpy(), maximize=True)
        return torch.from_numpy(order)

    def descend(self, rng: torch.Generator) -> Matching:
        """Improve group after group in random order, until none changes. A group is tried again
        only after one that shares a weight with it has changed.
        """
        reached, least = [self.objective()], LEAST_GAIN * self._scale()
        due = set(range(len(self.sizes)))
        while due:
            drawn = torch.randperm(len(self.sizes), generator=rng, device=rng.device).tolist()
            for group in [group for group in drawn if group in due]:
                due.discard(group)
                gain = self._improve(group, least)
                if gain > 0:
                    reached.append(reached[-1] + gain)
                    due |= self._beside(group)
        return Matching([order for order in self.orders if order is not None], reached)

    def _improve(self, group: int, least: float) -> float:
        """Take the best order of a group if it gains at least so much; return the gain, or 0.

        Where two dimensions of one weight belong to the group, the products hold one of them, so
        the best order may be worse.
        """
        before, held = self.objective(group), self.orders[group]
        self.orders[group] = self.best(group)
        gain = self.objective(group) - before
        if gain <= least:
            self.orders[group] = held
            return 0.0
        return gain

    def _read_by(self, group: int | None) -> list[_Pair]:
        return [p for p in self.pairs if group is None or group in {a.group for a in p.axes}]

    def _beside(self, group: int) -> set[int]:
        """Return the groups whose best order depends on that of a group: by a weight with both, or
        with itself along two dimensions.
        """
        return {
            other.group
            for pair in self._read_by(group)
            for axis in pair.axes
            for other in pair.axes
            if axis.group == group and other is not axis
        }

    def _scale(self) -> float:
        return sum(float(pair.reference.norm() * pair.own.norm()) for pair in self.pairs)


def _by_channel(value: Tensor, axis: Axis) -> Tensor:
    """Return a tensor as rows (n, numbers of a channel)."""
    rows = value.movedim(axis.dim, 0)
    return rows.reshape(len(rows) // axis.inner, -1)
