"""Mine directions epsilon along which the loss falls on both sides, or has three wells (Xu et al.
2024, sections 2.4 and 2.5).

Algorithm 1, ``w_peak`` (eq. 2), begins with epsilon = 0. In epoch e of E it sets alpha = e / E, and
for each batch it draws lambda ~ U[-alpha, alpha]:

    epsilon <- epsilon - eta lambda grad L(theta + lambda epsilon).

Algorithm 2, ``vvv_basin`` (eq. 3), for each batch draws lambda ~ U[1/2 - alpha, 1/2 + alpha], and
with phi^ = (1 - lambda) theta + lambda phi

    phi <- phi - eta (grad L(phi) + gamma lambda grad L(phi^));    epsilon = phi - theta.

Both descend on sum_q c_q L(theta + s_q epsilon), with gradient sum_q c_q s_q grad L: at one point
with (c, s) = (1, lambda), or at two with (1, 1) and (gamma, lambda). Several minings run as one
stack of networks, and so do the two points of one (`phasegrid.models.flat`); they never mix.

Letters: M minings, Q points of each, P parameters, N training examples, S updates of an epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.metrics.directions import POINTS, DirectionsArgs, Mined
from phasegrid.metrics.network.fresh import fresh_vector
from phasegrid.metrics.network.points import (
    finite_or_none,
    live_network,
    train_mode_without_draws,
)
from phasegrid.metrics.network.precision import full_precision
from phasegrid.metrics.network.recording import Recorded, records_on
from phasegrid.metrics.network.stacking import choose_stacks, live_stack
from phasegrid.metrics.network.turns import Work
from phasegrid.metrics.simplex.sampling import generator_on
from phasegrid.metrics.simplex.training import Live
from phasegrid.models.fused import Blueprint
from phasegrid.models.weights import parameters_vector
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch, cut

MAX_NETWORKS = 40
"""The most networks of a stack, as in `phasegrid.metrics.simplex.growing`."""


@dataclass(slots=True)
class Mining:
    """A mining in work: its `epsilon` (P,) from the weights `theta` (P,) of `model`, and the
    generator from which it draws; and in the end its mean loss.
    """

    model: nn.Module
    theta: Tensor
    epsilon: Tensor
    rng: torch.Generator
    loss: float | None = None


def begin(
    kind: Mined, models: Sequence[nn.Module], settings: DirectionsArgs, rng: torch.Generator
) -> Mining:
    """Return a mining through the first of `models` with its first epsilon; draw what it needs.

    Algorithm 1 begins at 0. For Algorithm 2 the paper does not say: phi is a network initialised
    anew, or the second of `models` (`DirectionsArgs.start`).

    Raises:
        MetricError: if a layer cannot be initialised anew.
    """
    theta = parameters_vector(models[0])
    if kind == "w_peak":
        return Mining(models[0], theta, torch.zeros_like(theta), rng)
    if settings.start == "fresh":
        asked = "directions: vvv_basin with start: fresh; use start: to_1"
        phi = fresh_vector(models[0], rng, asked).to(theta)
    else:
        phi = parameters_vector(models[1])
    return Mining(models[0], theta, phi - theta, rng)


def live_alone(kind: Mined, model: nn.Module, data: Dataset, batch_size: int) -> Live:
    """Return the networks for the points of one mining: a stack if that is faster on a CPU, else
    one network.
    """
    if data.train_inputs.device.type == "cpu":
        for blueprint, _ in choose_joint(kind, [model], data, batch_size):
            return live_together(kind, blueprint, [model], data)
    flat = live_network(model)
    train_mode_without_draws(flat.module, data.train_inputs[:2])
    return Live(flat, data.scoring)


def choose_joint(
    kind: Mined, models: Sequence[nn.Module], data: Dataset, batch_size: int
) -> list[tuple[Blueprint, list[int]]]:
    """Say which minings, each through a model of its own, train faster as one stack."""
    return choose_stacks(models, data, batch_size, MAX_NETWORKS, POINTS[kind])


def live_together(
    kind: Mined, blueprint: Blueprint, models: Sequence[nn.Module], data: Dataset
) -> Live:
    """Return a stack of networks for all points of several minings."""
    return Live(live_stack(blueprint, models, POINTS[kind]), data.scoring)


def mine(
    kind: Mined, minings: Sequence[Mining], live: Live, data: Dataset, settings: DirectionsArgs
) -> Work[None]:
    """Do the algorithm for every mining, and note its epsilon and its mean loss over the last
    epoch, None if a number became infinite; yield after every update.

    Plain steps, without momentum and weight decay, as the algorithms state. Each epoch draws an
    order of the training examples, then lambda for all batches. The loss of a batch is the mean
    over its scored labels. BatchNorm uses the statistics of the batch, as in training: running ones
    fit no point but theta. Dropout is off. Nothing waits for the device within an epoch.
    """
    steps = _Steps(kind, minings, live, data, settings)
    draws = [generator_on(steps.epsilon.device, mining.rng) for mining in minings]
    total, seen = steps.epsilon.new_zeros(len(minings), dtype=torch.float64), 0
    for epoch in range(1, settings.epochs + 1):
        steps.begin_epoch(draws, *_bounds(kind, epoch, settings))
        for step in range(len(steps.slices)):
            losses = steps.update(step)
            if epoch == settings.epochs:
                num = steps.num_scored(step)
                total += num * losses
                seen += num
            yield
        if not bool(steps.epsilon.isfinite().all(dim=1).any()):
            break
    means = [value / seen if seen else float("nan") for value in total.tolist()]
    for mining, epsilon, mean in zip(minings, steps.epsilon, means, strict=True):
        mining.epsilon, mining.loss = epsilon.clone(), finite_or_none(mean)


def _bounds(kind: Mined, epoch: int, settings: DirectionsArgs) -> tuple[float, float]:
    """Return the lowest and the highest lambda of an epoch."""
    if kind == "w_peak":
        alpha = epoch / settings.epochs
        return -alpha, alpha
    return 0.5 - settings.alpha, 0.5 + settings.alpha


class _Steps:
    """The updates of several minings. What changes from update to update lies in tables on the
    device: the order of the examples (M, N) and lambda (S, M). So on a GPU an update is one
    recorded graph for every number of examples.
    """

    def __init__(
        self,
        kind: Mined,
        minings: Sequence[Mining],
        live: Live,
        data: Dataset,
        settings: DirectionsArgs,
    ) -> None:
        self._live, self._data, self._settings = live, data, settings
        self._theta = torch.stack([mining.theta for mining in minings])
        self.epsilon = torch.stack([mining.epsilon for mining in minings])
        self.slices = cut(len(data.train_inputs), settings.batch_size)
        device, num = self._theta.device, len(data.train_inputs)
        self._order = torch.arange(num, device=device).repeat(len(minings), 1)
        self._lambda = self._theta.new_zeros(len(self.slices), len(minings))
        weights = [1.0] if kind == "w_peak" else [1.0, settings.gamma]
        self._weights = self._theta.new_tensor(weights)
        self._steps = torch.arange(len(self.slices), device=device).unsqueeze(1)
        self._records = TASKS[data.task].one_shape and records_on(device)
        self._updates: dict[int, Recorded] = {}

    def begin_epoch(self, draws: Sequence[torch.Generator], low: float, high: float) -> None:
        """Draw the order of an epoch's examples, and lambda of every update."""
        order = self._data.operations.order
        for place, rng in enumerate(draws):
            self._order[place].copy_(order(self._order.shape[1], self.slices, rng))
            uniform = torch.rand(
                len(self.slices), generator=rng, device=rng.device, dtype=torch.float64
            )
            self._lambda[:, place].copy_(low + (high - low) * uniform)

    def update(self, step: int) -> Tensor:
        """Make an update; return the losses (M,) sum_q c_q L before it."""
        batch = self.slices[step]
        if not self._records:
            return self._update(self._order[:, batch], self._lambda[step])
        size = batch.stop - batch.start
        if size not in self._updates:
            self._updates[size] = Recorded(self._repeat, self._order.device, size)
        return self._updates[size](self._steps[step])

    def num_scored(self, step: int) -> int:
        """Return the number of scored labels of an update's batch."""
        chosen = self._order[0, self.slices[step]]
        return self._data.operations.num_scored(self._data.train_labels[chosen])

    def _repeat(self, size: int, step: Tensor) -> Tensor:
        """Make update `step` (1,) of an epoch, with `size` examples."""
        places = step * self._settings.batch_size + torch.arange(size, device=step.device)
        return self._update(self._order[:, places], self._lambda.index_select(0, step)[0])

    def _update(self, chosen: Tensor, lambdas: Tensor) -> Tensor:
        """Make an update by the `chosen` examples (M, B), with `lambdas` (M,)."""
        weights, num = self._weights, len(self._weights)
        shares = torch.ones_like(lambdas).unsqueeze(1).repeat(1, num)
        shares[:, -1] = lambdas
        with full_precision(self.epsilon.device):
            losses, grads = self._differentiate(self._batch(chosen), shares)
        grads = grads.view(len(chosen), num, -1)
        self.epsilon.sub_(torch.einsum("q,mqp->mp", weights, grads), alpha=self._settings.lr)
        return losses.view(len(chosen), num).double() @ weights.double()

    def _differentiate(self, batch: Batch, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return L(theta + s epsilon) for the `shares` s (M, Q), and s grad L there: (M Q,) and (M
        Q, P).
        """
        num = shares.shape[1]
        ends = torch.stack([self._theta, self.epsilon], dim=1).repeat_interleave(num, dim=0)
        mixes = torch.stack([torch.ones_like(shares), shares], dim=2).view(-1, 1, 2)
        if self._live.flat.strategy != "loop":
            inputs, labels = (
                part.repeat_interleave(num, dim=0) for part in (batch.inputs, batch.labels)
            )
            return self._live.differentiate(ends, mixes, Batch(inputs, labels))
        found = [
            self._live.differentiate(ends[q : q + 1], mixes[q : q + 1], batch) for q in range(num)
        ]
        losses, grads = zip(*found, strict=True)
        return torch.cat(losses), torch.cat(grads)

    def _batch(self, chosen: Tensor) -> Batch:
        data, every = self._data, chosen.flatten()
        inputs, labels = data.operations.trim(
            data.train_inputs.index_select(0, every), data.train_labels.index_select(0, every)
        )
        return Batch(
            inputs.view(*chosen.shape, *inputs.shape[1:]),
            labels.view(*chosen.shape, *labels.shape[1:]),
        )
