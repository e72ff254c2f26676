"""Declarations of the columns of a metric's table, and of what figures and tables need to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

UNIT_OF_LOSS = "unit of the loss"
"""As the unit of a column: that of the objective by which the networks were trained."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a metric's table: what is stored, and how figures and tables show it.

    `type` is the short name of an Arrow type; null is always allowed. `role` is the column's
    purpose:

    - ``value``: a number. Figures and tables show it if its type is ``float64``, or ``int64`` and
      it has a `label`; figures leave out such a count where every cell has the same.
    - ``axis``: a label that tells the rows of one job apart (a layer, a class, a point of a curve).
      Every label has a quantity of its own, such as ``accuracy[class=3]``; the label `usual` has
      the plain name.
    - ``asked``: a number as ``value``, but only the figures of a sweep that name it show it.
    - ``detail``: stored, but not shown.

    The `unit` of a loss is `UNIT_OF_LOSS`: what is read of a sweep has that of its objective.

    The other fields describe how a number is shown:

    - `label`: the name in figures (default: `name` in words).
    - `better`: which direction is better; None if neither.
    - `scale`, `centre`, `limits`: the colour scale, the neutral value of a diverging colour map,
      and fixed colour limits.
    - `colours`: a matplotlib colour map (default: chosen by `better` and `centre`).
    - `stderr`: the column with the standard error of this one.
    - `transform`: ``log_mean`` shows the natural logarithm of the mean over seeds. A mean that is
      smaller than the rounding error of the quantity `hidden_by` then counts as zero.
    - `quantity`: the name of the number in figures and tables (default: `name`).
    - `asked_by`: the argument that asks for the number. It is shown of the jobs that have it.
    - `ticks`: of a list over which others are drawn, the columns that hold the places on it with a
      name, and these names.
    - `idle`: when every number of a sweep is 0 or null, in words (``without BatchNorm``). No
      unasked figure then shows the column; ``not_drawn.csv`` gives the reason.
    """

    name: str
    type: Literal[
        "float64",
        "int64",
        "bool",
        "string",
        "list<float64>",
        "list<string>",
        "list<list<float64>>",
    ]
    unit: str
    doc: str
    label: str = ""
    better: Literal["higher", "lower"] | None = None
    role: Literal["value", "axis", "asked", "detail"] = "value"
    scale: Literal["linear", "log"] = "linear"
    centre: float | None = None
    limits: tuple[float, float] | None = None
    colours: str = ""
    stderr: str = ""
    transform: Literal["none", "log_mean"] = "none"
    hidden_by: str = ""
    usual: str | int | float | None = None
    quantity: str = ""
    idle: str = ""
    asked_by: str = ""
    ticks: tuple[str, str] | None = None

    def title(self) -> str:
        """Return label and unit as an axis or a colour bar shows them.

        >>> Column("train_error_percent", "float64", "%", "of all examples").title()
        'train error (%)'
        """
        bare = self.name.removesuffix("_percent") if self.unit == "%" else self.name
        label = self.label or bare.replace("_", " ")
        return f"{label} ({self.unit})" if self.unit else label


def list_column(name: str, doc: str, unit: str = "", label: str = "") -> Column:
    """Return a column with a list of numbers in each row."""
    return Column(name, "list<float64>", unit, doc, label=label)


@dataclass(frozen=True, slots=True)
class Shown:
    """What figures and tables need to know about a metric: its columns, the defaults of its
    arguments (variants are named by the arguments that differ), what it is over, the artifacts
    that it `leaves`, and the values of arguments that are `untypical`.
    """

    columns: tuple[Column, ...]
    defaults: Mapping[str, Any]
    over: str = "trial"
    leaves: tuple[str, ...] = ()
    untypical: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> Mapping[str, str | int | float | None]:
        """The axis columns, each with its `usual` label."""
        return {column.name: column.usual for column in self.columns if column.role == "axis"}
