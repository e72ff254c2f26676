"""One epoch of a stack: every member's batches, updates and losses.

Letters: M members, B examples of a batch, K scored labels, C classes.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from phasegrid.keys import stream_seed
from phasegrid.seeding import seeded_draws
from phasegrid.tasks import TASKS
from phasegrid.tasks.batches import Batch, Cut
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.losses import Criterion
from phasegrid.tasks.operations import operations_of
from phasegrid.tasks.scoring import training_losses
from phasegrid.train.aside import own_part
from phasegrid.train.batches import Chunk, DataStream, feed_epoch
from phasegrid.train.objectives import training_criterion
from phasegrid.train.optimizers import clip, rates_at, step
from phasegrid.train.precision import autocast_of, tensor_float_32
from phasegrid.train.recipe import Recipe
from phasegrid.train.schedules import Moment, factor_of
from phasegrid.train.sharpness import sharpen
from phasegrid.train.stack import Stack


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

    def bad_updates(self) -> list[int | None]:
        """Return for each member the first update whose loss is not finite."""
        ends = list(accumulate(self.sizes))
        found = [bisect_right(ends, example) for example in self.bad_example.tolist()]
        return [None if i == len(ends) else self.first_update + i for i in found]


def run_epoch(
    stack: Stack,
    feeds: Sequence[DataStream],
    recipe: Recipe,
    cut: Cut,
    epoch: int,
    done: int,
    before: int = 0,
    watch: Callable[[int], None] | None = None,
) -> list[EpochNumbers]:
    """Train a stack for one epoch and return every member's results.

    `epoch` counts from 0, and `done` updates have been made before it; the optimizer has made
    `before` more in an earlier training. `watch` is called after each update with the number of
    updates done. `recipe` holds the fields that the members share; `lr` and `weight_decay` are
    taken from the feeds. `cut` cuts the epoch into batches. The epoch ends early when the recipe's
    `updates` are reached.
    """
    network, slots = stack.network, stack.slots
    lr = network.per_element([feed.lr for feed in feeds])
    decay = network.per_element([feed.weight_decay for feed in feeds])
    most = None if recipe.updates is None else recipe.updates - done
    task, objective = feeds[0].data.task, training_criterion(recipe)
    batches_an_epoch = len(cut.bounds or ())
    total = recipe.updates or recipe.epochs * batches_an_epoch
    first_of_epoch, factor, factor_at = done, 1.0, factor_of(recipe.schedule)
    scores: list[Scores] = []
    read = Reader(operations_of(task), network.module, network.forward)
    gradient_pass = _make_pass(stack, read, task, objective, recipe)
    with tensor_float_32(recipe.precision == "tf32"), _member_noise(stack, feeds[0], epoch):
        for chunk in feed_epoch(feeds, cut, most):
            stack.keep_example(chunk.whole.inputs)
            outputs: list[Tensor] = []
            first = done - first_of_epoch
            for batch, size in zip(chunk.batches, chunk.sizes, strict=True):
                factor = factor_at(Moment(done, total, epoch, batches_an_epoch))
                outputs.append(gradient_pass(batch, size))
                read.turn()
                rates = rates_at(recipe, lr, decay, factor, before + done)
                step(recipe, network.weights, network.grads, slots, lr, decay, rates)
                if stack.mask is not None:
                    network.weights.mul_(stack.mask)
                done += 1
                if watch is not None:
                    watch(done)
            scores.append(_score(outputs, chunk, task, objective, first))
    return _summarize(stack, feeds, scores, factor)


def run_update(stack: Stack, batch: Batch, task: str, recipe: Recipe) -> None:
    """Make one update of a stack on a batch of examples of a task, as if it were the recipe's
    first.
    """
    network = stack.network
    lr, decay = recipe.lr, recipe.weight_decay
    read = Reader(operations_of(task), network.module, network.forward)
    gradient_pass = _make_pass(stack, read, task, training_criterion(recipe), recipe)
    with tensor_float_32(recipe.precision == "tf32"):
        gradient_pass(batch, batch.labels.shape[1])
        rates = rates_at(recipe, lr, decay, 1.0, 0)
        step(recipe, network.weights, network.grads, stack.slots, lr, decay, rates)


def _make_pass(
    stack: Stack, read: Reader, task: str, objective: Criterion, recipe: Recipe
) -> Callable[[Batch, int], Tensor]:
    """Return a function of a batch and the number of its scored labels. It writes every member's
    gradient of its mean loss over these labels into ``grads``, and returns the logits (M, B, ...,
    C) at the weights. With `sam` the gradient is taken at the worst point nearby; with `clip_norm`
    it is then clipped.
    """
    network, operations, recorder = stack.network, operations_of(task), stack.recorder
    autocast = autocast_of(recipe.precision, network.weights.device)

    def differentiate(batch: Batch, size: int) -> Tensor:
        with autocast():
            logits = read(batch.inputs)
            losses = training_losses(operations, objective, logits, batch)
        network.differentiate(losses, torch.full_like(losses, 1 / size))
        if stack.mask is not None:  # neither SAM's steps nor momentum leave the pruned network
            network.grads.mul_(stack.mask)
        return logits.detach()

    def gradient_pass(batch: Batch, size: int) -> Tensor:
        logits = differentiate(batch, size)
        if recipe.sam is not None:
            again = partial(differentiate, batch, size)
            sharpen(again, network.weights, *network.views(), network.buffers, recipe.sam)
        if recipe.clip_norm is not None:
            clip(network.views()[1], recipe.clip_norm)
        return logits

    if recorder is None or not TASKS[task].one_shape:
        return gradient_pass

    def recorded(batch: Batch, size: int) -> Tensor:
        def on_tensors(inputs: Tensor, labels: Tensor, *extra: Tensor) -> Tensor:
            named = dict(zip(batch.extra, extra, strict=True))
            return gradient_pass(Batch(inputs, labels, named), size)

        return recorder.run(on_tensors, batch.inputs, batch.labels, *batch.extra.values())

    return recorded


def _score(
    outputs: list[Tensor],
    chunk: Chunk,
    task: str,
    objective: Criterion,
    first_update: int,
) -> Scores:
    """Score a chunk of logits at once in float64. This is cheaper than per update, and does not
    wait for the device.
    """
    logits, labels = operations_of(task).scored(torch.cat(outputs, dim=1), chunk.whole.labels)
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
) -> list[EpochNumbers]:
    num = sum(score.num for score in scores)
    updates = sum(len(score.sizes) for score in scores)
    losses = torch.stack([score.loss for score in scores]).sum(0).tolist()
    correct = torch.stack([score.correct for score in scores]).sum(0).tolist()
    bad_by_chunk = [score.bad_updates() for score in scores]
    numbers = []
    for i, (feed, finite) in enumerate(zip(feeds, stack.network.finite(), strict=True)):
        found = [bad[i] for bad in bad_by_chunk if bad[i] is not None]
        bad_update = found[0] if found else (None if finite else updates - 1)
        numbers.append(
            EpochNumbers(
                feed.lr * factor, losses[i] / num, 100 * correct[i] / num, bad_update, updates
            )
        )
    return numbers


def _member_noise(stack: Stack, feed: DataStream, epoch: int) -> AbstractContextManager[Any]:
    """Seed what a lone member draws (dropout, say) by its own seed, whatever ran before. Stacked
    networks draw nothing.
    """
    if stack.network.strategy != "loop":
        return nullcontext()
    return seeded_draws(stream_seed(feed.seed, f"noise/{epoch}"), stack.network.weights.device)
