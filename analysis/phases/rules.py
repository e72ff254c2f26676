"""Set the thresholds between phases: given, chosen by the task, or found from the data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from phasegrid.analysis.tables.grid import Floats
from phasegrid.analysis.tables.quantities import NATS, UNITS_DIFFER
from phasegrid.errors import SweepError
from phasegrid.tasks import TASKS

Connectivity = Literal[
    "mode_connectivity", "mode_connectivity_loss", "mode_connectivity_test"
]  # quantities that say whether two models are connected
CONNECTIVITIES: tuple[Connectivity, ...] = get_args(Connectivity)

TOLERANCE: Mapping[Connectivity, float] = {
    "mode_connectivity": 1.0,
    "mode_connectivity_loss": 0.1,
    "mode_connectivity_test": 1.0,
}
"""Tolerances around zero: 1 percentage point of error, 0.1 nats of loss. The second is the training
loss below which a model counts as trained (`Rules.train_loss`): so two perfectly fitted models are
joined if every point of the curve between them would itself count as trained. Yang et al. 2021 give
neither.
"""

HALF_A_GUESS = 0.5
"""A translation model has not converged if its loss is above this share of the way from the least
loss to ln(classes), the loss of a guess. Our choice; Yang et al. 2021 mark the region by eye
(appendix D.4).
"""

SIMILAR = 0.5**0.5
"""From this CKA on, models are similar. CKA is the cosine of the angle between two centred Gram
matrices, and its square is the share of one matrix that the other explains. From the root of a half
on, this share is at least a half.
"""

FOUND = "otsu"
"""The word that replaces the number of a threshold that is to be found from the data."""
FINDABLE = ("train_loss", "hessian", *CONNECTIVITIES, "cka")
THRESHOLD_NAMES = (*FINDABLE, "not_converged", "confidence")


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of the phases. A threshold of None is found from the data, by Otsu's rule
    (`docs/phases.md` gives the reasons for each default, and its results on published data).

    - `train_loss`: 0.1 nats above its floor, where the published CIFAR-10 diagrams split cleanly
      (Yang et al. 2021, Fig. 3 data).
    - `hessian`: for the mean of `hessian_quantity`, not its logarithm. No default fits two
      architectures, so it is found; it is the only threshold that depends on the cells of a sweep.
    - `mode_connectivity`: tolerance around 0, in the unit of `connectivity_quantity` (defaults:
      `TOLERANCE`).
    - `cka`: `SIMILAR`. If found, then from the flat and connected cells.
    - `not_converged`: from this mean training loss above its floor on, a cell is NC, whatever else
      it is; None for no such label, infinity to judge only by diverged seeds.
    - `confidence`: with a smaller probability, a cell is undetermined.
    """

    train_loss: float | None = 0.1
    hessian: float | None = None
    mode_connectivity: float | None = TOLERANCE["mode_connectivity"]
    cka: float | None = SIMILAR
    not_converged: float | None = None
    hessian_quantity: Literal["trace", "lambda_max"] = "trace"
    connectivity_quantity: Connectivity = "mode_connectivity"
    confidence: float = 0.9


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold in use, and its origin: the rules, or the data."""

    name: str
    value: float
    origin: Literal["given", "otsu"]


def rules_from(
    thresholds: Mapping[str, float | None],
    task: str = "classification",
    num_classes: float = math.nan,
    loss_floor: float = 0.0,
    loss_unit: str = NATS,
) -> Rules:
    """Return the rules of a task with some thresholds given by name (`THRESHOLD_NAMES`); None means
    that one is found from the data (`FINDABLE`).

    Connectivity is judged by training errors, and for translation by training loss, as in Yang et
    al. 2021 (section 2); a tolerance given by the name of a quantity,
    ``mode_connectivity_loss=0.05``, chooses that quantity for any task. Cells of translation sweeps
    that have not converged are labelled NC (their appendix D.4), from halfway between `loss_floor`
    and ln(`num_classes`) on unless ``not_converged`` is given; if it is given, classification has
    the label as well.

    The defaults for losses are in nats. In a sweep whose losses are all in another `loss_unit` they
    are NaN and judge nothing: only the Hessian decides what is sharp.

    Raises:
        SweepError: for an unknown name, an impossible number, or two tolerances of connectivity.
    """
    check_thresholds(thresholds)
    base = Rules()
    given = [name for name in CONNECTIVITIES if name in thresholds]
    by_task: Connectivity = (
        "mode_connectivity_loss" if TASKS[task].judged_by == "loss" else "mode_connectivity"
    )
    quantity = given[0] if given else by_task
    other = loss_unit not in (NATS, UNITS_DIFFER)
    tolerance = math.nan if other and quantity == "mode_connectivity_loss" else TOLERANCE[quantity]
    return Rules(
        train_loss=thresholds.get("train_loss", math.nan if other else base.train_loss),
        hessian=thresholds.get("hessian", base.hessian),
        mode_connectivity=thresholds.get(quantity, tolerance),
        cka=thresholds.get("cka", base.cka),
        not_converged=thresholds.get(
            "not_converged",
            _default_not_converged(task, math.nan if other else num_classes, loss_floor),
        ),
        connectivity_quantity=quantity,
        confidence=thresholds.get("confidence") or base.confidence,
    )


def check_thresholds(thresholds: Mapping[str, float | None]) -> None:
    """Raise `SweepError` for names and numbers that `rules_from` would refuse."""
    unknown = sorted(set(thresholds) - set(THRESHOLD_NAMES))
    if unknown:
        raise SweepError(
            f"no threshold is called {unknown[0]!r}; there are: {', '.join(THRESHOLD_NAMES)}"
        )
    for name, value in thresholds.items():
        if value is None and name not in FINDABLE:
            raise SweepError(
                f"threshold {name}={FOUND}: only these can be found from the data:"
                f" {', '.join(FINDABLE)}"
            )
        if value is not None and not (np.isfinite(value) and value > 0):
            raise SweepError(f"threshold {name}={value}: must be a positive number")
    given = [name for name in CONNECTIVITIES if name in thresholds]
    if len(given) > 1:
        raise SweepError(
            f"thresholds {' and '.join(given)}: phases are judged by one kind of mode connectivity;"
            " give one"
        )


def otsu(values: Floats) -> float | None:
    """Return the threshold that splits numbers into the two groups with the largest variance
    between them (Otsu 1979).

    Exact on the sorted values: halfway between the neighbours of the best split. None for fewer
    than four distinct values.

    >>> otsu(np.array([0.0, 1.0, 10.0, 11.0]))
    5.5
    """
    ordered = np.sort(values[~np.isnan(values)])
    if len(np.unique(ordered)) < 4:
        return None
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    best = int(np.argmax(below * (len(ordered) - below) * gap**2))
    return float((ordered[best] + ordered[best + 1]) / 2)


def threshold(
    name: str, given: float | None, values: Floats, *, logarithmic: bool
) -> Threshold | None:
    """Return a threshold: as `given`, or by Otsu's rule on `values` (logarithms if `logarithmic`,
    without NaN); None if it cannot be found, or is given as NaN.
    """
    if given is not None and math.isnan(given):
        return None
    if given is not None:
        return Threshold(name, given, "given")
    found = otsu(values)
    if found is None:
        return None
    return Threshold(name, float(np.exp(found)) if logarithmic else found, "otsu")


def _default_not_converged(task: str, num_classes: float, loss_floor: float) -> float | None:
    if TASKS[task].judged_by != "loss":
        return None
    if math.isnan(num_classes):
        return math.inf
    return HALF_A_GUESS * (math.log(num_classes) - loss_floor)
