"""One epoch of a stack: every member's own permutation, batches, draws and losses.

A member's draws come from its own generators on the CPU, so they are the same alone and in a pack, on any device. Letters: M
members, N training examples, B examples of a batch, C classes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phasegrid.datasets.augmenting import FlipCropDraws, apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.jobs import stream_seed
from phasegrid.optimizing import step
from phasegrid.recipe import Recipe
from phasegrid.schedules import schedule_factor
from phasegrid.stacking import Stack

GATHER_BYTES = 32 * 2**20
"""Batches are gathered this many bytes at a time: an epoch of a small set is one gather."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What one member of a stack is fed: data on the device, its streams of random numbers, its rates."""

    data: Dataset
    seed: int
    order: torch.Generator
    augment: torch.Generator
    lr: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class EpochNumbers:
    """What one member's epoch gave.

    Loss and accuracy are means over the examples seen, each at the weights of its own update. `bad_update` is the number, from 0
    within the epoch, of the first update whose loss is not finite, or the last one if only the weights are not.
    """

    lr: float
    train_loss: float
    train_accuracy_percent: float
    bad_update: int | None


@dataclass(frozen=True, slots=True)
class Scores:
    """What a chunk of consecutive updates gave, still on the device.

    Per member (M,): summed loss in float64, right answers, and the first example whose loss is not finite (the number
    of examples if all are). `first_update` counts from 0 within the epoch, `sizes` are the examples of each update.
    """

    loss: Tensor
    correct: Tensor
    bad_example: Tensor
    first_update: int
    sizes: Sequence[int]

    def bad_updates(self) -> list[int | None]:
        """Return for each member the first update whose loss is not finite."""
        ends = list(accumulate(self.sizes))
        found = [bisect_right(ends, example) for example in self.bad_example.tolist()]
        return [None if i == len(ends) else self.first_update + i for i in found]


def batch_bounds(num: int, batch_size: int, drop_last: bool, join_single: bool) -> list[slice]:
    """Cut an epoch of `num` examples into batches.

    The last incomplete batch is kept unless `drop_last`. With `join_single` (BatchNorm, which cannot take one
    example) a last batch of one example joins the batch before it.

    Raises:
        ValueError: if a batch is larger than the data set.
    """
    if batch_size > num:
        raise ValueError(
            f"cannot draw batches of {batch_size} from {num} training examples; "
            f"batch_size must be at most {num}"
        )
    starts = list(range(0, num, batch_size))
    end = num
    if num % batch_size and drop_last:
        end = starts.pop()
    elif num % batch_size == 1 and join_single:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], end], strict=True)]


def run_epoch(
    stack: Stack, feeds: Sequence[Feed], recipe: Recipe, bounds: Sequence[slice], epoch: int
) -> list[EpochNumbers]:
    """Train a stack for one epoch, `epoch` counted from 0, and return every member's numbers.

    `recipe` holds what the members share; their `lr` and `weight_decay` are those of the feeds.
    """
    lr = stack.per_element([feed.lr for feed in feeds])
    weight_decay = stack.per_element([feed.weight_decay for feed in feeds])
    total, done, factor = recipe.epochs * len(bounds), epoch * len(bounds), 1.0
    scores: list[Scores] = []
    precision = _autocast(recipe, stack.weights.device)
    with _member_noise(stack, feeds[0], epoch):
        for chunk in _gathered(feeds, bounds):
            outputs: list[Tensor] = []
            first = done - epoch * len(bounds)
            for inputs, labels in chunk:
                factor = schedule_factor(recipe.schedule, done, len(bounds), total)
                outputs.append(_backward(stack, inputs, labels, recipe, precision))
                step(
                    recipe, stack.weights, stack.grads, stack.slots, lr, weight_decay, factor, done
                )
                done += 1
            labels_seen = [labels for _, labels in chunk]
            scores.append(_score(outputs, labels_seen, recipe.label_smoothing, first))
    return _summarize(stack, feeds, scores, factor)


def _backward(
    stack: Stack,
    inputs: Tensor,
    labels: Tensor,
    recipe: Recipe,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Put every member's gradient of its mean loss into ``stack.grads``; return the logits (M, B, C)."""
    stack.grads.zero_()
    with precision():
        logits = stack.forward(inputs)
        loss = cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            reduction="sum",
            label_smoothing=recipe.label_smoothing,
        )
    (loss / labels.shape[1]).backward()  # type: ignore[no-untyped-call]
    return logits.detach()


def _gathered(
    feeds: Sequence[Feed], bounds: Sequence[slice]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield chunks of consecutive batches (inputs (M, B, *S), labels (M, B)), each chunk gathered at once."""
    num = len(feeds[0].data.train_inputs)
    orders = torch.stack([torch.randperm(num, generator=feed.order) for feed in feeds])
    orders = orders.to(feeds[0].data.train_inputs.device)
    example = feeds[0].data.train_inputs[0]
    batch_bytes = len(feeds) * (bounds[0].stop - bounds[0].start) * example.nbytes
    per_chunk = max(1, GATHER_BYTES // batch_bytes)
    draws = _draws(feeds, num)
    for first in range(0, len(bounds), per_chunk):
        part = bounds[first : first + per_chunk]
        whole = slice(part[0].start, part[-1].stop)
        inputs, labels = _gather(feeds, orders[:, whole])
        if draws is not None:
            inputs = _augmented(feeds, inputs, draws, whole)
        local = [slice(b.start - whole.start, b.stop - whole.start) for b in part]
        yield [(inputs[:, b], labels[:, b]) for b in local]


def _gather(feeds: Sequence[Feed], index: Tensor) -> tuple[Tensor, Tensor]:
    """Take each member's examples, (M, n, *S) and (M, n)."""
    data = [feed.data for feed in feeds]
    if all(d.train_inputs is data[0].train_inputs for d in data):
        inputs = data[0].train_inputs[index]
    else:
        inputs = torch.stack([d.train_inputs[i] for d, i in zip(data, index, strict=True)])
    labels = torch.stack([d.train_labels[i] for d, i in zip(data, index, strict=True)])
    return inputs, labels


def _draws(feeds: Sequence[Feed], num: int) -> list[Tensor] | None:
    """Draw an epoch's augmentation, one draw per example in the order of the epoch; each tensor is (M, N)."""
    if feeds[0].data.augment == "none":
        return None
    device = feeds[0].data.train_inputs.device
    drawn = [draw_flip_crop(num, feed.augment) for feed in feeds]
    return [torch.stack(kind).to(device) for kind in zip(*drawn, strict=True)]


def _augmented(
    feeds: Sequence[Feed], inputs: Tensor, draws: Sequence[Tensor], part: slice
) -> Tensor:
    """Augment all members' examples (M, n, C, H, W) at once; `part` says which of the epoch they are."""
    num = inputs.shape[1]
    padding = torch.cat([feed.data.padding.expand(num, *feed.data.padding.shape) for feed in feeds])
    mine = FlipCropDraws(*[draw[:, part].flatten() for draw in draws])
    return apply_flip_crop(inputs.flatten(0, 1), mine, padding).view(inputs.shape)


def _score(
    outputs: list[Tensor], labels: list[Tensor], label_smoothing: float, first_update: int
) -> Scores:
    """Score a chunk of logits at once, in float64; cheaper than per update, and nothing waits for the device."""
    sizes = [y.shape[1] for y in labels]
    logits, target = torch.cat(outputs, dim=1), torch.cat(labels, dim=1)
    losses = cross_entropy(
        logits.flatten(0, 1).double(),
        target.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(target.shape)
    bad = ~torch.isfinite(losses)
    bad_example = torch.where(bad.any(1), bad.int().argmax(1), sum(sizes))
    right = (logits.argmax(dim=2) == target).sum(1)
    return Scores(losses.sum(1), right, bad_example, first_update, sizes)


def _summarize(
    stack: Stack, feeds: Sequence[Feed], scores: Sequence[Scores], factor: float
) -> list[EpochNumbers]:
    num = sum(sum(score.sizes) for score in scores)
    updates = sum(len(score.sizes) for score in scores)
    losses = torch.stack([score.loss for score in scores]).sum(0).tolist()
    correct = torch.stack([score.correct for score in scores]).sum(0).tolist()
    bad_by_chunk = [score.bad_updates() for score in scores]
    numbers = []
    for i, (feed, finite) in enumerate(zip(feeds, stack.finite(), strict=True)):
        found = [bad[i] for bad in bad_by_chunk if bad[i] is not None]
        bad_update = found[0] if found else (None if finite else updates - 1)
        numbers.append(
            EpochNumbers(feed.lr * factor, losses[i] / num, 100 * correct[i] / num, bad_update)
        )
    return numbers


def _autocast(recipe: Recipe, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    if recipe.precision != "bf16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def _member_noise(stack: Stack, feed: Feed, epoch: int) -> AbstractContextManager[Any]:
    """Give a lone member's dropout its own draws, whatever ran before; stacked networks have none."""
    if stack.strategy != "loop":
        return nullcontext()
    return _seeded(stream_seed(feed.seed, f"noise/{epoch}"), stack.weights.device)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the device's own generator for a while and leave it as it was."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        if on_gpu:
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield
