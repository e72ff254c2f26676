"""Sentence pairs: each target word is predicted from the source sentence and the true words before
it (teacher forcing).

What is scored is a label (N, L) that is not `IGNORE`; logits are (N, L, V). Means are over scored
labels, so a long sentence weighs more than a short one (the usual token-level loss of Vaswani et
al. 2017). Letters: N pairs, L positions, l positions that a batch takes, V words of the target
vocabulary, M members.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.declare import Form
from phasegrid.errors import MetricError
from phasegrid.jobs import stream_seed
from phasegrid.tasks.batches import Cut, EpochOrder, Lengths, draw_orders
from phasegrid.tasks.operations import Chunk, Mix, Operations
from phasegrid.tasks.pair_checks import pair_mistakes
from phasegrid.tasks.tokens import IGNORE, PADDING

LOGIT_BYTES = 64 * 2**20
"""What the logits of a batch may take: 32 pairs of 50 positions with 10,000 words, in float32."""

POOL_BATCHES = 100
"""Pairs are sorted by length within pools of about so many batches, so that batches of tokens hold
little padding.
"""


def positions_used(inputs: Tensor) -> Tensor:
    """Count the positions (N,) that each pair of `inputs` (N, 2, L) uses: those of its longer
    sentence.
    """
    place = torch.arange(1, inputs.shape[2] + 1, device=inputs.device)
    return ((inputs != PADDING) * place).flatten(1).amax(dim=1)


def longest_first(lengths: Tensor) -> Tensor:
    """Return the order (N,) of pairs by falling `lengths` (N,); equal ones stay in their order."""
    return lengths.argsort(descending=True, stable=True)


def length_batches(
    lengths: Tensor, num_words: int, itemsize: int, most: int | None = None
) -> list[Tensor]:
    """Split pairs, by falling `lengths` (N,), into batches of indices whose logits take at most
    `LOGIT_BYTES`, and of at most so many pairs.

    The logits of a batch of n pairs are (n, l, V) with l its longest sentence; a pair that takes
    more alone is alone.

    >>> [batch.tolist() for batch in length_batches(torch.tensor([3, 9, 3]), 2**20, 4)]
    [[1], [0, 2]]
    """
    order = longest_first(lengths)
    falling = lengths[order].tolist()
    sizes: list[int] = []
    start = 0
    while start < len(falling):
        fits = max(1, LOGIT_BYTES // (falling[start] * num_words * itemsize))
        sizes.append(min(fits, most or fits, len(falling) - start))
        start += sizes[-1]
    return list(torch.split(order, sizes))


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


def draw_positions(labels: Tensor, seed: int) -> Tensor:
    """Draw one scored position (m,) of each row of `labels` (m, L), every one equally likely.

    Depends on how many positions of a row are scored, not on how it is padded.
    """
    rng = torch.Generator().manual_seed(stream_seed(seed, "positions"))
    u = torch.rand(len(labels), generator=rng, dtype=torch.float64).to(labels.device)
    there = labels != IGNORE
    nth = (u * there.sum(dim=1)).long().unsqueeze(1) + 1
    return (there & (there.cumsum(dim=1) == nth)).int().argmax(dim=1)


@dataclass(frozen=True, slots=True)
class PairProbe:
    """m pairs and the position of each to look at.

    `inputs` (m, 2, L); `positions` (m,), where the pair's label is scored. Words cannot be mixed,
    so a `mix` acts on what the network makes of them first, position by position, by the model's
    method ``forward_mixed``; the position is that of the pair itself, not of its partner.
    """

    inputs: Tensor
    positions: Tensor
    num_words: int
    mix: Mix | None = None

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.inputs)

    def chunks(self, itemsize: int, batch_size: int | None) -> list[Chunk]:
        """Cut the pairs into batches of like length."""
        return [*length_batches(self._lengths(), self.num_words, itemsize, batch_size)]

    def run(self, module: nn.Module, chunk: Chunk) -> Tensor:
        """Return the logits (n, l, V) of some pairs, mixed with their partners where they have
        some.
        """
        used = int(self._lengths()[chunk].max())
        inputs = self.inputs[chunk, :, :used]
        if self.mix is None:
            outputs: Tensor = module(inputs.clone())
            return outputs
        forward_mixed = getattr(module, "forward_mixed", None)
        if forward_mixed is None:
            raise MetricError(
                "CKA: mixup of sentence pairs mixes their embeddings, by a method"
                f" forward_mixed(inputs_a, inputs_b, coefficients) that {type(module).__name__} does"
                " not have; add it, or set mixup_alpha: null"
            )
        shares = self.mix.shares[chunk].to(next(module.parameters()).dtype)
        mixed: Tensor = forward_mixed(inputs, self.mix.partners[chunk, :, :used], shares)
        return mixed

    def rows(self, name: str, output: Tensor, chunk: Chunk) -> Tensor:
        """Return the rows (n, d) of `output` (n, l, d) at the positions of the pairs."""
        n, used = len(self.positions[chunk]), int(self._lengths()[chunk].max())
        if output.dim() != 3 or output.shape[:2] != (n, used):
            raise MetricError(
                f"CKA: layer {name!r} gives outputs of shape {tuple(output.shape)} for {n} sentence"
                f" pairs of {used} positions; one to compare translation models by gives (pairs,"
                " positions, features)"
            )
        return output[torch.arange(n, device=output.device), self.positions[chunk]]

    def _lengths(self) -> Tensor:
        lengths = positions_used(self.inputs)
        return lengths if self.mix is None else lengths.maximum(positions_used(self.mix.partners))


def _cut_to_tokens(index: Tensor, lengths: Sequence[int], batch_tokens: int) -> list[Tensor]:
    """Cut sentences of rising length into batches of at most so many tokens."""
    starts = [0]
    for i, length in enumerate(lengths):
        if (i + 1 - starts[-1]) * length > batch_tokens:
            starts.append(i)
    return [index[a:b] for a, b in zip(starts, [*starts[1:], len(index)], strict=True)]


def _made_up(
    _input_shape: tuple[int, ...], num_classes: int, form: Form | None, num: int
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of one word, repeated."""
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
        assert len(orders) == 1  # batches of several members would have to be padded alike
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
    assert len(labels) == 1  # of several members other positions would be scored
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
) -> PairProbe:
    return PairProbe(inputs, draw_positions(labels, seed), num_classes, mix)


OPERATIONS = Operations(
    mistakes=pair_mistakes,
    made_up=_made_up,
    output_shape=_output_shape,
    lengths=_lengths,
    draw_epoch=_draw_epoch,
    trim=_trim,
    cut=_cut,
    by_length=lambda inputs: longest_first(positions_used(inputs)),
    scored=_scored,
    num_scored=lambda labels: int((labels != IGNORE).sum()),
    flat=_flat,
    probe=_probe,
)
