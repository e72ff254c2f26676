"""Define the options that several commands share, and open sweeps and stores for them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phasegrid.cli.output import talking_console

if TYPE_CHECKING:
    from phasegrid.config.load import Sweep
    from phasegrid.store.store import Store

talk = talking_console()

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the sweep; repeatable."),
]
Storage = Annotated[
    str | None,
    typer.Option(help="Folder or URL of the store (default: the sweep's, else results)."),
]
AcceptChangedCode = Annotated[
    bool,
    typer.Option(
        "--accept-changed-code",
        help="Plug-ins that changed under the same name and version give the same numbers.",
    ),
]
Home = Annotated[str, typer.Option("--storage", help="Folder or URL of the store.")]
DeviceKind = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Kind of device to predict for: cpu, v100, a100, rtx4090, h100, h200, or a data sheet,"
        " fp32=TFLOP/s,bandwidth=TB/s,memory=GiB (default: what did most of the stored jobs).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load(path: Path, settings: list[str] | None) -> "Sweep":
    """Read a sweep with its overrides."""
    from phasegrid import load_sweep

    return load_sweep(path, settings or ())


def open_store(url: str, create: bool = False) -> "Store":
    """Open the store at a folder or URL."""
    from phasegrid.store.store import Store

    return Store.open(url, create=create)


def say(text: str) -> None:
    """Print an unformatted message for the user on stderr."""
    talk.print(text, soft_wrap=True)
