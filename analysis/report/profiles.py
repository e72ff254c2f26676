"""Draw the loss along lines through networks (`phasegrid.figures.profiles`)."""

import pandas as pd

from phasegrid.analysis.draw.profiles import Profile, profile_panels
from phasegrid.analysis.report.one_network import rows_of_networks
from phasegrid.analysis.report.overlays import known_columns
from phasegrid.analysis.report.requested import Drawing, NotYetError, Tables
from phasegrid.figures.profiles import ProfilesArgs

POINTS = ("axis", "train_loss", "train_error_percent", "test_loss", "test_error_percent")


def profiles(tables: Tables, args: ProfilesArgs) -> Drawing:
    """Draw a panel for each cell and way of measuring, and tabulate its points."""
    chosen, shared, notes = rows_of_networks(tables, "lines", args.cell, args.seed, args.variants)
    if args.directions is not None:
        chosen = chosen[chosen["direction"].isin(args.directions)]
    if chosen.empty or chosen[args.column].isna().all():
        raise NotYetError(f"{args.column} along such lines is not measured yet")
    label = known_columns(tables.found.grid, "lines")[args.column].title()
    what = Profile(args.column, label, args.scale, args.patches, args.guess)
    figure = profile_panels(
        chosen,
        what,
        most=args.most,
        columns=args.columns or _columns(chosen),
        share_y=args.share_y,
        title=tables.title(args.title, chosen, shared),
    )
    return Drawing(figure, _points(chosen), notes)


def _columns(rows: pd.DataFrame) -> int | None:
    """Return the number of loads, if panels are those of a whole grid; else None."""
    across, down = rows["column"].nunique(), rows["row"].nunique()
    whole = (
        rows["head"].nunique()
        == across * down * rows[["order", "facet"]].drop_duplicates().shape[0]
    )
    return across if whole and across > 1 and down > 1 else None


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """Return every point of every line."""
    present = [name for name in POINTS if rows[name].notna().all()]
    named = ["cell", "line", "key", "direction", "shape", "num_stationary_points"]
    table: pd.DataFrame = rows[[*named, *present]].explode(present, ignore_index=True)
    return table
