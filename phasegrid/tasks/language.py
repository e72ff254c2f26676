"""Running text: each word is predicted from the words before it.

Examples are windows of consecutive words, and consecutive examples are consecutive text. So a set
is read as B parallel streams, each a part of the text: batch k holds the k-th window of every
stream, in order, both in training and in evaluation (Zaremba et al. 2014, section 4.1). A network
with a method ``start(num)`` carries a state: ``start`` returns the state (B, ...) of `num` streams
at their beginning, and ``forward(inputs, state)`` returns the logits and the state at the end, with
which the next batch begins; no gradient passes through it. Without ``state`` a network reads every
window as if nothing came before, as measurements on single windows do (curvature, features,
slices).

The loss is the mean over words, and perplexity is its exponential. Letters: N windows, T words of a
window, B streams, V words of the vocabulary, M members.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrid.declare import Form, Windows
from phasegrid.tasks.batches import Cut, EpochOrder, Lengths
from phasegrid.tasks.operations import Chunk, Examples, Mix, Operations
from phasegrid.tasks.positions import LOGIT_BYTES, PositionProbe, draw_positions

STREAMS = 20
"""Number of streams in evaluation (Zaremba et al. 2014 train and validate on 20)."""

FEWEST_WINDOWS = 20
"""A stream has at least this many windows, if there are enough: it begins without a context, which
should have little weight.
"""


def side_by_side(num: int, streams: int) -> Tensor:
    """Return the order (N,) in which `num` consecutive windows are read as parallel streams; if
    they cannot be equally long, the first ones have one window more.

    >>> side_by_side(7, 3).tolist()
    [0, 3, 5, 1, 4, 6, 2]
    """
    length, longer = divmod(num, streams)
    stream = torch.arange(streams)
    starts = stream * length + stream.clamp(max=longer)
    order = starts + torch.arange(length).unsqueeze(1)
    return torch.cat([order.flatten(), starts[:longer] + length])


def perplexity(loss: float) -> float | None:
    """Return exp(`loss`) of a mean cross-entropy in nats; None if that is not finite.

    >>> perplexity(0.0), perplexity(1e4)
    (1.0, None)
    """
    try:
        value = math.exp(loss)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def text_mistakes(data: Examples) -> list[str]:
    """Return what is wrong with windows (N, T) int64 and the words after them, labels (N, T)."""
    if not isinstance(data.form, Windows):
        return [f"form is {data.form}, but running text needs a phasegrid.declare.Windows"]
    mistakes = []
    if data.num_classes != data.form.vocabulary:
        mistakes.append(
            f"num_classes is {data.num_classes}, but form.vocabulary {data.form.vocabulary}"
        )
    texts = [
        ("train", data.train_inputs, data.train_labels),
        ("test", data.test_inputs, data.test_labels),
    ]
    if len(data.aside_labels):
        texts.append(("valid", data.aside_inputs, data.aside_labels))
    for split, inputs, labels in texts:
        mistakes += _split_mistakes(split, inputs, labels, data.form)
    return mistakes


def _split_mistakes(split: str, inputs: Tensor, labels: Tensor, form: Windows) -> list[str]:
    for name, value in (("inputs", inputs), ("labels", labels)):
        if value.dtype != torch.int64 or tuple(value.shape[1:]) != (form.length,):
            return [
                f"{split}_{name} are {value.dtype} {tuple(value.shape)}, not int64 (N,"
                f" {form.length})"
            ]
    if len(inputs) != len(labels) or len(labels) == 0:
        return [f"{split} has {len(inputs)} inputs and {len(labels)} labels"]
    words = torch.cat([inputs.flatten(), labels[-1, -1:]])
    mistakes = []
    if int(words.min()) < 0 or int(words.max()) >= form.vocabulary:
        mistakes.append(
            f"{split} words run from {int(words.min())} to {int(words.max())}; allowed: 0 to"
            f" {form.vocabulary - 1}"
        )
    wrong = words[1:] != labels.flatten()
    if bool(wrong.any()):
        mistakes.append(
            f"{int(wrong.sum())} {split} labels are not the word after their input, first in window"
            f" {int(wrong.int().argmax()) // form.length}; windows must be in the order of the text"
        )
    return mistakes


def _made_up(
    _input_shape: tuple[int, ...], num_classes: int, form: Form | None, num: int
) -> list[tuple[Tensor, Tensor]]:
    """Return windows of a text whose words count up."""
    assert form is not None
    length = min(form.length, 4)
    words = torch.arange(num * length + 1) % num_classes
    return [(words[:-1].view(num, length).clone(), words[1:].view(num, length).clone())]


def _order(num: int, bounds: Sequence[slice], rng: torch.Generator) -> Tensor:
    return side_by_side(num, bounds[0].stop - bounds[0].start).to(rng.device)


def _draw_epoch(
    num: int, lengths: Lengths | None, cut: Cut, orders: Sequence[torch.Generator]
) -> EpochOrder:
    assert cut.bounds is not None
    assert lengths is not None
    length = int(lengths.positions[0])
    sizes = [length * (batch.stop - batch.start) for batch in cut.bounds]
    order = torch.stack([_order(num, cut.bounds, rng) for rng in orders])
    return EpochOrder(order, cut.bounds, sizes, [length] * len(sizes))


def _lengths(_inputs: Tensor, labels: Tensor) -> Lengths:
    length = torch.full((len(labels),), labels.shape[1])
    return Lengths(length, length)


def _cut(
    inputs: Tensor, num_classes: int, itemsize: int, batch_size: int | None = None
) -> list[Chunk]:
    """Cut a set into batches of parallel streams, whose logits take at most `LOGIT_BYTES`."""
    num, length = inputs.shape
    fits = LOGIT_BYTES // (length * num_classes * itemsize)
    streams = max(1, min(STREAMS, num // FEWEST_WINDOWS, fits, batch_size or STREAMS))
    return [*torch.split(side_by_side(num, streams).to(inputs.device), streams)]


def _probe(
    inputs: Tensor, labels: Tensor, num_classes: int, seed: int, mix: Mix | None
) -> PositionProbe:
    lengths = torch.full_like(inputs[:, 0], inputs.shape[1])
    place = draw_positions(labels, seed)
    return PositionProbe("windows of text", inputs, lengths, place, num_classes, mix)


OPERATIONS = Operations(
    mistakes=text_mistakes,
    made_up=_made_up,
    output_shape=lambda inputs, classes: ("(B, T, vocabulary)", (*inputs.shape, classes)),
    lengths=_lengths,
    order=_order,
    draw_epoch=_draw_epoch,
    trim=lambda inputs, labels: (inputs, labels),
    cut=_cut,
    by_length=lambda _inputs: None,
    scored=lambda logits, labels: (logits.flatten(1, -2), labels.flatten(1)),
    num_scored=lambda labels: labels.numel(),
    flat=lambda logits, labels: (logits.flatten(1, -2), labels.flatten(1), None),
    probe=_probe,
    carries=True,
)
