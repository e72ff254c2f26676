"""The kind of figure that draws the loss along lines through networks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from phasegrid.declare import FigureKind, Finding, Grid, Needs
from phasegrid.figures.checks import Stem, cell_fits

LineColumn = Literal["train_loss", "train_error_percent", "test_loss", "test_error_percent"]


@dataclass(frozen=True, slots=True)
class ProfilesArgs:
    """Lines through networks (metric ``lines``): a panel for each cell and way of measuring, with a
    line for each direction of one network; its head names the shapes and, in brackets, the mean
    number of stationary points, as in Xu et al. 2024.

    `column` is what is drawn, on a linear or a log `scale`. `variants` names the ways of measuring,
    as in `OverlayArgs`; null: all. `cell` shows one cell, and `seed` the networks of a seed (null:
    the first of each panel). `directions` are those that are drawn, by name; null: all. `patches`
    draws the second-order approximations. `guess` draws the loss of a network that guesses, ln of
    the number of classes, as a dotted line. Dotted vertical lines are the network (black) and, of a
    line to another, that one (red). `share_y`: one scale for all panels. `columns` is the number of
    panels side by side (null: automatic). Of more than `most` panels some are drawn, evenly spread.
    """

    name: Stem
    column: LineColumn = "train_loss"
    scale: Literal["linear", "log"] = "linear"
    variants: Annotated[Mapping[str, str], Field(min_length=1)] | None = None
    cell: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    directions: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    patches: bool = False
    guess: bool = False
    share_y: bool = False
    columns: Annotated[int, Field(ge=1, le=12)] | None = None
    most: Annotated[int, Field(ge=1, le=240)] = 24
    title: str | None = None


def _fits(args: Mapping[str, Any], grid: Grid) -> Iterable[Finding]:
    if args["guess"] and args["column"].endswith("percent"):
        yield "guess", f"found true with {args['column']}; allowed: with a loss"
    if args["patches"] and args["column"] != "train_loss":
        yield "patches", f"found true with {args['column']}; allowed: with train_loss"
    yield from cell_fits(args, grid)


PROFILES = FigureKind(
    ProfilesArgs,
    "phasegrid.analysis.report.profiles:profiles",
    needs=lambda _args: Needs(rows=("lines",)),
    fits=_fits,
    unasked={"name": "profiles"},
)
