"""Draw what networks answer over the plane of two inputs (`phasegrid.figures.fields`)."""

import pandas as pd

from phasegrid.analysis.draw.fields import field_maps
from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.report.overlays import in_ways
from phasegrid.analysis.report.requested import Drawing, Tables
from phasegrid.figures.fields import FieldsArgs

KEPT = ("cell", "line", "key", "seed_a", "num_networks", "num_samples", "label", "radius")
"""What names a row in the table beside the figure, before its numbers."""

NUMBERS = (
    "train_agreement_percent",
    "away_disagreement_percent",
    "near_disagreement_percent",
    "train_error_percent",
    "roughness",
    "sample_roughness",
)


def fields(tables: Tables, args: FieldsArgs) -> Drawing:
    """Draw a row of fields for each cell and way of measuring."""
    found, grid = tables.found, tables.found.grid
    measured, lines, notes = in_ways(grid, "decision", tables.rows["decision"], args.variants)
    measured = measured.assign(order=measured["line"].map(lines.index))
    measured = measured.sort_values(["cell", "across", "order", "seed_a"])
    heads = cell_heads(grid.cells, found.frame)
    rows, shared = headed(measured, heads, {line: line * (len(lines) > 1) for line in lines})
    figure = field_maps(
        pd.DataFrame(rows), most=args.most, title=tables.title(args.title, measured, shared)
    )
    shown = [column for column in (*KEPT, *NUMBERS) if column in measured]
    return Drawing(figure, measured[shown], notes)
