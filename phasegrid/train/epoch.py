"""One epoch of a stack: every member's batches, updates and losses.

Letters: M members, B examples of a batch, K scored labels, C classes.
"""

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from phasegrid.keys import stream_seed
from phasegrid.models.flat import FlatNetwork
from phasegrid.seeding import seeded_draws
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch, Cut, parts_of
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.losses import Criterion
from phasegrid.tasks.operations import operations_of
from phasegrid.tasks.scoring import training_losses
from phasegrid.train.aside import own_part
from phasegrid.train.batches import Chunk, DataStream, feed_epoch
from phasegrid.train.lanes import read_out
from phasegrid.train.objectives import training_criterion
from phasegrid.train.optimizers import Rate, clip, rates_at, step
from phasegrid.train.precision import autocast_of, tensor_float_32
from phasegrid.train.recipe import Recipe
from phasegrid.train.schedules import Moment, factor_of
from phasegrid.train.sharpness import sharpen
from phasegrid.train.stack import Stack
from phasegrid.train.updates import GradientPass, Updates


@dataclass(frozen=True, slots=True)
class EpochNumbers:
    """The results of one member's epoch.

    Loss and accuracy are means over the scored labels seen, each at the weights of its own update;
    examples set aside do not count. `bad_update` counts from 0 within the epoch's `num_updates`:
    the first update with a loss that is not finite, or the last update if only the weights are not
    finite.
    """

    lr: float
    train_loss: float
    train_accuracy_percent: float
    bad_update: int | None
    num_updates: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The results of a chunk of consecutive updates, still on the device.

    Per member (M,): the loss in float64, summed over `num` labels; the number of right answers; and
    the first label whose loss is not finite (the number of labels if all are finite).
    `first_update` counts from 0 within the epoch; `sizes` are the numbers of scored labels of each
    update.
    """

    loss: Tensor
    correct: Tensor
    bad_example: Tensor
    first_update: int
    sizes: Sequence[int]
    num: int

    def bad_update(self, bad_example: int) -> int | None:
        """Return the update of the first label whose loss is not finite, if there is one."""
        ends = list(accumulate(self.sizes))
        i = bisect_right(ends, bad_example)
        return None if i == len(ends) else self.first_update + i


def run_epoch(
    stack: Stack,
    feeds: Sequence[DataStream],
    recipe: Recipe,
    cut: Cut,
    epoch: int,
    done: int,
    before: int = 0,
    watch: Callable[[int], None] | None = None,
) -> Generator[bool, None, list[EpochNumbers]]:
    """Train a stack for one epoch and return every member's results. On a GPU, yield after each
    update that is launched, and while waiting for results, so that others can be launched.

    `epoch` counts from 0, and `done` updates have been made before it; the optimizer has made
    `before` more in an earlier training. `watch` is called after each update with the number of
    updates done. `recipe` holds the fields that the members share; `lr` and `weight_decay` are
    taken from the feeds. `cut` cuts the epoch into batches. The epoch ends early when the recipe's
    `updates` are reached.
    """
    most = None if recipe.updates is None else recipe.updates - done
    task, objective = feeds[0].data.task, training_criterion(recipe)
    factor_of_update = _factors(recipe, cut, epoch, done)
    network = stack.network
    lr = network.per_element([feed.lr for feed in feeds])
    decay = network.per_element([feed.weight_decay for feed in feeds])
    launch = _Launch.of(stack, recipe, task, lr, decay)
    if launch.updates is not None:
        num = len(cut.bounds or ())
        factors = [factor_of_update(i) for i in range(num if most is None else min(num, most))]
        launch.updates.begin_epoch(factors, before + done)
    scores: list[Scores] = []
    i, factor = 0, 1.0
    recorded = launch.updates is not None
    with nullcontext() if recorded else _settings(stack, feeds[0], recipe, epoch):
        for chunk in feed_epoch(feeds, cut, most):
            stack.keep_example(chunk.whole.inputs)
            launch.load(chunk)
            first = i
            for batch, size in zip(chunk.batches, chunk.sizes, strict=True):
                factor = factor_of_update(i)
                launch.update(batch, size, factor, before + done + i)
                i += 1
                if watch is not None:
                    watch(done + i)
                if recorded:
                    yield False
            scores.append(_score(launch.logits(), chunk, task, objective, first))
    return (yield from _summarize(stack, feeds, scores, factor))


def run_chunk(stack: Stack, chunk: Chunk, task: str, recipe: Recipe) -> Iterator[None]:
    """Make the updates of a chunk of examples of a task, as if they were the recipe's first; yield
    after each.
    """
    launch = _Launch.of(stack, recipe, task, recipe.lr, recipe.weight_decay)
    if launch.updates is not None:
        launch.updates.begin_epoch([1.0] * len(chunk.batches), 0)
    launch.load(chunk)
    for i, (batch, size) in enumerate(zip(chunk.batches, chunk.sizes, strict=True)):
        with tensor_float_32(recipe.precision == "tf32"):
            launch.update(batch, size, 1.0, i)
        yield


@dataclass(slots=True)
class _Launch:
    """How the updates of a stack are launched: one by one, or, if they repeat exactly, as
    `updates`.
    """

    stack: Stack
    recipe: Recipe
    read: Reader
    gradient_pass: GradientPass
    lr: Rate
    decay: Rate
    updates: Updates | None
    _num: int = 0
    _outputs: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, stack: Stack, recipe: Recipe, task: str, lr: Rate, decay: Rate) -> "_Launch":
        network = stack.network
        read = Reader(operations_of(task), network.module, network.forward)
        gradient_pass = _make_pass(network, stack.mask, read, task, recipe)
        if stack.updates is None and stack.recorder is not None and TASKS[task].one_shape:
            parts = network, stack.slots, stack.mask, stack.recorder
            stack.updates = Updates(*parts, recipe, gradient_pass, lr, decay)
        return cls(stack, recipe, read, gradient_pass, lr, decay, stack.updates)

    def load(self, chunk: Chunk) -> None:
        """Take the examples of the next updates."""
        self._num, self._outputs = chunk.whole.labels.shape[1], []
        if self.updates is not None:
            self.updates.load(chunk)

    def update(self, batch: Batch, size: int, factor: float, update: int) -> None:
        """Make an update on the next batch, which has `size` scored labels."""
        if self.updates is not None:
            self.updates.run(batch, size)
            return
        network, recipe, lr, decay = self.stack.network, self.recipe, self.lr, self.decay
        self._outputs.append(self.gradient_pass(batch, size))
        self.read.turn()
        rates = rates_at(recipe, lr, decay, factor, update)
        step(recipe, network.weights, network.grads, self.stack.slots, lr, decay, rates)
        if self.stack.mask is not None:
            network.weights.mul_(self.stack.mask)

    def logits(self) -> Tensor:
        """Return the logits (M, B, ..., C) of the updates since `load`."""
        if self.updates is not None:
            return self.updates.logits(self._num)
        return torch.cat(self._outputs, dim=1)


def _factors(recipe: Recipe, cut: Cut, epoch: int, done: int) -> Callable[[int], float]:
    """Return the function from an update of an epoch to the factor of its learning rate."""
    batches_an_epoch = len(cut.bounds or ())
    total = recipe.updates or recipe.epochs * batches_an_epoch
    factor_at = factor_of(recipe.schedule)
    return lambda i: factor_at(Moment(done + i, total, epoch, batches_an_epoch))


def _make_pass(
    network: FlatNetwork, mask: Tensor | None, read: Reader, task: str, recipe: Recipe
) -> GradientPass:
    """Return a function of a batch and the number of its scored labels. It writes every member's
    gradient of its mean loss over these labels into ``grads``, and returns the logits (M, B, ...,
    C) at the weights. With `accumulate` the gradients of parts of it are added up. With `sam`
    the gradient is taken at the worst point nearby; with `clip_norm` it is then clipped.
    """
    operations, objective = operations_of(task), training_criterion(recipe)
    autocast = autocast_of(recipe.precision, network.weights.device)

    def of_part(batch: Batch, size: int) -> Tensor:
        with autocast():
            logits = read(batch.inputs)
            losses = training_losses(operations, objective, logits, batch)
        network.differentiate(losses, torch.full_like(losses, 1 / size))
        return logits

    def differentiate(batch: Batch, size: int) -> Tensor:
        first, *others = parts_of(batch, recipe.accumulate)
        logits = of_part(first, size)
        for part in others:
            before = network.grads.clone()
            logits = torch.cat([logits.detach(), of_part(part, size)], dim=1)
            network.grads.add_(before)
        if mask is not None:  # neither SAM's steps nor momentum leave the pruned network
            network.grads.mul_(mask)
        return logits.detach()

    def gradient_pass(batch: Batch, size: int) -> Tensor:
        logits = differentiate(batch, size)
        if recipe.sam is not None:
            again = partial(differentiate, batch, size)
            sharpen(again, network.weights, *network.views(), network.buffers, recipe.sam)
        if recipe.clip_norm is not None:
            clip(network.views()[1], recipe.clip_norm)
        return logits

    return gradient_pass


def _score(
    outputs: Tensor,
    chunk: Chunk,
    task: str,
    objective: Criterion,
    first_update: int,
) -> Scores:
    """Score a chunk of logits at once in float64. This is cheaper than per update, and does not
    wait for the device.
    """
    logits, labels = operations_of(task).scored(outputs, chunk.whole.labels)
    losses = objective(logits.double(), replace(chunk.whole, labels=labels))
    bad = ~torch.isfinite(losses)
    bad_example = torch.where(bad.any(1), bad.int().argmax(1), sum(chunk.sizes))
    num = sum(chunk.sizes)
    if chunk.own is not None:
        own, num = own_part(chunk.whole, chunk.own), len(chunk.own)
        logits, labels = logits.index_select(1, chunk.own), own.labels
        losses = objective(logits.double(), own)
    right = (logits.argmax(dim=2) == labels).sum(1)
    return Scores(losses.sum(1), right, bad_example, first_update, chunk.sizes, num)


def _summarize(
    stack: Stack, feeds: Sequence[DataStream], scores: Sequence[Scores], factor: float
) -> Generator[bool, None, list[EpochNumbers]]:
    num = sum(score.num for score in scores)
    updates = sum(len(score.sizes) for score in scores)
    rows = [
        torch.stack([score.loss for score in scores]).sum(0),
        torch.stack([score.correct for score in scores]).sum(0).double(),
        stack.network.are_finite().double(),
        *[score.bad_example.double() for score in scores],
    ]
    read = yield from read_out(torch.stack(rows, dim=1))
    numbers = []
    for feed, (loss, correct, finite, *bad) in zip(feeds, read, strict=True):
        found = [score.bad_update(int(at)) for score, at in zip(scores, bad, strict=True)]
        bad_updates = [update for update in found if update is not None]
        bad_update = bad_updates[0] if bad_updates else (None if finite else updates - 1)
        numbers.append(
            EpochNumbers(
                feed.lr * factor, loss / num, 100 * int(correct) / num, bad_update, updates
            )
        )
    return numbers


@contextmanager
def _settings(stack: Stack, feed: DataStream, recipe: Recipe, epoch: int) -> Iterator[None]:
    """Set what the whole process shares: TF32, and the generators that a lone member draws from
    (dropout, say), by its own seed, whatever ran before. Stacked networks draw nothing.

    Recorded updates draw nothing either. Others are launched between them, so that each allows TF32
    itself.
    """
    drawn: AbstractContextManager[None] = nullcontext()
    if stack.network.strategy == "loop":
        seed = stream_seed(feed.seed, f"noise/{epoch}")
        drawn = seeded_draws(seed, stack.network.weights.device)
    with tensor_float_32(recipe.precision == "tf32"), drawn:
        yield
