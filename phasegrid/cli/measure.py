"""The command ``measure``: one measurement of stored networks, without a sweep. `cli` adds it to
the command line.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from phasegrid.cli.options import AsJson, Home
from phasegrid.cli.output import echo
from phasegrid.declare import UNIT_OF_LOSS

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = ("float64", "int64", "bool", "string")


def measure(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="As in the metrics of a sweep.")],
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY[@PLACE]...",
            help="Keys of trials, or their beginnings; @5 (an epoch), @update-300, @averaged or"
            " @swag (drawn from moments) for a network along a training.",
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An argument of the metric, or where the data is (dataset.path=FILE); repeatable.",
        ),
    ] = None,
    storage: Home = "results",
    as_json: AsJson = False,
) -> None:
    """Measure stored networks, if they are not yet: a curve between two of any sweeps and epochs.

    The result is stored under the key that a sweep would give it.
    """
    import phasegrid
    from phasegrid.cli.render import table_text

    rows = phasegrid.open(storage).measure(metric, networks, settings or ())
    if as_json:
        echo(table_text(rows, as_json))
        return
    how = "stored before" if rows.attrs["was_stored"] else "measured now"
    echo(f"key {rows['key'].iloc[0]}, {how}")
    echo(_numbers(rows, metric))


def _numbers(rows: "pd.DataFrame", metric: str) -> str:
    """Write the single numbers of rows: of one row, a line each with its unit."""
    from phasegrid.cli.render import table_text
    from phasegrid.registry import declared_metric, identity

    columns = [c for c in declared_metric(identity(metric)).columns if c.type in _NUMBERS]
    shown = [c for c in columns if c.name in rows and rows[c.name].notna().any()]
    if len(rows) > 1:
        return table_text(rows[[column.name for column in shown]], as_json=False)
    (row,) = rows.to_dict("records")
    if row["outcome"] != "done":
        return f"{row['outcome']}: {row['reason']}"
    units = {UNIT_OF_LOSS: rows.attrs["unit_of_loss"]}
    lines = (f"{c.name} {_short(row[c.name])} {units.get(c.unit, c.unit)}" for c in shown)
    return "\n".join(map(str.rstrip, lines))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
