"""Draw the inputs on which two networks are compared: training examples, mixed with others or
perturbed.

The task decides how examples are mixed (`phasegrid.tasks`): arrays are mixed themselves, sentence
pairs by the embeddings of their words.

Yang et al. 2021 (section 2, appendix A.4.1) use interpolations of training examples ("mixup", Zhang
et al. 2018), because networks that fit their training set are trivially similar on it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.keys import stream_seed
from phasegrid.metrics.cka import CkaArgs
from phasegrid.tasks import TASKS
from phasegrid.tasks.operations import Mix, Probe

PUBLISHED_BATCH = 128  # the batch size of the published code's mixup loop


def draw_probe(data: Dataset, settings: CkaArgs) -> Probe:
    """Draw the examples of a comparison: the same for every model and cell with the same data and
    settings.

    There are `examples` of them, or as many as the training set has. Coefficients, partners and
    noise have random streams of their own, so the choice of examples does not depend on them. If an
    example has several labels, one is chosen (each is equally likely); this choice does not depend
    on them either.

    Raises:
        MetricError: if both mixup and pixel noise are requested, or noise for examples without
            pixels.
    """
    chosen = _draw(data, settings.examples, settings.example_seed, "examples")
    inputs, labels = data.train_inputs[chosen], data.train_labels[chosen]
    if settings.pixel_noise is not None:
        inputs = _with_noise(data, inputs, settings)
    mix = None
    if settings.mixup_alpha is not None:
        partners, coefficients = _draw_partners(data, chosen, settings.mixup_alpha, settings)
        shares = torch.from_numpy(coefficients).to(inputs.device)
        mix = Mix(data.train_inputs[partners], shares)
    seed = settings.example_seed
    return data.operations.probe(inputs, labels, data.num_classes, seed, mix)


def _with_noise(data: Dataset, inputs: Tensor, settings: CkaArgs) -> Tensor:
    assert settings.pixel_noise is not None
    if not TASKS[data.task].pixels:
        raise MetricError(
            f"CKA: pixel_noise {settings.pixel_noise:g} was given for {data.name!r}, whose examples"
            f" are {TASKS[data.task].examples} and have no pixels; leave it out"
        )
    if settings.mixup_alpha is not None:
        raise MetricError(
            f"CKA: pixel_noise {settings.pixel_noise:g} and mixup_alpha {settings.mixup_alpha:g}"
            " were both given; set mixup_alpha to null to perturb inputs by noise"
        )
    rng = torch.Generator().manual_seed(stream_seed(settings.example_seed, "pixel_noise"))
    noise = torch.rand(inputs.shape, generator=rng).to(inputs)
    return inputs + settings.pixel_noise * data.pixel * noise


def _draw_partners(
    data: Dataset, chosen: Tensor, alpha: float, settings: CkaArgs
) -> tuple[Tensor, NDArray[np.float64]]:
    """For x_i <- c_i x_i + (1 - c_i) x'_i, draw which training examples (m,) are the x'_i, and draw
    c_i (m,) from Beta(alpha, alpha).
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
    """Draw the indices of `num` training examples without replacement; all of them if there are
    fewer.
    """
    rng = torch.Generator().manual_seed(stream_seed(seed, stream))
    chosen = torch.randperm(len(data.train_inputs), generator=rng)[:num]
    return chosen.to(data.train_inputs.device)
