"""Define the quantities that can be drawn: where the store holds each, and how it is read, named
and coloured, as its metric declares.

Colour maps are perceptually uniform; for quantities with a meaningful zero they are diverging and
centred on zero. Limits are those of the data over all facets (2nd to 98th percentile, with marks on
the bar for values beyond), unless the declaration fixes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from phasegrid.declare import UNIT_OF_LOSS, Column, Shown, shown_of
from phasegrid.errors import SweepError
from phasegrid.figures.quantities import TRIAL_COLUMNS, TRIALS, is_quantity, prefix_of
from phasegrid.metrics import METRICS
from phasegrid.tasks import TASKS

NATS = "nats"
"""The unit of a cross-entropy."""

UNITS_DIFFER = "units differ"
"""The text in place of the unit of a loss if cells have objectives of several units."""

Axes = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number per cell of a diagram.

    `table` is ``trials`` or a metric's name, `column` the column there; `axes` are the columns that
    tell the rows of one job apart, each with the value whose rows have the plain name. Its rows
    show whether it is over trials, pairs or cells. `variant` is the text in the brackets of a
    variant's name. `transform` ``log_mean`` is the natural logarithm of the mean over seeds (as in
    the published notebook of Yang et al. 2021: the mean first, then the log); a mean within
    rounding of the quantity `hidden_by` counts as zero. At `centre` a diverging colour map is
    neutral. `scale` is the scale of the colours. `idle` says when every number of a sweep is 0 or
    null. Only figures that name an `asked` quantity show it. A `count` is an integer.
    Rows whose job has not the argument `asked_by` do not count.
    """

    name: str
    label: str
    unit: str
    table: str
    column: str
    better: Literal["higher", "lower"] | None = None
    transform: Literal["none", "log_mean"] = "none"
    colours: str = "viridis"
    limits: tuple[float, float] | None = None
    centre: float | None = None
    scale: Literal["linear", "log"] = "linear"
    axes: Axes = field(default_factory=dict)
    stderr_column: str | None = None
    hidden_by: str | None = None
    variant: str = ""
    idle: str = ""
    asked: bool = False
    count: bool = False
    asked_by: str = ""

    def title(self) -> str:
        """Return label and unit for an axis or a colour bar.

        >>> QUANTITIES["test_accuracy"].title()
        'test accuracy (%)'
        """
        return f"{self.label} ({self.unit})" if self.unit else self.label


BUILT_IN: Mapping[str, Shown] = {
    name: shown_of(metric, asdict(metric.args())) for name, metric in METRICS.items()
}

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

SEVEN_BY_LOSS: tuple[str, ...] = (
    "test_loss",
    "train_loss",
    "lambda_max",
    "trace",
    "mode_connectivity_loss",
    "cka",
    "l2_distance",
)
"""The same for tasks that are judged by their loss, such as translation: cross-entropy comes first,
and connectivity is that of the loss (their Fig. 18, section 2).
"""


def seven(task: str) -> tuple[str, ...]:
    """Return the quantities of the main figure of a task, in its order."""
    return SEVEN_BY_LOSS if TASKS[task].judged_by == "loss" else SEVEN


def quantities_of(table: str, declared: Shown) -> list[Quantity]:
    """Return the quantities of a table in the order of its columns.

    Quantities of built-in metrics have the names of their columns; those of a user's metric are
    called ``metric.column``, so that no two metrics share a name.
    """
    prefix = prefix_of(table, {TRIALS, *METRICS})
    metric = f"{table.rpartition(':')[2]} " if prefix else ""
    return [
        _quantity(prefix, metric, table, column, declared.axes)
        for column in declared.columns
        if is_quantity(column)
    ]


def known_quantities(declared: Mapping[str, Shown], loss_unit: str = NATS) -> dict[str, Quantity]:
    """Return every quantity that trials and these metrics declare, the seven of the main figure
    first; losses are in `loss_unit`.
    """
    tables = in_units({TRIALS: Shown(TRIAL_COLUMNS, {}), **declared}, loss_unit)
    found = [what for table, columns in tables.items() for what in quantities_of(table, columns)]
    by_name = {what.name: what for what in found}
    return {**{name: by_name[name] for name in SEVEN if name in by_name}, **by_name}


def common_unit(units: Iterable[str]) -> str:
    """Return the unit of all cells, or `UNITS_DIFFER`; nats if there is no cell.

    >>> common_unit(["nats", "nats"]), common_unit(["nats", ""]), common_unit([])
    ('nats', 'units differ', 'nats')
    """
    found = set(units)
    if len(found) > 1:
        return UNITS_DIFFER
    return found.pop() if found else NATS


def in_units(declared: Mapping[str, Shown], loss_unit: str) -> dict[str, Shown]:
    """Return the declarations of metrics, with `loss_unit` as the unit of every loss."""
    return {
        metric: replace(
            shown,
            columns=tuple(
                replace(column, unit=loss_unit) if column.unit == UNIT_OF_LOSS else column
                for column in shown.columns
            ),
        )
        for metric, shown in declared.items()
    }


def plain_quantity(metric: str, column: str, axes: Axes | None = None) -> Quantity:
    """Return the quantity ``metric.column`` of a metric without a stored declaration, to be drawn
    plainly.
    """
    return column_quantity(metric, Column(column, "float64", "", ""), axes or {})


def column_quantity(metric: str, column: Column, axes: Axes) -> Quantity:
    """Return the quantity ``metric.column`` for a column of a metric's rows, whatever its role."""
    label = f"{metric.rpartition(':')[2]} "
    return _quantity(f"{metric}.", label, metric, replace(column, quantity="", asked_by=""), axes)


def difference_unit(what: Quantity) -> str:
    """Return the unit of a difference: that of the quantity, but points for percentages."""
    return "points" if what.unit == "%" else what.unit


def base_of(what: Quantity) -> Quantity:
    """Return the quantity of which this is a variant, or the quantity itself."""
    label = what.label.removesuffix(f", {what.variant}") if what.variant else what.label
    return replace(what, name=what.name.partition("[")[0], label=label, variant="")


def quantity(name: str, known: Mapping[str, Quantity] | None = None) -> Quantity:
    """Return a quantity by name, one of its variants, or ``metric.column`` of a metric that is not
    declared; `known` are the declared quantities (default: the built-in ones).

    If one sweep measures a metric in several ways, there are variants, ``cka[mixup_alpha=4]``: the
    same quantity with the difference in its label.

    Raises:
        SweepError: for a name that is not declared.
    """
    declared = QUANTITIES if known is None else known
    base, bracket, rest = name.partition("[")
    metric, dot, column = base.rpartition(".")
    if base not in declared and not dot:
        raise SweepError(f"no quantity is called {name!r}; there are: {', '.join(declared)}")
    found = declared[base] if base in declared else plain_quantity(metric, column)
    if not bracket:
        return found
    variant = rest.rstrip("]")
    return replace(found, name=name, label=f"{found.label}, {variant}", variant=variant)


def _quantity(prefix: str, metric: str, table: str, column: Column, axes: Axes) -> Quantity:
    name = column.quantity or column.name
    return Quantity(
        name=f"{prefix}{name}",
        label=column.label or f"{metric}{name}".replace("_", " "),
        unit=column.unit,
        table=table,
        column=column.name,
        better=column.better,
        transform=column.transform,
        colours=column.colours or _colours(column),
        limits=column.limits,
        centre=column.centre,
        scale=column.scale,
        axes=axes,
        stderr_column=column.stderr or None,
        hidden_by=f"{prefix}{column.hidden_by}" if column.hidden_by else None,
        idle=column.idle,
        asked=column.role == "asked",
        count=column.type == "int64",
        asked_by=column.asked_by,
    )


def _colours(column: Column) -> str:
    if column.centre is not None:
        return "RdBu_r"
    return "viridis_r" if column.better == "lower" else "viridis"


QUANTITIES: Mapping[str, Quantity] = known_quantities(BUILT_IN)
