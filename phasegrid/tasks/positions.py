"""Handle examples with a label at each of several positions: cut batches, and choose one position
of each example at which networks are compared.

Letters: N examples, m of a probe, L positions of an example, l positions of a batch, V words.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phasegrid.errors import MetricError
from phasegrid.keys import stream_seed
from phasegrid.tasks.operations import Chunk, Mix
from phasegrid.tasks.tokens import IGNORE

LOGIT_BYTES = 64 * 2**20
"""The most bytes for the logits of a batch: 32 examples of 50 positions with 10,000 words, in
float32.
"""


def longest_first(lengths: Tensor) -> Tensor:
    """Return the order (N,) of examples by falling `lengths` (N,); equal ones keep their order."""
    return lengths.argsort(descending=True, stable=True)


def length_batches(
    lengths: Tensor, num_words: int, itemsize: int, most: int | None = None
) -> list[Tensor]:
    """Split examples, by falling `lengths` (N,), into batches of indices. A batch has at most
    `most` examples, and its logits take at most `LOGIT_BYTES`.

    The logits of a batch of n examples are (n, l, V), where l is its greatest length. An example
    whose logits take more has a batch of its own.

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


def draw_positions(labels: Tensor, seed: int) -> Tensor:
    """Draw one scored position (m,) of each row of `labels` (m, L), every one equally likely.

    The draw depends on the number of scored positions of a row, not on its padding.
    """
    rng = torch.Generator().manual_seed(stream_seed(seed, "positions"))
    u = torch.rand(len(labels), generator=rng, dtype=torch.float64).to(labels.device)
    there = labels != IGNORE
    nth = (u * there.sum(dim=1)).long().unsqueeze(1) + 1
    return (there & (there.cumsum(dim=1) == nth)).int().argmax(dim=1)


@dataclass(frozen=True, slots=True)
class PositionProbe:
    """m examples, called `what` in messages, and one position of each.

    `inputs` (m, ..., L); `lengths` (m,), the number of used positions; `positions` (m,), where a
    label is scored. Words cannot be mixed, so a `mix` acts on their embeddings, position by
    position, by the model's method ``forward_mixed``. The position is that of the example itself,
    not of its partner.
    """

    what: str
    inputs: Tensor
    lengths: Tensor
    positions: Tensor
    num_words: int
    mix: Mix | None = None

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.inputs)

    def chunks(self, itemsize: int, batch_size: int | None) -> list[Chunk]:
        """Cut the examples into batches of like length."""
        return [*length_batches(self.lengths, self.num_words, itemsize, batch_size)]

    def run(self, module: nn.Module, chunk: Chunk) -> Tensor:
        """Return the logits (n, l, V) of some examples, mixed with any partners they have."""
        used = int(self.lengths[chunk].max())
        inputs = self.inputs[chunk][..., :used]
        if self.mix is None:
            outputs: Tensor = module(inputs.clone())
            return outputs
        forward_mixed = getattr(module, "forward_mixed", None)
        if forward_mixed is None:
            raise MetricError(
                f"CKA: mixup of {self.what} mixes their embeddings, by a method"
                f" forward_mixed(inputs_a, inputs_b, coefficients) that {type(module).__name__}"
                " does not have; add it, or set mixup_alpha: null"
            )
        shares = self.mix.shares[chunk].to(next(module.parameters()).dtype)
        mixed: Tensor = forward_mixed(inputs, self.mix.partners[chunk][..., :used], shares)
        return mixed

    def rows(self, name: str, output: Tensor, chunk: Chunk) -> Tensor:
        """Return the rows (n, d) of `output` (n, l, d) at the positions of the examples."""
        n, used = len(self.positions[chunk]), int(self.lengths[chunk].max())
        if output.dim() != 3 or output.shape[:2] != (n, used):
            raise MetricError(
                f"CKA: layer {name!r} gives outputs of shape {tuple(output.shape)} for {n}"
                f" {self.what} of {used} positions; a compared layer must give (examples,"
                f" positions, features)"
            )
        return output[torch.arange(n, device=output.device), self.positions[chunk]]
