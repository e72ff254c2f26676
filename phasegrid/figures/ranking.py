"""The kind of figure that ranks quantities by how they go with performance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phasegrid.declare import FigureKind, Needs
from phasegrid.figures.checks import Quantities, Stem


@dataclass(frozen=True, slots=True)
class RankingArgs:
    """Which quantities go with performance over the cells, and which only repeat the axes: rank
    correlations with `quantity`, the strongest first, with 95% intervals of a bootstrap over cells.

    Three marks for each: Spearman's rho, Kendall's tau-b, and the partial rho given load,
    temperature and facets. `quantities` are those to rank (null: all that are measured);
    `quantity` is what they are ranked against (null: test accuracy, or test loss for sequences).
    The table beside the figure has the numbers.
    """

    name: Stem
    quantities: Quantities | None = None
    quantity: str | None = None
    title: str | None = None


def _needs(args: Mapping[str, Any]) -> Needs:
    asked = [args["quantity"]] if args["quantity"] is not None else []
    return Needs(quantities=[*(args["quantities"] or ()), *asked])


RANKING = FigureKind(RankingArgs, "phasegrid.analysis.report.rankings:ranking", needs=_needs)
