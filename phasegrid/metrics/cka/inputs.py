"""The inputs two networks are compared on: training examples, mixed with others or perturbed.

Words cannot be mixed, so for sentence pairs mixup acts on what the network makes of them first: the
embedded source sentence and the embedded decoder input of a pair are mixed with a partner's,
position by position, by the model's method ``forward_mixed``.

Yang et al. 2021 (section 2, appendix A.4.1) use interpolations of training examples ("mixup", Zhang
et al. 2018), because networks that fit their training set are trivially similar on it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.jobs import stream_seed
from phasegrid.metrics.cka import CkaArgs
from phasegrid.tasks.losses import IGNORE

PUBLISHED_BATCH = 128  # the batch size of the published code's mixup loop


@dataclass(frozen=True, slots=True)
class SentencePairs:
    """m sentence pairs and the position of each to look at.

    `inputs` (m, 2, L); `positions` (m,), where the pair's label is scored; for mixup, or else None:
    `partners` (m, 2, L) and `coefficients` (m,) float64, the share of the pair itself.
    """

    inputs: Tensor
    positions: Tensor
    partners: Tensor | None
    coefficients: Tensor | None

    def take(self, chosen: Tensor, length: int) -> "SentencePairs":
        """Return some of the pairs, cut to their first `length` positions."""
        return SentencePairs(
            self.inputs[chosen, :, :length],
            self.positions[chosen],
            None if self.partners is None else self.partners[chosen, :, :length],
            None if self.coefficients is None else self.coefficients[chosen],
        )


def draw_inputs(data: Dataset, settings: CkaArgs) -> Tensor:
    """Draw the inputs (m, ...) of a comparison: the same for every model and cell with the same
    data and settings.

    m is `examples`, or the size of the training set if that is smaller. Coefficients, partners and
    noise have streams of their own, so the examples do not depend on what is done to them.

    Raises:
        MetricError: if both mixup and pixel noise are asked for.
    """
    if settings.mixup_alpha is not None and settings.pixel_noise is not None:
        raise MetricError(
            f"CKA: pixel_noise {settings.pixel_noise:g} and mixup_alpha {settings.mixup_alpha:g}"
            " were both given; set mixup_alpha to null to perturb inputs by noise"
        )
    chosen = _draw(data, settings.examples, settings.example_seed, "examples")
    examples = data.train_inputs[chosen]
    if settings.mixup_alpha is not None:
        partners, coefficients = _draw_partners(data, chosen, settings.mixup_alpha, settings)
        c = torch.from_numpy(coefficients).to(examples)
        c = c.view(len(c), *[1] * (examples.dim() - 1))
        return c * examples + (1 - c) * data.train_inputs[partners]
    if settings.pixel_noise is not None:
        rng = torch.Generator().manual_seed(stream_seed(settings.example_seed, "pixel_noise"))
        noise = torch.rand(examples.shape, generator=rng).to(examples)
        return examples + settings.pixel_noise * data.pixel * noise
    return examples


def draw_pairs(data: Dataset, settings: CkaArgs) -> SentencePairs:
    """Draw the sentence pairs of a comparison: the same for every model and cell with the same data
    and settings.

    One scored position of each pair is drawn, every one equally likely, from a stream of its own;
    partners and coefficients of mixup are drawn as for images, and the position is that of the pair
    itself, not of its partner.

    Raises:
        MetricError: if pixel noise is asked for.
    """
    if settings.pixel_noise is not None:
        raise MetricError(
            f"CKA: pixel_noise {settings.pixel_noise:g} was given for {data.name!r}, whose examples"
            " are sentence pairs and have no pixels; leave it out"
        )
    chosen = _draw(data, settings.examples, settings.example_seed, "examples")
    inputs, labels = data.train_inputs[chosen], data.train_labels[chosen]
    positions = draw_positions(labels, settings.example_seed)
    if settings.mixup_alpha is None:
        return SentencePairs(inputs, positions, None, None)
    partners, coefficients = _draw_partners(data, chosen, settings.mixup_alpha, settings)
    c = torch.from_numpy(coefficients).to(inputs.device)
    return SentencePairs(inputs, positions, data.train_inputs[partners], c)


def draw_positions(labels: Tensor, seed: int) -> Tensor:
    """Draw one scored position (m,) of each row of `labels` (m, L), every one equally likely.

    Depends on how many positions of a row are scored, not on how it is padded.
    """
    rng = torch.Generator().manual_seed(stream_seed(seed, "positions"))
    u = torch.rand(len(labels), generator=rng, dtype=torch.float64).to(labels.device)
    there = labels != IGNORE
    nth = (u * there.sum(dim=1)).long().unsqueeze(1) + 1
    return (there & (there.cumsum(dim=1) == nth)).int().argmax(dim=1)


def _draw_partners(
    data: Dataset, chosen: Tensor, alpha: float, settings: CkaArgs
) -> tuple[Tensor, NDArray[np.float64]]:
    """Draw for x_i <- c_i x_i + (1 - c_i) x'_i which training examples (m,) are x', and c_i (m,)
    from Beta(alpha, alpha).
    """
    m = len(chosen)
    rng = np.random.default_rng(stream_seed(settings.example_seed, "mixup"))
    if settings.mixup == "independent":
        partners = _draw(data, m, settings.example_seed, "partners")
        return partners, rng.beta(alpha, alpha, m)
    starts = range(0, m, PUBLISHED_BATCH)
    order = [s + rng.permutation(min(PUBLISHED_BATCH, m - s)) for s in starts]
    partners = chosen[torch.from_numpy(np.concatenate(order)).to(chosen.device)]
    return partners, np.repeat(rng.beta(alpha, alpha, len(starts)), PUBLISHED_BATCH)[:m]


def _draw(data: Dataset, num: int, seed: int, stream: str) -> Tensor:
    """Draw which training examples, (num,), without replacement; all of them if there are fewer."""
    rng = torch.Generator().manual_seed(stream_seed(seed, stream))
    chosen = torch.randperm(len(data.train_inputs), generator=rng)[:num]
    return chosen.to(data.train_inputs.device)
