"""Loss and accuracy of an ensemble: the mean of the networks' predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.datasets.corruptions import SHIFT_RULES, Shift
from phasegrid.declare import (
    MAX_COUNT,
    UNIT_OF_LOSS,
    Column,
    DatasetFacts,
    Finding,
    Metric,
    later,
)
from phasegrid.estimates import FLOAT, Guess, Measurement, evaluation, evaluation_bytes
from phasegrid.metrics.augmentation import AsTrained
from phasegrid.metrics.predictions import OF_ONLY, fits, outputs_of_one
from phasegrid.metrics.ranges import Count, Positive
from phasegrid.metrics.refreshing import nothing_refreshed
from phasegrid.registry import declared_objective
from phasegrid.train.compat import share_aside


@dataclass(frozen=True, slots=True)
class EnsembleArgs(Shift):
    """The mean prediction of several networks (Lakshminarayanan et al. 2017): its error, loss,
    expected calibration error and Brier score. Softmax outputs are averaged and scored by the
    negative log-likelihood. If their objective has no probabilities (``mse``), the outputs
    themselves are averaged and scored by the objective; calibration error and Brier score are then
    null.

    The networks are the trials of a cell (a deep ensemble), as saved; or, ``of`` a mode
    connectivity, `points` networks equally spaced in t on its curve, ends included (Garipov et al.
    2018, section 5); or, ``of`` a `simplex` or `espro`, `points` networks drawn uniformly from its
    complex (Benton et al. 2021, section 5); or, ``at: swag``, `points` networks drawn from the
    moments of the weights of a training (SWAG, Maddox et al. 2019) or of each of several
    (MultiSWAG, Wilson and Izmailov 2020), with the covariance of their equation 1 times 2 `scale`.
    On curves and complexes and for drawn networks, BatchNorm statistics are recomputed from at most
    `refresh_examples` training examples, augmented by `refresh_augment` (null: as those of the
    curve or complex).

    Images and vectors: every network is passed forward once by the metric ``predictions``, whose
    jobs planning adds, and all ensembles read what that stored. Without `train` neither it nor the
    ensemble looks at the training set, which saves most of the disk; the columns ``train_*`` are
    then null.

    With ``over: cell`` beside ``of`` the points of several curves or complexes make one ensemble
    (ESPRO), each curve or complex a *component* of it. Networks drawn from one training are a
    component; in an ensemble of other networks each is one. The columns ``first_components_*`` are
    those of the first 1, 2, ... components, and the passes forward and backward through the
    training data that these took: an epoch of a training or of a curve is one, an epoch of a
    connector of a complex, which goes through the data at H points at once, H.

    `scaling`: with ``temperature``, the logits of each network are also divided by a temperature of
    its own before they are averaged (the columns ``scaled_*``). It is that of the least negative
    log-likelihood on the examples that the data set sets aside (``dataset.aside``; Guo et al.
    2017), and 1 if a network is right on all of them. Garipov et al. scale the points of a curve
    too, but do not say by which rule; this one is ours. With ``pooled``, the probabilities are
    averaged first, and their logarithms are divided by one temperature, fitted in the same way
    (Rahaman and Thiery 2021); no choice of the ensemble changes.

    The test images can be corrupted: `phasegrid.datasets.corruptions.Shift` has the arguments. With
    ``corruption: all`` the columns ``test_*`` are means over the corruptions, and temperatures are
    still those of clean examples.

    Calibration uses `ece_bins` equal-width confidence bins. For sentence pairs all numbers are over
    scored target tokens, predicted from the true words before them.
    """

    points: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 5
    refresh_examples: Count | None = None
    scale: Positive = later(0.5)
    ece_bins: Count = 15
    train: bool = later(True)
    scaling: Literal["none", "temperature", "pooled"] = later("none")
    refresh_augment: AsTrained = later(None)


SCORED = Guess(1e-3, 1e-8)
"""Seconds of a member, and of each number that it answers: exponentials and sums in float64."""


def _num_networks(job: Measurement) -> int:
    return job.num_sources * int(job.args["points"]) or job.num_networks


def _is_stored(job: Measurement) -> bool:
    """Say whether the networks are passed forward by another job: not for text."""
    return job.work.labels_per_example == 1.0


def _outputs(job: Measurement) -> int:
    return outputs_of_one(job.work, job.args)


def _cost(job: Measurement) -> Guess:
    if _is_stored(job):
        one = Guess(SCORED.overhead_s, SCORED.arithmetic_s * _outputs(job))
        return _num_networks(job) * one
    return 2 * _num_networks(job) * evaluation(job.work)


def _memory(job: Measurement) -> int:
    if _is_stored(job):
        return 2 * FLOAT * _num_networks(job) * _outputs(job)
    networks = FLOAT * _num_networks(job) * job.work.num_parameters
    return networks + evaluation_bytes(job.work)


def _fits(
    args: Mapping[str, Any], recipe: Mapping[str, Any], facts: DatasetFacts
) -> Finding | None:
    """Refuse to fit temperatures without probabilities, or without examples that nothing was
    trained on, and to corrupt what is no image.
    """
    if mistake := fits(args, recipe, facts):
        return mistake
    found = args["scaling"]
    if found == "none":
        return None
    chosen = recipe["objective"]
    name = "cross_entropy" if chosen is None else chosen["name"]
    if declared_objective(name).predicts != "probabilities":
        return (
            "scaling",
            f"found {found}, but the objective {name} has no probabilities; allowed: none, or"
            " another objective",
        )
    if facts.task != "classification":
        return "scaling", f"found {found} for the task {facts.task}; allowed there: none"
    if facts.num_aside == 0:
        return (
            "scaling",
            f"found {found}, but the data set sets no examples aside, to which temperatures are"
            " fitted; set dataset.aside, as in dataset: {name: digits, aside: 0.1}",
        )
    if share_aside(recipe) > 0:
        return (
            "scaling",
            f"found {found}, but the objective {name} trains on the examples set aside, to"
            " which temperatures are fitted; allowed: none",
        )
    return None


def _number(
    name: str,
    unit: str,
    doc: str,
    label: str,
    role: Literal["value", "asked"] = "asked",
    better: Literal["lower"] | None = "lower",
) -> Column:
    return Column(
        name,
        "float64",
        unit,
        doc,
        label=label,
        quantity=f"ensemble_{name}",
        better=better,
        role=role,
    )


def _whole(name: str, called: str, where: str) -> tuple[Column, ...]:
    """Return the columns of the mean prediction on a set; what not every ensemble has is shown
    where it is asked for.
    """
    role: Literal["value", "asked"] = "asked" if name.startswith("scaled") else "value"
    loss = f"loss of the mean prediction, {where}: -log of the mean probability of the label"
    ece = f"expected calibration error of the mean, {where}, in [0, 1]"
    brier = f"Brier score of the mean, {where}, in [0, 2]"
    of = "of the ensemble"
    return (
        _number(f"{name}_loss", UNIT_OF_LOSS, loss, f"{called} loss {of}", role),
        _number(
            f"{name}_error_percent",
            "%",
            f"error of the mean, {where}",
            f"{called} error {of}",
            role,
        ),
        _number(f"{name}_ece", "", ece, f"{called} calibration error {of}", role),
        _number(f"{name}_brier", "", brier, f"{called} Brier score {of}"),
    )


def _of_members(name: str, called: str, where: str) -> tuple[Column, ...]:
    """Return the columns of the members on a set."""
    apart = f"share of labels on which two networks choose differently, {where}, mean over pairs"
    loss = f"mean over the networks of their own loss, {where}"
    error = f"mean over the networks of their own error, {where}"
    of = "of the networks"
    return (
        _number(f"{name}_disagreement", "", apart, f"{called} disagreement {of}", better=None),
        _number(f"mean_{name}_loss", UNIT_OF_LOSS, loss, f"mean {called} loss {of}"),
        _number(f"mean_{name}_error_percent", "%", error, f"mean {called} error {of}"),
    )


def _reliability(name: str, where: str) -> tuple[Column, ...]:
    """Return the lists of a reliability diagram."""
    lists = {
        "confidence": ("mean confidence", "confidence"),
        "accuracy": ("accuracy", "accuracy"),
        "share": ("share of all labels", "share of labels"),
    }
    return tuple(
        Column(
            f"{name}_bin_{kind}",
            "list<float64>",
            "",
            f"{what} in each of `ece_bins` bins of confidence of the mean, {where}; over all labels"
            " of all corruptions",
            label=label,
        )
        for kind, (what, label) in lists.items()
    )


ENSEMBLE = Metric(
    over="cell",
    args=EnsembleArgs,
    compute="phasegrid.metrics.ensemble.compute:compute",
    version=2,  # 1 had fewer columns, and drew the examples of BatchNorm on a curve for itself
    label="Ensemble",
    reads=("curve", "complex"),
    through="predictions",
    of_only=OF_ONLY,
    samples=True,
    cost=_cost,
    memory=_memory,
    rules=SHIFT_RULES,
    fits=_fits,
    source_rules={"complex": nothing_refreshed},
    columns=(
        *_whole("train", "training", "training set"),
        *_of_members("train", "training", "training set"),
        *_whole("test", "test", "test set"),
        *_of_members("test", "test", "test set"),
        *_whole("scaled_test", "scaled test", "test set, divided by temperatures"),
        *_reliability("test", "test set"),
        *_reliability("scaled_test", "test set, divided by temperatures"),
        Column("num_networks", "int64", "", "networks whose outputs were averaged", role="detail"),
        Column("t", "list<float64>", "", "where on the curve each network is; null elsewhere"),
        Column("pooled_scale", "float64", "", "temperature of the mean prediction", role="detail"),
        Column("member_scale", "list<float64>", "", "temperature of each network"),
        Column("member_test_loss", "list<float64>", UNIT_OF_LOSS, "test loss of each network"),
        Column(
            "scaled_member_test_loss",
            "list<float64>",
            UNIT_OF_LOSS,
            "test loss of each network, divided by its temperature",
        ),
        Column(
            "member_test_error_percent",
            "list<float64>",
            "%",
            "test error of each network",
            label="test error of one network",
        ),
        Column(
            "first_test_error_percent",
            "list<float64>",
            "%",
            "test error of the ensemble of the first 1, 2, ... networks",
            label="test error of the ensemble so far",
        ),
        Column(
            "first_epochs",
            "list<float64>",
            "",
            "epochs that the first 1, 2, ... networks have taken, stages before them included; one"
            " training counts once",
            label="epochs of training",
        ),
        Column(
            "with_first_test_error_percent",
            "list<float64>",
            "%",
            "test error of the ensemble of the first network and each",
            label="test error with the first network",
        ),
        Column(
            "components",
            "list<float64>",
            "",
            "1, 2, ...: how many components are meant by the lists of the first ones",
            label="number of components",
        ),
        Column(
            "first_components_test_error_percent",
            "list<float64>",
            "%",
            "test error of the ensemble of the first 1, 2, ... components: each one network, or all"
            " points of one curve or complex",
            label="test error of the ensemble",
        ),
        Column(
            "first_components_test_loss",
            "list<float64>",
            UNIT_OF_LOSS,
            "test loss of the ensemble of the first 1, 2, ... components",
            label="test loss of the ensemble",
        ),
        Column(
            "first_components_passes",
            "list<float64>",
            "",
            "passes forward and backward through the training data that the first 1, 2, ..."
            " components took: epochs of all trainings behind them, each training once, and of the"
            " curves, and epochs of connectors times their samples",
            label="passes through the training data",
        ),
    ),
)
