"""The command ``fetch``: have the data sets of a sweep ready before it runs. `cli` adds it to the
command line.
"""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from phasegrid.cli.options import AsJson, Settings, SweepFile, load, say
from phasegrid.cli.output import echo
from phasegrid.texts import bytes_text, counted

if TYPE_CHECKING:
    from phasegrid.datasets.fetching import Fetched


def fetch(
    sweep: SweepFile,
    settings: Settings = None,
    download: Annotated[
        bool, typer.Option(help="Fetch missing files, whatever the sweep says of download.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Have every data set of a sweep ready, and train nothing: fetch its files, check them, keep
    what is parsed. Exit 2 if one is not to be had.
    """
    from phasegrid.datasets.fetching import fetch_all

    loaded = load(sweep, settings)
    found: list[Fetched] = []
    for data in fetch_all((point.dataset for point in loaded.points), download):
        found.append(data)
        if data.error is not None:
            say(data.error)
        elif not as_json:
            echo(_line(data))
        for note in data.notes:
            say(f"note: {note}")
    if as_json:
        echo(json.dumps([asdict(data) for data in found], indent=2))
    raise typer.Exit(2 if any(data.error is not None for data in found) else 0)


def _line(data: "Fetched") -> str:
    place = f" in {data.place}" if data.place else ""
    files = ""
    if data.files:
        files = (
            f"; {counted(len(data.files), 'file')}, {bytes_text(data.file_bytes)};"
            f" prepared, {bytes_text(data.kept_bytes)}"
        )
    return (
        f"{data.name}{place}: ready, {data.num_train} training and {data.num_test} test examples"
        f"{files}; loaded in {data.seconds:.1f} s"
    )
