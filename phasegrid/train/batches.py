"""What a stack is fed in one epoch: every member's own order, batches and augmentation.

A member's draws come from its own generators on the CPU, so they are the same alone and in a pack,
on any device. Letters: M members, N training examples, B examples of a batch, L tokens of the
longest sentence, n consecutive batches' examples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phasegrid.datasets.augmenting import FlipCropDraws, apply_flip_crop, draw_flip_crop
from phasegrid.datasets.dataset import Dataset
from phasegrid.tasks.losses import IGNORE

GATHER_BYTES = 32 * 2**20
"""Batches are gathered this many bytes at a time: an epoch of a small set is one gather."""

POOL_BATCHES = 100
"""Sentence pairs are sorted by length within pools of about so many batches, so that batches of
tokens hold little padding.
"""

Batch = tuple[Tensor, Tensor]
"""Inputs (M, B, *S) and labels (M, B), or (M, B, L) for sentence pairs."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """How long the training sentences are, on the CPU, (N,) int64: the longer of source and target,
    and the scored tokens.
    """

    longest: Tensor
    scored: Tensor


@dataclass(frozen=True, slots=True)
class DataStream:
    """What one member of a stack is fed: data on the device, its streams of random numbers, its
    rates.

    `sentences` are those of the data, for sentence pairs only.
    """

    data: Dataset
    seed: int
    order: torch.Generator
    augment: torch.Generator
    lr: float
    weight_decay: float
    sentences: Sentences | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive batches gathered at once; `sizes` are the scored labels of one member in each of
    them.
    """

    batches: list[Batch]
    sizes: list[int]


def measure_sentences(data: Dataset) -> Sentences | None:
    """Measure the training sentences of a data set; None where there are none."""
    if data.tokens is None:
        return None
    longest = (data.train_inputs != 0).sum(dim=2).amax(dim=1)
    return Sentences(longest.cpu(), (data.train_labels != IGNORE).sum(dim=1).cpu())


def batch_bounds(num: int, batch_size: int, drop_last: bool, join_single: bool) -> list[slice]:
    """Cut an epoch of `num` examples into batches.

    The last incomplete batch is kept unless `drop_last`. With `join_single` (BatchNorm, which
    cannot take one example) a last batch of one example joins the batch before it.

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


def token_batches(longest: Tensor, batch_tokens: int, order: torch.Generator) -> list[Tensor]:
    """Cut a random order of sentences into batches of like length, in random order; each is a
    tensor of indices.

    `longest` (N,) are lengths in tokens. A random permutation is cut into pools of about
    `POOL_BATCHES` batches, each is sorted by length and cut so that the sentences of a batch times
    its longest is at most `batch_tokens`; then the batches are shuffled. Every sentence is in one
    batch.

    Raises:
        ValueError: if a sentence is longer than a batch.
    """
    most = int(longest.max())
    if most > batch_tokens:
        raise ValueError(
            f"cannot draw batches of {batch_tokens} tokens: a sentence has {most}; batch_size must"
            f" be at least {most}"
        )
    mean = float(longest.double().mean())
    pool = max(1, round(POOL_BATCHES * batch_tokens / mean))
    batches: list[Tensor] = []
    for part in torch.split(torch.randperm(len(longest), generator=order), pool):
        by_length = part[longest[part].argsort(stable=True)]
        batches += _cut_to_tokens(by_length, longest[by_length].tolist(), batch_tokens)
    return [batches[i] for i in torch.randperm(len(batches), generator=order).tolist()]


def _cut_to_tokens(index: Tensor, lengths: Sequence[int], batch_tokens: int) -> list[Tensor]:
    """Cut sentences of rising length into batches of at most so many tokens."""
    starts = [0]
    for i, length in enumerate(lengths):
        if (i + 1 - starts[-1]) * length > batch_tokens:
            starts.append(i)
    return [index[a:b] for a, b in zip(starts, [*starts[1:], len(index)], strict=True)]


def feed_epoch(
    feeds: Sequence[DataStream], bounds: Sequence[slice], batch_tokens: int | None, most: int | None
) -> Iterator[Chunk]:
    """Yield the batches of one epoch, at most `most` of them.

    Examples are cut by `bounds`; or, where `batch_tokens` is given, the sentences of a lone member
    by their tokens.
    """
    if feeds[0].sentences is not None:
        yield from _sentence_chunks(feeds, bounds, batch_tokens, most)
    else:
        yield from _array_chunks(feeds, bounds[:most])


def _sentence_chunks(
    feeds: Sequence[DataStream], bounds: Sequence[slice], batch_tokens: int | None, most: int | None
) -> Iterator[Chunk]:
    assert len(feeds) == 1  # sentences of several members would have to be padded alike
    data, sentences = feeds[0].data, feeds[0].sentences
    assert sentences is not None
    if batch_tokens is None:
        order = torch.randperm(len(data.train_inputs), generator=feeds[0].order)
        batches = [order[part] for part in bounds]
    else:
        batches = token_batches(sentences.longest, batch_tokens, feeds[0].order)
    for index in batches[:most]:
        used = int(sentences.longest[index].max())
        on_device = index.to(data.train_inputs.device)
        inputs = data.train_inputs[on_device][..., :used]
        labels = data.train_labels[on_device][..., :used]
        yield Chunk([(inputs[None], labels[None])], [int(sentences.scored[index].sum())])


def _array_chunks(feeds: Sequence[DataStream], bounds: Sequence[slice]) -> Iterator[Chunk]:
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
        yield Chunk(
            [(inputs[:, b], labels[:, b]) for b in local], [b.stop - b.start for b in local]
        )


def _gather(feeds: Sequence[DataStream], index: Tensor) -> Batch:
    """Take each member's examples, (M, n, *S) and (M, n)."""
    data = [feed.data for feed in feeds]
    if all(d.train_inputs is data[0].train_inputs for d in data):
        # 2 to 4 times faster than [index]
        every = data[0].train_inputs.index_select(0, index.flatten())
        inputs = every.view(*index.shape, *every.shape[1:])
    else:
        inputs = torch.stack(
            [d.train_inputs.index_select(0, i) for d, i in zip(data, index, strict=True)]
        )
    labels = torch.stack([d.train_labels[i] for d, i in zip(data, index, strict=True)])
    return inputs, labels


def _draws(feeds: Sequence[DataStream], num: int) -> list[Tensor] | None:
    """Draw an epoch's augmentation, one draw per example in the order of the epoch; each tensor is
    (M, N).
    """
    if feeds[0].data.augment == "none":
        return None
    device = feeds[0].data.train_inputs.device
    drawn = [draw_flip_crop(num, feed.augment) for feed in feeds]
    return [torch.stack(kind).to(device) for kind in zip(*drawn, strict=True)]


def _augmented(
    feeds: Sequence[DataStream], inputs: Tensor, draws: Sequence[Tensor], part: slice
) -> Tensor:
    """Augment all members' examples (M, n, C, H, W) at once; `part` says which of the epoch they
    are.
    """
    num = inputs.shape[1]
    padding = torch.cat([feed.data.padding.expand(num, *feed.data.padding.shape) for feed in feeds])
    mine = FlipCropDraws(*[draw[:, part].flatten() for draw in draws])
    return apply_flip_crop(inputs.flatten(0, 1), mine, padding).view(inputs.shape)
