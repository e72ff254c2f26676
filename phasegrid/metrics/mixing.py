"""The inputs two networks are compared on: training examples, mixed with others or perturbed.

Yang et al. 2021 (section 2, appendix A.4.1) use interpolations of training examples ("mixup", Zhang et al. 2018), because networks
that fit their training set are trivially similar on it.
"""

import numpy as np
import torch
from torch import Tensor

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.jobs import stream_seed
from phasegrid.metrics.declared_points import CkaArgs

PUBLISHED_BATCH = 128  # the batch size of the published code's mixup loop


def draw_inputs(data: Dataset, settings: CkaArgs) -> Tensor:
    """Draw the inputs (m, ...) of a comparison: the same for every model and cell with the same data and settings.

    m is `examples`, or the size of the training set if that is smaller. Coefficients, partners and noise have streams of
    their own, so the examples do not depend on what is done to them.

    Raises:
        MetricError: if both mixup and pixel noise are asked for.
    """
    if settings.mixup_alpha is not None and settings.pixel_noise is not None:
        raise MetricError(
            f"CKA: pixel_noise {settings.pixel_noise:g} and mixup_alpha {settings.mixup_alpha:g} were "
            "both given; set mixup_alpha to null to perturb inputs by noise"
        )
    examples = _draw(data, settings.examples, settings.example_seed, "examples")
    if settings.mixup_alpha is not None:
        return _mix(data, examples, settings.mixup_alpha, settings)
    if settings.pixel_noise is not None:
        rng = torch.Generator().manual_seed(stream_seed(settings.example_seed, "pixel_noise"))
        noise = torch.rand(examples.shape, generator=rng).to(examples)
        return examples + settings.pixel_noise * data.pixel * noise
    return examples


def _mix(data: Dataset, examples: Tensor, alpha: float, settings: CkaArgs) -> Tensor:
    """x_i <- c_i x_i + (1 - c_i) x'_i with c_i from Beta(alpha, alpha)."""
    m = len(examples)
    rng = np.random.default_rng(stream_seed(settings.example_seed, "mixup"))
    if settings.mixup == "independent":
        partners = _draw(data, m, settings.example_seed, "partners")
        coefficients = rng.beta(alpha, alpha, m)
    else:
        starts = range(0, m, PUBLISHED_BATCH)
        order = [s + rng.permutation(min(PUBLISHED_BATCH, m - s)) for s in starts]
        partners = examples[torch.from_numpy(np.concatenate(order)).to(examples.device)]
        coefficients = np.repeat(rng.beta(alpha, alpha, len(starts)), PUBLISHED_BATCH)[:m]
    c = torch.from_numpy(coefficients).to(examples).view(m, *[1] * (examples.dim() - 1))
    return c * examples + (1 - c) * partners


def _draw(data: Dataset, num: int, seed: int, stream: str) -> Tensor:
    rng = torch.Generator().manual_seed(stream_seed(seed, stream))
    chosen = torch.randperm(len(data.train_inputs), generator=rng)[:num]
    return data.train_inputs[chosen.to(data.train_inputs.device)]
