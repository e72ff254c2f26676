"""What can be drawn, as data: where a quantity lives in the store and how it is read, named and
coloured.

Colour maps are perceptually uniform, or diverging and centred on zero for what has a meaningful
zero. Limits are those of the data over all facets (2nd to 98th percentile, ends marked on the bar)
unless they are fixed here.
"""

from dataclasses import dataclass, replace
from typing import Literal

from phasegrid.analysis.tables.grid import Task
from phasegrid.errors import SweepError


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number per cell of a diagram.

    `table` is ``trials`` or a metric's name, `column` the column there; `layer` picks the rows of a
    metric that has several. Whether it is over trials, pairs or cells is read off its rows.
    `transform` ``log_mean`` is the natural logarithm of the mean over seeds (as in the published
    notebook of Yang et al. 2021: the mean first, then the log); a mean within rounding of the
    quantity `hidden_by` counts as zero. `centre` is where a diverging colour map is neutral.
    `scale` is that of the colours.
    """

    name: str
    label: str
    unit: str
    table: str
    column: str
    better: Literal["higher", "lower", "none"] = "none"
    transform: Literal["none", "log_mean"] = "none"
    colours: str = "viridis"
    limits: tuple[float, float] | None = None
    centre: float | None = None
    scale: Literal["linear", "log"] = "linear"
    layer: str | None = None
    stderr_column: str | None = None
    hidden_by: str | None = None

    def title(self) -> str:
        """Return label and unit as an axis or a colour bar shows them.

        >>> QUANTITIES["test_accuracy"].title()
        'test accuracy (%)'
        """
        return f"{self.label} ({self.unit})" if self.unit else self.label


def _loss(name: str, label: str, table: str, column: str) -> Quantity:
    return Quantity(name, label, "nats", table, column, "lower", colours="viridis_r", scale="log")


def _accuracy(name: str, label: str, table: str, column: str) -> Quantity:
    return Quantity(name, label, "%", table, column, "higher", colours="viridis")


def _connectivity(name: str, label: str, unit: str) -> Quantity:
    return Quantity(name, label, unit, "connectivity", name, colours="RdBu_r", centre=0.0)


def _simplex(name: str, label: str, unit: str, stderr: str | None = None) -> Quantity:
    return Quantity(name, label, unit, "simplex", name, colours="magma_r", stderr_column=stderr)


_ALL: tuple[Quantity, ...] = (
    _accuracy("test_accuracy", "test accuracy", "trials", "test_accuracy_percent"),
    _loss("train_loss", "training loss", "trials", "train_loss"),
    Quantity(
        "lambda_max",
        "ln top Hessian eigenvalue",
        "",
        "hessian",
        "lambda_max",
        transform="log_mean",
        colours="magma_r",
    ),
    Quantity(
        "trace",
        "ln Hessian trace",
        "",
        "hessian",
        "trace",
        transform="log_mean",
        colours="magma_r",
        hidden_by="lambda_max",
    ),
    _connectivity("mode_connectivity", "mode connectivity", "points"),
    Quantity("cka", "CKA", "", "cka", "cka", layer="softmax"),
    Quantity(
        "l2_distance", r"$\ell_2$ distance", "", "distance", "l2_distance", colours="cividis_r"
    ),
    _accuracy("train_accuracy", "training accuracy", "trials", "train_accuracy_percent"),
    _loss("test_loss", "test loss", "trials", "test_loss"),
    # Over the run: what the best moment to stop would have given ("optimal early stopping", Yang et
    # al. 2021, D.4).
    _accuracy(
        "best_test_accuracy",
        "best test accuracy of the run",
        "trials",
        "best_test_accuracy_percent",
    ),
    _loss("best_test_loss", "best test loss of the run", "trials", "best_test_loss"),
    Quantity("bleu", "BLEU", "", "bleu", "bleu", "higher"),
    Quantity(
        "test_ece",
        "test calibration error",
        "",
        "accuracy",
        "test_ece",
        "lower",
        colours="viridis_r",
    ),
    Quantity(
        "lambda_min",
        "smallest Hessian eigenvalue",
        "",
        "hessian",
        "lambda_min",
        colours="PuOr_r",
        centre=0.0,
    ),
    # The smallest eigenvalue lies so near: large in rows of releases that stopped when the largest
    # was known.
    Quantity(
        "lambda_min_residual",
        "error bound of the smallest eigenvalue",
        "",
        "hessian",
        "lambda_min_residual",
        "lower",
        colours="cividis_r",
        scale="log",
    ),
    _connectivity("mode_connectivity_loss", "mode connectivity, loss", "nats"),
    _connectivity("mode_connectivity_test", "mode connectivity, test", "points"),
    Quantity(
        "length_ratio",
        "curve length ratio",
        "",
        "connectivity",
        "length_ratio",
        colours="cividis_r",
    ),
    Quantity(
        "end_residual",
        "end residual of BatchNorm",
        "points",
        "connectivity",
        "end_residual_percent",
        colours="cividis_r",
    ),
    Quantity("cka_unbiased", "CKA, unbiased", "", "cka", "cka_unbiased", layer="softmax"),
    Quantity("cosine_similarity", "cosine of parameters", "", "distance", "cosine_similarity"),
    _simplex("log_volume", "ln simplex volume", ""),
    _simplex(
        "expected_train_loss",
        "simplex training loss",
        "nats",
        "expected_train_loss_stderr",
    ),
    _simplex("expected_test_loss", "simplex test loss", "nats", "expected_test_loss_stderr"),
    _simplex("expected_test_accuracy_percent", "simplex test accuracy", "%"),
)

QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}

SEVEN: tuple[str, ...] = (
    "test_accuracy",
    "train_loss",
    "lambda_max",
    "trace",
    "mode_connectivity",
    "cka",
    "l2_distance",
)
"""The panels of Yang et al. 2021, Fig. 2, in its order."""

SEVEN_OF_TRANSLATION: tuple[str, ...] = (
    "test_loss",
    "train_loss",
    "lambda_max",
    "trace",
    "mode_connectivity_loss",
    "cka",
    "l2_distance",
)
"""The same for translation: cross-entropy leads, and connectivity is that of the loss (their Fig.
18, section 2).
"""


def seven(task: Task) -> tuple[str, ...]:
    """Return the quantities of the main figure of a task, in its order."""
    return SEVEN_OF_TRANSLATION if task == "translation" else SEVEN


def plain_quantity(metric: str, column: str) -> Quantity:
    """Return the quantity of a metric that nobody declared here (a user's own): ``metric.column``,
    drawn plainly.
    """
    label = f"{metric.rpartition(':')[2]} {column}".replace("_", " ")
    return Quantity(f"{metric}.{column}", label, "", metric, column)


def difference_unit(what: Quantity) -> str:
    """Return the unit of a difference: that of the quantity, but points between percentages."""
    return "points" if what.unit == "%" else what.unit


def base_of(what: Quantity) -> Quantity:
    """Return the quantity that a variant is one of, or the quantity itself."""
    return quantity(what.name.partition("[")[0])


def quantity(name: str) -> Quantity:
    """Return a quantity by name, one of its variants, or ``metric.column`` of a metric that is not
    declared here.

    A metric measured in several ways within one sweep gives variants, ``cka[mixup_alpha=4]``: the
    same quantity with the difference in its label.

    Raises:
        SweepError: for a name that is not declared.
    """
    base, bracket, variant = name.partition("[")
    metric, dot, column = base.rpartition(".")
    if base not in QUANTITIES and not dot:
        raise SweepError(f"no quantity is called {name!r}; there are: {', '.join(QUANTITIES)}")
    found = QUANTITIES[base] if base in QUANTITIES else plain_quantity(metric, column)
    if not bracket:
        return found
    return replace(found, name=name, label=f"{found.label}, {variant.rstrip(']')}")
