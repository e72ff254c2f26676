"""The figures a sweep asks for by itself, beside those that every sweep gets: the ``figures:``
section, as data.

A figure is one of the kinds in `FIGURE_KINDS` with its arguments; ``phasegrid plot`` draws it under
its `name`. Nothing here is part of any key: figures can be added and changed after everything is
measured. No matplotlib and no torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Stem = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Quantities = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class PanelsArgs:
    """Diagrams of some quantities, one row each with the facets as columns (without facets: side by
    side).

    `quantities` are names as ``phasegrid.analysis`` has them, variants too: ``cka[mixup_alpha=4]``.
    `phases`: with borders and, last, the map of phases. `columns`: how many panels side by side
    where there are no facets (null: chosen).
    """

    name: Stem
    quantities: Quantities
    title: str | None = None
    phases: bool = True
    columns: Annotated[int, Field(ge=1, le=12)] | None = None


@dataclass(frozen=True, slots=True)
class LinesArgs:
    """Cuts through the diagrams: each quantity against one axis, a line with standard errors for
    each value of the other.

    `along` is the axis that runs to the right; `at` the labels of the other axis that get a line
    (null: all). Facets are columns.
    """

    name: Stem
    quantities: Quantities
    along: Literal["load", "temperature"] = "load"
    at: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class CurvesArgs:
    """The connecting curve of every cell in a grid of small plots (Yang et al. 2021, Fig. 12)."""

    name: Stem
    title: str | None = None


@dataclass(frozen=True, slots=True)
class GainArgs:
    """The best of each load over all temperatures, in this sweep and in the sweep `against` of the
    same store, and the gain (Yang et al. 2021, Fig. 13). `labels` name the two in the legend: this
    one, the other.
    """

    name: Stem
    against: str
    quantity: str = "test_accuracy"
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] | None = None
    title: str | None = None


FIGURE_KINDS: Mapping[str, type] = {
    "panels": PanelsArgs,
    "lines": LinesArgs,
    "curves": CurvesArgs,
    "gain": GainArgs,
}
