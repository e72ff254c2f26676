"""The mean of the softmax outputs of several networks.

p(y | x) = (1/M) sum_m softmax(z_m(x))_y; loss = -mean log p(label | x); error = share of labels
that are not argmax p; calibration as `phasegrid.metrics.accuracy`. By Jensen's inequality the loss
is at most the mean of the networks' own. Everything is in float64, from logits in the networks'
dtype.

Letters: M networks, N scored labels of a batch, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy.compute import calibration_error
from phasegrid.metrics.connectivity.left import read_curve
from phasegrid.metrics.ensemble import EnsembleArgs
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.points import Row, live_network, make_evaluator
from phasegrid.models.network_state import evaluating, outputs_of
from phasegrid.models.weights import refresh_batch_norm
from phasegrid.seeding import nothing_drawn
from phasegrid.tasks.carrying import Reader
from phasegrid.tasks.scoring import Scoring


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> Row:
    """Measure the ensemble of `models`, or of points of the curve between them that is in
    `sources`; `args` are the fields of `EnsembleArgs`.

    Exact but for the training examples that BatchNorm is refreshed with, which `rng` draws.

    Raises:
        MetricError: if the outputs of a network are not finite, or what was left is no curve.
    """
    settings = EnsembleArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    with nothing_drawn("ensemble", data.train_inputs.device):
        networks: Sequence[nn.Module] = models
        if sources:
            networks = _on_curve(models, data, rng, sources, settings)
        row: Row = {"num_networks": len(networks)}
        for name, inputs, labels in (
            ("train", data.train_inputs, data.train_labels),
            ("test", data.test_inputs, data.test_labels),
        ):
            batches = list(data.scoring.batches(inputs, labels, torch.float64.itemsize))
            row |= _judged(name, networks, batches, data.scoring, settings.ece_bins)
    return row


def _on_curve(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source],
    settings: EnsembleArgs,
) -> list[nn.Module]:
    """Return the networks at points of a curve, with BatchNorm statistics of their own."""
    curve = read_curve(models, sources, "ensemble")
    evaluator = make_evaluator(
        models[0], data, settings.refresh_examples, int(curve.args["batch_size"]), rng
    )
    networks = []
    for coefficients in curve.coefficients(
        torch.linspace(0, 1, settings.points, dtype=torch.float64)
    ):
        flat = live_network(models[0])
        curve.place(flat, coefficients)
        if evaluator.refresh_inputs is not None:
            refresh_batch_norm(flat.module, evaluator.refresh_inputs, evaluator.batch_size)
        networks.append(flat.module)
    return networks


def _judged(
    name: str,
    networks: Sequence[nn.Module],
    batches: Sequence[tuple[Tensor, Tensor]],
    scoring: Scoring,
    ece_bins: int,
) -> Row:
    loss, own_loss, own_right, num = 0.0, 0.0, 0, 0
    readers = [Reader(scoring.operations, each, partial(outputs_of, each)) for each in networks]
    confidence: list[Tensor] = []
    right: list[Tensor] = []
    for inputs, labels in batches:
        target = labels
        total: Tensor | None = None
        for log_p, target in _outputs(networks, readers, inputs, labels, scoring):
            own_loss += float(nll_loss(log_p, target, reduction="sum"))
            own_right += int((log_p.argmax(dim=1) == target).sum())
            total = log_p if total is None else torch.logaddexp(total, log_p)
        assert total is not None
        log_mean = total - math.log(len(networks))
        loss += float(nll_loss(log_mean, target, reduction="sum"))
        confidence.append(log_mean.amax(dim=1).exp())
        right.append(log_mean.argmax(dim=1) == target)
        num += len(target)
    if not math.isfinite(own_loss):
        raise MetricError(f"ensemble: the outputs of a network on the {name} set are not finite")
    correct = torch.cat(right)
    own = num * len(networks)
    return {
        f"{name}_loss": loss / num,
        f"{name}_error_percent": 100 - 100 * int(correct.sum()) / num,
        f"{name}_ece": calibration_error(torch.cat(confidence), correct, ece_bins),
        f"mean_{name}_loss": own_loss / own,
        f"mean_{name}_error_percent": 100 - 100 * own_right / own,
    }


def _outputs(
    networks: Sequence[nn.Module],
    readers: Sequence[Reader],
    inputs: Tensor,
    labels: Tensor,
    scoring: Scoring,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the log-probabilities (N, C) of each network at the scored labels (N,)."""
    for network, read in zip(networks, readers, strict=True):
        with evaluating(network):
            outputs = read(inputs)
            read.turn()
        logits, target = scoring.operations.scored(outputs.unsqueeze(0), labels.unsqueeze(0))
        yield logits[0].double().log_softmax(dim=1), target[0]
