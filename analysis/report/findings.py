"""Derive from a grid the input of figures and tables. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from phasegrid.analysis.draw.scales import Frame, make_frame
from phasegrid.analysis.phases.advice import limits
from phasegrid.analysis.phases.label import label_phases
from phasegrid.analysis.phases.niceness import niceness
from phasegrid.analysis.phases.phase_map import PhaseMap
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.stats.aggregate import aggregate
from phasegrid.analysis.tables.grid import SweepTables, loss_floors
from phasegrid.analysis.tables.precision import PATH, Axis, in_words
from phasegrid.analysis.tables.variants import full_name, way_of
from phasegrid.errors import SweepError

BOOTSTRAP_SEED = 0
"""The seed of the bootstrap, so that the same store always gives the same figure."""


@dataclass(frozen=True)
class Findings:
    """A grid, its cells' numbers, its phases (with niceness and advice as columns of their table),
    its axes.
    """

    grid: SweepTables
    table: pd.DataFrame
    phases: PhaseMap
    frame: Frame

    def heading(self, title: str) -> str:
        """Return the head of a figure: its title and, in a second line, the trained networks, their
        data and, where it is not plain float32, the precision of each cell.
        """
        grid, frame = self.grid, self.frame
        facets = [path for facet in grid.facets() for path, _ in json.loads(facet)]
        shown = {grid.load_path, grid.temperature_path, *facets}
        axes = [
            Axis("load_label", frame.load.name, frame.load.labels),
            Axis("temperature_label", frame.temperature.name, frame.temperature.labels),
        ]
        precision = "" if PATH in shown else in_words(grid.precisions, grid.cells, axes)
        about = "; ".join(filter(None, [grid.subject, precision]))
        return f"{title}\n{about}" if about else title

    def called(self, name: str) -> str:
        """Return the name of a quantity of the table for readers
        (`phasegrid.analysis.tables.variants.full_name`).
        """
        plain = self.grid.plain.get(self.grid.quantity(name).table, "")
        return full_name(name, plain, (str(one) for one in self.table["quantity"].unique()))

    def labels(self, names: Sequence[str]) -> list[str]:
        """Return the labels of quantities in figures. Where the sweep has stages, each names the
        one that it is of.
        """
        return [self.label(name, self.called(name)) for name in names]

    def label(self, name: str, called: str) -> str:
        """Return the label of a quantity of the table under the name that it is `called` by."""
        what = self.grid.quantity(called)
        stage = "" if "stage=" in what.variant else self.stage(name)
        return f"{what.label}, stage={stage}" if stage else what.label

    def stage(self, name: str) -> str:
        """Return the stage that a quantity of the table is of; empty where the sweep has none."""
        what = self.grid.quantity(name)
        way = way_of(name, what.axes) or self.grid.plain.get(what.table, "")
        named = [part for part in way.split(", ") if part.startswith("stage=")]
        return named[0].removeprefix("stage=") if named else self.grid.last_stage


def findings(grid: SweepTables, rules: Rules) -> Findings:
    """Aggregate and label a grid. If every training diverged, there are findings without numbers.

    Raises:
        SweepError: if no training of the sweep is stored.
    """
    table = aggregate(grid)
    if table.empty and not (grid.cells[["n_done", "n_diverged"]] > 0).any(axis=None):
        raise SweepError(
            f"drawing {grid.sweep!r}: the store has no finished trial of this sweep yet"
        )
    phases = label_phases(grid, rules)
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path, grid.axis_names)
    return Findings(grid, table, assessed(grid, phases), frame)


def assessed(grid: SweepTables, phases: PhaseMap) -> PhaseMap:
    """Return the phases with columns for niceness (`niceness`) and for what limits a cell
    (`advice`).
    """
    nice = niceness(grid, phases).drop(columns="cell")
    table = pd.concat([phases.table.reset_index(drop=True), nice], axis=1)
    loss = aggregate(grid, ["train_loss"]).set_index("cell")["value"] - loss_floors(grid)
    advice = limits(table, phases, loss.reindex(table["cell"]), grid.load_path)
    return replace(phases, table=pd.concat([table, advice], axis=1))
