"""The kind of figure that is drawn from formulas, to explain the others."""

from dataclasses import dataclass
from typing import Literal

from phasegrid.declare import FigureKind
from phasegrid.figures.checks import Stem


@dataclass(frozen=True, slots=True)
class SchematicArgs:
    """A picture of what words mean; it shows nothing measured.

    `of`: ``phases``, a loss on a line in each phase of learning, with trained networks (after Yang
    et al. 2021, Fig. 1); or ``shapes``, the shapes of the loss along a line through a network
    (after Xu et al. 2024, Fig. 1).
    """

    name: Stem
    of: Literal["phases", "shapes"] = "phases"
    title: str | None = None


SCHEMATIC = FigureKind(SchematicArgs, "phasegrid.analysis.report.kinds:schematic")
