"""Rank the quantities of a sweep by how they go with performance (`phasegrid.figures.ranking`)."""

import numpy as np
import pandas as pd

from phasegrid.analysis.draw.ranking import ranking_figure
from phasegrid.analysis.report.findings import BOOTSTRAP_SEED
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables, resolved
from phasegrid.analysis.stats.correlations import FEWEST, STATISTICS, rank_correlations
from phasegrid.analysis.tables.quantities import seven
from phasegrid.figures.ranking import RankingArgs


def ranked(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the rank correlations of aggregated quantities with one of them; the same store
    always gives the same.
    """
    return rank_correlations(table, target, np.random.default_rng(BOOTSTRAP_SEED))


def in_words(ranked: pd.DataFrame) -> pd.DataFrame:
    """Return a table of correlations for readers, each with its interval."""
    texts = {
        name: [
            "" if np.isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"
            for value, low, high in ranked[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        ]
        for name in STATISTICS
    }
    return pd.DataFrame({"quantity": ranked["quantity"], **texts, "cells": ranked["n_cells"]})


def ranking(tables: Tables, args: RankingArgs) -> Drawing:
    """Draw the rank correlations of quantities with one of them."""
    found, asked = tables.found, args.quantity or seven(tables.found.grid.task)[0]
    target = resolved(found.grid, asked)
    if target is None:
        raise NotYetError(f"{asked} is not measured yet")
    table, label = found.table, found.label(target, found.called(target))
    if args.quantities is not None:
        table = table[table["quantity"].isin([*tables.quantities, target])]
    shown = ranked(table, target)
    if shown.empty:
        raise NotYetError(f"nothing else differs in {FEWEST} cells that have {label}")
    labels = [found.label(name, found.called(name)) for name in shown["quantity"]]
    figure = ranking_figure(shown, labels, label, title=tables.title(args.title))
    shown = shown.assign(quantity=shown["quantity"].map(found.called), target=found.called(target))
    return Drawing(figure, shown)
