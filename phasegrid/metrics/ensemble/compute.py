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
from itertools import accumulate

import torch
from torch import Tensor, nn

from phasegrid.datasets.corrupting import in_sets, shifted
from phasegrid.datasets.corruptions import num_test_sets
from phasegrid.datasets.dataset import Dataset
from phasegrid.errors import MetricError
from phasegrid.metrics.ensemble import EnsembleArgs
from phasegrid.metrics.ensemble.judging import Judged, error_percent, judge
from phasegrid.metrics.ensemble.members import Member, live_members, stored_members
from phasegrid.metrics.ensemble.scaling import fitted_temperature, mean_logits
from phasegrid.metrics.measured import Passes, Source, joined
from phasegrid.metrics.network.left import Refresh
from phasegrid.metrics.network.points import Numbers, Row
from phasegrid.metrics.predictions.networks import networks_behind
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
    stored (text): of `models`, or of the networks behind `sources`, points of curves and complexes,
    or drawn from moments. `args` are the fields of `EnsembleArgs`.

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
    if all("t" in source.tensors for source in sources):
        row["t"] = torch.cat([source.tensors["t"] for source in sources]).tolist()
    sizes = [len(source.tensors["test"]) for source in sources]
    row |= _budget([source.passes for source in sources], alone=set(sizes) == {1})
    for name in names:
        if name != "aside":
            row |= _measured(name, stored_members(logits[name]), sizes, data, settings)
    return row | (_scaled(logits, data, settings) if settings.scaling != "none" else {})


def _budget(passes: Sequence[Passes], alone: bool) -> Row:
    """Return the passes through the training data that the first 1, 2, ... components took
    together; if each is one network `alone`, these are its epochs.
    """
    if not all(passes):
        return {}
    taken: Numbers = [sum(so_far.values()) for so_far in accumulate(passes, joined)]
    row: Row = {"first_components_passes": taken}
    return row | ({"first_epochs": taken} if alone else {})


def _of_networks(
    models: Sequence[nn.Module],
    data: Dataset,
    rng: torch.Generator,
    sources: Sequence[Source],
    settings: EnsembleArgs,
) -> Row:
    """Measure networks by passing them forward."""
    networks, sizes = list(models), [1] * len(models)
    row: Row = {}
    refresh = Refresh(settings.refresh_examples, settings.refresh_augment)
    if sources:
        networks, sizes = [], [settings.points] * len(sources)
        each = len(models) // len(sources)
        for index, source in enumerate(sources):
            own = models[index * each : (index + 1) * each]
            some, where = networks_behind(
                own, source, settings.points, refresh, data, rng, "ensemble", settings.scale
            )
            networks += some
            row |= {"t": where["t"].tolist() * len(sources)} if "t" in where else {}
        row |= _budget([source.passes for source in sources], alone=False)
    row["num_networks"] = len(networks)
    for name in ["train"] * settings.train + ["test"]:
        row |= _measured(name, live_members(networks, data), sizes, data, settings)
    if settings.scaling == "none":
        return row
    if not len(data.aside_labels):
        raise MetricError("ensemble: temperatures are fitted to examples set aside; there are none")
    sets = {"test": data.test_inputs, "aside": data.aside_inputs}
    logits = {s: torch.stack([predict(n, x) for n in networks]) for s, x in sets.items()}
    return row | _scaled(logits, data, settings)


def _measured(
    name: str,
    members: Sequence[Member],
    sizes: Sequence[int],
    data: Dataset,
    settings: EnsembleArgs,
) -> Row:
    """Return the columns of a set; those of parts of the ensemble too for the test set. Its
    components have these `sizes`.
    """
    ends = list(accumulate(sizes)) if name == "test" else []
    judged = _judged(name, members, data, ends)
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
        "components": [float(num) for num in range(1, len(ends) + 1)],
        "first_components_test_error_percent": judged.errors_percent(
            judged.first[[end - 1 for end in ends]]
        ),
        "first_components_test_loss": judged.first_losses.mean(dim=1).tolist(),
    }


def _scaled(logits: Mapping[str, Tensor], data: Dataset, settings: EnsembleArgs) -> Row:
    """Return the columns of the ensemble whose logits are divided by a temperature: those of each
    member by its own, or those of the mean prediction.
    """
    if not data.objective.probabilities:
        raise MetricError("ensemble: the objective has no probabilities, so nothing can be scaled")
    if settings.scaling == "pooled":
        pooled = {name: mean_logits(several, data.objective) for name, several in logits.items()}
        temperature = fitted_temperature(pooled["aside"], data.aside_labels)
        judged = _judged("test", stored_members([pooled["test"] / temperature]), data)
        return _whole("scaled_test", judged, data, settings) | {"pooled_scale": temperature}
    temperatures = [fitted_temperature(own, data.aside_labels) for own in logits["aside"]]
    scaled = [own.double() / t for own, t in zip(logits["test"], temperatures, strict=True)]
    judged = _judged("test", stored_members(scaled), data)
    return _whole("scaled_test", judged, data, settings) | {
        "scaled_member_test_loss": judged.own_losses.mean(dim=1).tolist(),
        "member_scale": temperatures,
    }


def _judged(
    name: str, members: Sequence[Member], data: Dataset, ends: Sequence[int] = ()
) -> Judged:
    """Score members on a set; with `ends` also parts of the ensemble."""
    sets = {
        "train": (data.train_inputs, data.train_labels),
        "test": (data.test_inputs, data.test_labels),
    }
    batches = list(data.scoring.batches(*sets[name], torch.float64.itemsize))
    found = judge(members, batches, data.scoring, ends)
    if not bool(found.own_losses.mean().isfinite()):
        raise MetricError(f"ensemble: the outputs of a network on the {name} set are not finite")
    return found


def _whole(name: str, judged: Judged, data: Dataset, settings: EnsembleArgs) -> Row:
    """Return the columns of the mean prediction; its reliability on the test set."""
    probable = data.objective.probabilities
    sets = 1 if name == "train" else num_test_sets(asdict(settings))
    bins = judged.bins(settings.ece_bins) if probable and name != "train" else {}
    return {f"{name}_bin_{column}": values for column, values in bins.items()} | {
        f"{name}_loss": float(judged.losses.mean()),
        f"{name}_error_percent": error_percent(judged.correct),
        f"{name}_ece": judged.ece(settings.ece_bins, sets) if probable else None,
        f"{name}_brier": float(judged.brier.mean()) if probable else None,
    }
