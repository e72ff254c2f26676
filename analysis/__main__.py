"""Draw a store: ``python -m analysis <storage> [--sweep NAME] [-o DIR] [--format png,pdf] [--threshold name=value]``.

Needs no torch and no cluster. Exit codes: 0 drawn; 2 usage, or nothing to draw; 4 the store cannot be read.
"""

import argparse
import sys
from collections.abc import Sequence

from analysis.report import draw, parse_thresholds
from analysis.rules import THRESHOLD_NAMES
from phasegrid.errors import PhasegridError, StoreError
from phasegrid.output import echo, talking_console


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, draw, print the path of every figure and table, and return the exit code."""
    given = _parser().parse_args(arguments)
    formats = [part.strip() for part in given.format.split(",") if part.strip()]
    try:
        thresholds = parse_thresholds(given.threshold)
        paths = draw(given.storage, given.sweep, given.output, formats, thresholds)
    except PhasegridError as error:
        talking_console().print(f"error: {error}", soft_wrap=True)
        return 4 if isinstance(error, StoreError) else 2
    for path in paths:
        echo(str(path))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description="Draw what a store holds of a sweep."
    )
    parser.add_argument("storage", help="the store: a folder, s3://... or gs://...")
    parser.add_argument("--sweep", help="which sweep (default: the store's only one)")
    parser.add_argument(
        "-o", "--output", default="figures", help="folder for figures and tables (default: figures)"
    )
    parser.add_argument(
        "--format", default="png,pdf", help="png, pdf, svg; several with commas (default: png,pdf)"
    )
    parser.add_argument(
        "--threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"one of {', '.join(THRESHOLD_NAMES)}; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
