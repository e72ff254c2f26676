"""The mean prediction of several networks, scored by their objective.

If the outputs z_m stand for probabilities (cross-entropy), p(y | x) = (1/M) sum_m softmax(z_m(x))_y
and loss = mean loss at log p, that is -mean log p(label | x); calibration is defined as in
`phasegrid.metrics.accuracy`, and the Brier score is the mean of sum_c (p(c | x) - 1[c = label])^2
(Brier 1950). Otherwise (squared distance) loss = mean loss at (1/M) sum_m z_m(x), and there are
neither. Error = share of labels that are not the argmax. If the loss is convex, it is at most the
mean of the networks' own losses (Jensen). Everything is in float64, from logits in the networks'
dtype.

Letters: M networks, N examples, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from phasegrid.datasets.corrupting import in_sets, shifted
from phasegrid.datasets.corruptions import num_test_sets
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.connectivity.left import networks_along, read_curve
from phasegrid.metrics.ensemble import EnsembleArgs
from phasegrid.metrics.ensemble.judging import Judged, error_percent, judge
from phasegrid.metrics.ensemble.members import Member, live_members, stored_members
from phasegrid.metrics.ensemble.scaling import fitted_temperature
from phasegrid.metrics.measured import Source
from phasegrid.metrics.network.points import Row
from phasegrid.models.evaluation import predict
from phasegrid.seeding import nothing_drawn

STORED = "predictions"
"""The metric through which an ensemble is planned where it takes the task of the data."""


def compute(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source] = (),
    **args: object,
) -> Row:
    """Measure the ensemble of the networks whose stored predictions are `sources`. If they are not
    stored (text): of `models`, or, if `sources` holds a curve between them, of points of this
    curve. `args` are the fields of `EnsembleArgs`.

    Exact, except for the training examples that refresh BatchNorm on a curve, which `rng` draws.

    Raises:
        MetricError: if the outputs of a network are not finite, the stored artifact is not a curve,
            or the predictions cannot be scaled.
        DataError: if the test images cannot be corrupted.
    """
    settings = EnsembleArgs(**args)  # type: ignore[arg-type]  # the sweep reader has checked them
    if not sources or sources[0].metric != STORED:
        data = shifted(data, settings)
        with nothing_drawn("ensemble", data.train_inputs.device):
            return _of_networks(models, data, rng, sources, settings)
    data = in_sets(data, settings)
    names = ["train"] * settings.train + ["test"] + ["aside"] * (settings.scaling != "none")
    if any(name not in source.tensors for source in sources for name in names):
        raise MetricError(
            "ensemble: its networks have no stored predictions on all of the sets"
            f" {', '.join(names)}"
        )
    logits = {name: torch.cat([source.tensors[name] for source in sources]) for name in names}
    row: Row = {"num_networks": len(logits["test"])}
    if "t" in sources[0].tensors:
        row["t"] = sources[0].tensors["t"].tolist()
    if all(source.epochs for source in sources):
        row["first_epochs"] = _epochs_of_first([source.epochs for source in sources])
    for name in names:
        if name != "aside":
            row |= _measured(name, stored_members(logits[name]), data, settings)
    return row | (_scaled(logits, data, settings) if settings.scaling != "none" else {})


def _epochs_of_first(epochs: Sequence[Mapping[str, float]]) -> list[float | None]:
    """Return how many epochs the first 1, 2, ... networks have taken together: a training of
    several of them counts once, up to the last.
    """
    trained: dict[str, float] = {}
    taken: list[float | None] = []
    for behind in epochs:
        trained |= {key: max(num, trained.get(key, 0.0)) for key, num in behind.items()}
        taken.append(sum(trained.values()))
    return taken


def _of_networks(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source],
    settings: EnsembleArgs,
) -> Row:
    """Measure networks by passing them forward."""
    networks = models
    row: Row = {}
    if sources:
        curve = read_curve(models, sources, "ensemble")
        t = torch.linspace(0, 1, settings.points, dtype=torch.float64)
        row["t"] = t.tolist()
        networks = list(networks_along(curve, t, models[0], data, settings.refresh_examples, rng))
    row["num_networks"] = len(networks)
    for name in ["train"] * settings.train + ["test"]:
        row |= _measured(name, live_members(networks, data), data, settings)
    if settings.scaling == "none":
        return row
    if not len(data.aside_labels):
        raise MetricError("ensemble: temperatures are fitted to examples set aside; there are none")
    sets = {"test": data.test_inputs, "aside": data.aside_inputs}
    logits = {s: torch.stack([predict(n, x) for n in networks]) for s, x in sets.items()}
    return row | _scaled(logits, data, settings)


def _measured(name: str, members: Sequence[Member], data: Dataset, settings: EnsembleArgs) -> Row:
    """Return the columns of a set; those of parts of the ensemble too for the test set."""
    judged = _judged(name, members, data)
    row = _whole(name, judged, data, settings) | {
        f"{name}_disagreement": judged.disagreement(),
        f"mean_{name}_loss": float(judged.own_losses.mean()),
        f"mean_{name}_error_percent": error_percent(judged.votes == judged.labels),
    }
    if name != "test":
        return row
    return row | {
        "member_test_loss": judged.own_losses.mean(dim=1).tolist(),
        "member_test_error_percent": judged.errors_percent(judged.votes),
        "first_test_error_percent": judged.errors_percent(judged.first),
        "with_first_test_error_percent": judged.errors_percent(judged.with_first),
    }


def _scaled(logits: Mapping[str, Tensor], data: Dataset, settings: EnsembleArgs) -> Row:
    """Return the columns of the ensemble of the members, each divided by its own temperature."""
    if not data.objective.probabilities:
        raise MetricError("ensemble: the objective has no probabilities, so nothing can be scaled")
    temperatures = [fitted_temperature(own, data.aside_labels) for own in logits["aside"]]
    scaled = [own.double() / t for own, t in zip(logits["test"], temperatures, strict=True)]
    judged = _judged("test", stored_members(scaled), data)
    return _whole("scaled_test", judged, data, settings) | {
        "scaled_member_test_loss": judged.own_losses.mean(dim=1).tolist(),
        "member_scale": temperatures,
    }


def _judged(name: str, members: Sequence[Member], data: Dataset) -> Judged:
    """Score members on a set; parts of the ensemble too on the test set."""
    sets = {
        "train": (data.train_inputs, data.train_labels),
        "test": (data.test_inputs, data.test_labels),
    }
    batches = list(data.scoring.batches(*sets[name], torch.float64.itemsize))
    found = judge(members, batches, data.scoring, in_parts=name == "test")
    if not bool(found.own_losses.mean().isfinite()):
        raise MetricError(f"ensemble: the outputs of a network on the {name} set are not finite")
    return found


def _whole(name: str, judged: Judged, data: Dataset, settings: EnsembleArgs) -> Row:
    """Return the columns of the mean prediction."""
    probable = data.objective.probabilities
    sets = 1 if name == "train" else num_test_sets(asdict(settings))
    return {
        f"{name}_loss": float(judged.losses.mean()),
        f"{name}_error_percent": error_percent(judged.correct),
        f"{name}_ece": judged.ece(settings.ece_bins, sets) if probable else None,
        f"{name}_brier": float(judged.brier.mean()) if probable else None,
    }
