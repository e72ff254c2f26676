"""Pass networks over whole sets, and keep what they answer.

The artifact ``predictions`` holds ``test`` (M, N, C), the logits of M networks on the N examples of
the test set in its order (of all corrupted sets, one after another), likewise ``aside`` if the data
set sets examples aside and ``train`` if asked. In float64 it says where the networks are: on a
curve ``t`` (M,), on a complex of V vertices their ``coefficients`` (M, V).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from phasegrid.datasets.corrupting import shifted
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.measured import Measured, Source
from phasegrid.metrics.network.left import Refresh
from phasegrid.metrics.network.points import Row
from phasegrid.metrics.predictions import PredictionsArgs
from phasegrid.metrics.predictions.networks import networks_behind
from phasegrid.models.evaluation import predict


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> Measured:
    """Return the logits of a model; or of points of the curve or complex of `models` in `sources`,
    or of networks drawn from the moments there. `args` are the fields of `PredictionsArgs`.

    Exact for these networks; `rng` draws them, and the training examples that refresh BatchNorm.

    Raises:
        MetricError: if the outputs of a network are not finite, or the stored artifact is not what
            its name says.
        DataError: if the test images cannot be corrupted.
    """
    settings = PredictionsArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    data = shifted(data, settings)
    networks: Iterable[nn.Module] = models
    left: dict[str, Tensor] = {}
    if sources:
        refresh = Refresh(settings.refresh_examples, settings.refresh_augment)
        num, scale = settings.points, settings.scale
        networks, where = networks_behind(
            models, sources[0], num, refresh, data, rng, "predictions", scale
        )
        left |= where
    sets = {"test": data.test_inputs}
    if settings.train:
        sets["train"] = data.train_inputs
    if len(data.aside_labels):
        sets["aside"] = data.aside_inputs
    found: dict[str, list[Tensor]] = {name: [] for name in sets}
    for network in networks:
        for name, inputs in sets.items():
            found[name].append(_logits(network, name, inputs))
    left |= {name: torch.stack(several) for name, several in found.items()}
    row: Row = {"num_networks": len(left["test"])}
    for name in ("train", "test", "aside"):
        row[f"num_{name}"] = left[name].shape[1] if name in left else 0
    return Measured(row, {"predictions": left})


def _logits(network: nn.Module, name: str, inputs: Tensor) -> Tensor:
    """Return the logits (N, C) of a network on a set, in its dtype."""
    logits = predict(network, inputs)
    if not bool(logits.isfinite().all()):
        raise MetricError(f"predictions: the outputs on the {name} set are not finite")
    return logits
