"""Sentence pairs: each target word is predicted from the source sentence and the true words before
it (teacher forcing).

A label (N, L) is scored if it is not `IGNORE`; logits are (N, L, V). Means are over scored labels,
so a long sentence weighs more than a short one (the usual token-level loss of Vaswani et al. 2017).
Letters: N pairs, L positions, l positions of a batch, V words of the target vocabulary, M members.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrid.declare import Form
from phasegrid.tasks.batches import Cut, EpochOrder, Lengths, draw_order, draw_orders
from phasegrid.tasks.operations import Chunk, Mix, Operations
from phasegrid.tasks.pair_checks import pair_mistakes
from phasegrid.tasks.positions import (
    PositionProbe,
    draw_positions,
    length_batches,
    longest_first,
)
from phasegrid.tasks.tokens import IGNORE, PADDING

POOL_BATCHES = 100
"""Pairs are sorted by length within pools of about this many batches, so that batches have little
padding.
"""


def positions_used(inputs: Tensor) -> Tensor:
    """Count the positions (N,) that each pair of `inputs` (N, 2, L) uses: the tokens of its longer
    sentence.
    """
    place = torch.arange(1, inputs.shape[2] + 1, device=inputs.device)
    return ((inputs != PADDING) * place).flatten(1).amax(dim=1)


def token_batches(longest: Tensor, batch_tokens: int, order: torch.Generator) -> list[Tensor]:
    """Cut a random order of sentences into batches of like length, in random order; each is a
    tensor of indices.

    `longest` (N,) are lengths in tokens. A random permutation is cut into pools of about
    `POOL_BATCHES` batches. Each pool is sorted by length and cut so that in a batch, the number of
    sentences times the greatest length is at most `batch_tokens`. Then the batches are shuffled.
    Every sentence is in one batch.

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
    """Cut sentences of rising length into batches of at most `batch_tokens` tokens."""
    starts = [0]
    for i, length in enumerate(lengths):
        if (i + 1 - starts[-1]) * length > batch_tokens:
            starts.append(i)
    return [index[a:b] for a, b in zip(starts, [*starts[1:], len(index)], strict=True)]


def _made_up(
    _input_shape: tuple[int, ...], num_classes: int, form: Form | None, num: int
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs that repeat one word."""
    assert form is not None
    length = min(form.length, 4)
    labels = torch.full((num, length), 1 % num_classes)
    return [(torch.ones((num, 2, length), dtype=torch.int64), labels)]


def _output_shape(inputs: Tensor, num_classes: int) -> tuple[str, tuple[int, ...]]:
    return "(B, L, target vocabulary)", (len(inputs), inputs.shape[2], num_classes)


def _lengths(inputs: Tensor, labels: Tensor) -> Lengths:
    return Lengths(positions_used(inputs).cpu(), (labels != IGNORE).sum(dim=1).cpu())


def _draw_epoch(
    num: int, lengths: Lengths | None, cut: Cut, orders: Sequence[torch.Generator]
) -> EpochOrder:
    assert lengths is not None
    if cut.bounds is not None:
        order, bounds = draw_orders(num, orders), cut.bounds
    else:
        assert len(orders) == 1  # several members would need equal padding
        batches = token_batches(lengths.positions, cut.positions, orders[0])
        ends = torch.tensor([len(batch) for batch in batches]).cumsum(0).tolist()
        bounds = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        order = torch.cat(batches).unsqueeze(0)
    sizes = [int(lengths.scored[order[0, batch]].sum()) for batch in bounds]
    widths = [int(lengths.positions[order[0, batch]].max()) for batch in bounds]
    return EpochOrder(order, bounds, sizes, widths)


def _trim(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    used = int((inputs != PADDING).any(dim=0).any(dim=0).nonzero().max()) + 1
    return inputs[..., :used], labels[..., :used]


def _scored(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    assert len(labels) == 1  # several members would score different positions
    there = labels != IGNORE
    return logits[there].unsqueeze(0), labels[there].unsqueeze(0)


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    flat = labels.flatten(1)
    there = flat != IGNORE
    return logits.flatten(1, -2), flat.where(there, PADDING), there


def _cut(
    inputs: Tensor, num_classes: int, itemsize: int, batch_size: int | None = None
) -> list[Chunk]:
    return [*length_batches(positions_used(inputs), num_classes, itemsize, batch_size)]


def _probe(
    inputs: Tensor, labels: Tensor, num_classes: int, seed: int, mix: Mix | None
) -> PositionProbe:
    lengths = positions_used(inputs)
    if mix is not None:
        lengths = lengths.maximum(positions_used(mix.partners))
    place = draw_positions(labels, seed)
    return PositionProbe("sentence pairs", inputs, lengths, place, num_classes, mix)


OPERATIONS = Operations(
    mistakes=pair_mistakes,
    made_up=_made_up,
    output_shape=_output_shape,
    lengths=_lengths,
    order=draw_order,
    draw_epoch=_draw_epoch,
    trim=_trim,
    cut=_cut,
    by_length=lambda inputs: longest_first(positions_used(inputs)),
    scored=_scored,
    num_scored=lambda labels: int((labels != IGNORE).sum()),
    flat=_flat,
    probe=_probe,
)
