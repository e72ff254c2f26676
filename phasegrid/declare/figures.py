"""Declarations of kinds of figures, and requests for figures."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phasegrid.declare.findings import Finding
from phasegrid.keys import Json
from phasegrid.texts import suggest


@dataclass(frozen=True, slots=True)
class Needs:
    """What a figure reads: quantities by name, variants included, and rows of metrics, with those
    across cells if it can show them. `along`: each quantity is read at all places along trainings.
    `beside`: rows of metrics that it can do without.
    """

    quantities: Sequence[str] = ()
    rows: Sequence[str] = ()
    across: bool = False
    along: bool = False
    beside: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """What a figure can be checked against before anything is measured: the labels of each axis, in
    order, the number of cells, and the columns of each metric that the sweep asks for, their types
    by name.
    """

    labels: Mapping[str, Sequence[str]]
    num_cells: int
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def unknown_labels(
        self, argument: str, found: Sequence[str] | None, axis: str
    ) -> Iterator[Finding]:
        """Report each label in `found` that is not on `axis`, as an item of `argument`."""
        known = self.labels.get(axis, ())
        there = textwrap.shorten(", ".join(known), 200, placeholder="...")
        allowed = there or f"none (the sweep has no axis {axis})"
        for index, label in enumerate(found or ()):
            if label not in known:
                message = f"found {label!r}, which is not on the axis {axis}; allowed: {allowed}"
                yield f"{argument}.{index}", message + suggest(label, known)


@dataclass(frozen=True, slots=True)
class FigureKind:
    """A kind of figure: ``draw(tables, args) -> matplotlib.figure.Figure``.

    `args` is an instance of the dataclass `args`, whose field `name` is the stem of the file;
    `tables` is a `phasegrid.analysis.report.requested.Tables`.

    ``needs(args)`` says what the figure reads. A sweep that asks for no metric that gives it is
    refused; so is one whose grid the arguments do not fit, as ``fits(args, grid)`` reports.
    `tables` holds those quantities that have been measured. A figure with nothing measured yet is
    left out, with a note.

    Four names of arguments have a meaning: `at` holds labels of an axis (a sweep may write them as
    numbers), `quantities` and `at` must not repeat an item, `quantity` is one more quantity that
    the figure reads, and `against` names another sweep of the store.

    A built-in kind with arguments `unasked` is drawn with these wherever all that it needs is
    measured.
    """

    args: type
    draw: str | Callable[..., object]
    needs: Callable[[Mapping[str, Any]], Needs] = lambda _args: Needs()
    fits: Callable[[Mapping[str, Any], Grid], Iterable[Finding]] = lambda _args, _grid: ()
    unasked: Mapping[str, Json] | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class FigureRequest:
    """A figure that a sweep requests: its kind, and its arguments as written."""

    kind: str
    args: Mapping[str, Json]

    @property
    def name(self) -> str:
        """The stem of the file that the figure is written to."""
        return str(self.args["name"])
