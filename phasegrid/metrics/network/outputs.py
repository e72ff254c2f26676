"""What a network says about inputs, batch by batch, in eval mode.

Letters: N examples or sentence pairs, L positions of a sentence, V words of the target vocabulary.
"""

import torch
from torch import Tensor, nn

from phasegrid.models.network_state import evaluating, outputs_of
from phasegrid.models.weights import evaluation_batch

LOGIT_BYTES = 64 * 2**20  # what the logits of a batch of sentence pairs may take


def predict(module: nn.Module, inputs: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the outputs (N, ...) of `module` in eval mode on `inputs` (N, ...); modes and buffers
    are restored.
    """
    size = batch_size or evaluation_batch(inputs)
    with evaluating(module):
        return torch.cat([outputs_of(module, batch) for batch in torch.split(inputs, size)])


def sentence_lengths(inputs: Tensor) -> Tensor:
    """Count the positions (N,) that each sentence pair of `inputs` (N, 2, L) uses: those of its
    longer sentence.
    """
    place = torch.arange(1, inputs.shape[2] + 1, device=inputs.device)
    return ((inputs != 0) * place).flatten(1).amax(dim=1)


def longest_first(lengths: Tensor) -> Tensor:
    """Return the order (N,) of sentence pairs by falling `lengths` (N,); equal ones stay in their
    order.
    """
    return lengths.argsort(descending=True, stable=True)


def sentence_batches(lengths: Tensor, vocabulary: int, bytes_per_logit: int) -> list[Tensor]:
    """Split sentence pairs, by falling `lengths` (N,), into batches of indices whose logits take at
    most `LOGIT_BYTES`.

    The logits of a batch of n pairs are (n, l, V) with l its longest sentence; a pair that takes
    more alone is alone.

    >>> [batch.tolist() for batch in sentence_batches(torch.tensor([3, 9, 3]), 2**20, 4)]
    [[1], [0, 2]]
    """
    order = longest_first(lengths)
    falling = lengths[order].tolist()
    sizes: list[int] = []
    start = 0
    while start < len(falling):
        most = LOGIT_BYTES // (falling[start] * vocabulary * bytes_per_logit)
        sizes.append(min(max(1, most), len(falling) - start))
        start += sizes[-1]
    return list(torch.split(order, sizes))
