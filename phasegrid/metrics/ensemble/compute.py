"""The mean prediction of several networks, scored by their objective.

If the outputs z_m stand for probabilities (cross-entropy), p(y | x) = (1/M) sum_m softmax(z_m(x))_y
and loss = mean loss at log p, that is -mean log p(label | x); calibration is defined as in
`phasegrid.metrics.accuracy`. Otherwise (squared distance) loss = mean loss at (1/M) sum_m z_m(x),
and there is no calibration error. Error = share of labels that are not the argmax. If the loss is
convex, it is at most the mean of the networks' own losses (Jensen). Everything is in float64, from
logits in the networks' dtype.

Letters: M networks, N examples.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.accuracy.compute import calibration_error, kept_of
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
    """Measure the ensemble of `models`, or, if `sources` holds a curve between them, of points of
    this curve; `args` are the fields of `EnsembleArgs`.

    Exact, except for the training examples that refresh BatchNorm, which `rng` draws.

    Raises:
        MetricError: if the outputs of a network are not finite, or the stored artifact is not a
            curve.
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
    """Return the networks at points of a curve, each with its own BatchNorm statistics."""
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
    """Score each network and their mean prediction on a set."""
    objective, num = scoring.objective, len(networks)
    readers = [Reader(scoring.operations, each, partial(outputs_of, each)) for each in networks]
    own_losses, own_correct, means = [], [], []
    for inputs, labels in batches:
        target, total = labels, None
        for network, read in zip(networks, readers, strict=True):
            with evaluating(network):
                found = scoring.score(read(inputs), inputs, labels)
                read.turn()
            own_losses.append(found.losses)
            own_correct.append(found.correct)
            target, total = found.labels, objective.add_prediction(total, found.logits)
        assert total is not None
        mean = scoring.score_logits(objective.mean_prediction(total, num), inputs, target)
        means.append(kept_of(mean))
    if not math.isfinite(own := float(torch.cat(own_losses).mean())):
        raise MetricError(f"ensemble: the outputs of a network on the {name} set are not finite")
    losses, correct, confidence = (torch.cat(parts) for parts in zip(*means, strict=True))
    ece = calibration_error(confidence, correct, ece_bins) if objective.probabilities else None
    return {
        f"{name}_loss": float(losses.mean()),
        f"{name}_error_percent": _error_percent(correct),
        f"{name}_ece": ece,
        f"mean_{name}_loss": own,
        f"mean_{name}_error_percent": _error_percent(torch.cat(own_correct)),
    }


def _error_percent(correct: Tensor) -> float:
    return 100 - 100 * int(correct.sum()) / len(correct)
