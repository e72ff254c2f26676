"""Draw the loss along lines through networks (`phasegrid.figures.profiles`)."""

import pandas as pd

from phasegrid.analysis.draw.panels import cell_heads, headed
from phasegrid.analysis.draw.profiles import Profile, profile_panels
from phasegrid.analysis.report.overlays import in_ways, known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.figures.profiles import ProfilesArgs

POINTS = ("axis", "train_loss", "train_error_percent", "test_loss", "test_error_percent")


def profiles(tables: Tables, args: ProfilesArgs) -> Drawing:
    """Draw a panel for each cell and way of measuring, and tabulate its points."""
    if "lines" not in tables.rows:
        raise NotYetError("lines is not measured yet")
    grid, measured = tables.found.grid, tables.rows["lines"]
    if args.cell is not None:
        measured = measured[measured["cell"] == args.cell]
    if args.seed is not None:
        measured = measured[(measured["seed_a"] == args.seed) | measured["seed_a"].isna()]
    if args.directions is not None:
        measured = measured[measured["direction"].isin(args.directions)]
    if measured.empty or measured[args.column].isna().all():
        raise NotYetError(f"{args.column} along such lines is not measured yet")
    chosen, ways, notes = in_ways(grid, "lines", measured, args.variants)
    chosen = chosen.assign(order=chosen["line"].map(ways.index))
    chosen = chosen.sort_values(["cell", "order", "seed_a", "key"], kind="stable")
    first = chosen.groupby(["cell", "order"], sort=False)["key"].transform("first")
    chosen = chosen[chosen["key"] == first]
    heads = cell_heads(grid.cells, tables.found.frame)
    called = {way: way * (len(ways) > 1) for way in ways}
    rows, shared = headed(chosen, heads, called)
    chosen = chosen.assign(head=[row["head"] for row in rows])
    label = known_columns(grid, "lines")[args.column].title()
    what = Profile(args.column, label, args.scale, args.patches, args.guess)
    figure = profile_panels(
        chosen,
        what,
        most=args.most,
        columns=args.columns,
        share_y=args.share_y,
        title=tables.title(args.title, chosen, shared),
    )
    return Drawing(figure, _points(chosen), notes)


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every point of every line."""
    present = [name for name in POINTS if rows[name].notna().all()]
    named = ["cell", "line", "key", "direction", "shape", "num_stationary_points"]
    table: pd.DataFrame = rows[[*named, *present]].explode(present, ignore_index=True)
    return table
