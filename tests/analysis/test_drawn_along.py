"""What was measured at several places along trainings is one quantity, with these as its axis."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

from phasegrid.analysis.draw.film import write_film
from phasegrid.analysis.draw.style import STYLE
from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.files import write_tables
from phasegrid.analysis.report.findings import Findings, findings
from phasegrid.analysis.report.requested import (
    Requested,
    requested_figures,
    unasked_figures,
)
from phasegrid.analysis.report.standard import further_pages, not_standard
from phasegrid.analysis.tables.along import grid_at, measured_along, split_place
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.declare import FigureRequest
from phasegrid.figures import FIGURES

MakeGrid = Callable[..., SweepTables]
EPOCHS = (0, 5, 20)
PHASE_QUANTITIES = ("train_loss", "trace", "lambda_max", "mode_connectivity", "cka")


def with_places(
    grid: SweepTables, names: Sequence[str] = ("train_loss",), epochs: Sequence[int] = EPOCHS
) -> SweepTables:
    """Return the grid with its numbers also at some epochs, (1 + epoch) times as large."""
    parts = [grid.values]
    for name in names:
        own = grid.values[grid.values["quantity"] == name]
        parts += [
            own.assign(quantity=f"{name}[at={epoch}]", value=own["value"] * (1 + epoch))
            for epoch in epochs
        ]
    return replace(grid, values=pd.concat(parts, ignore_index=True))


@pytest.fixture
def found(make_grid: MakeGrid) -> Findings:
    layout = [["I", "IV-B"], ["II", "IV-A"]]
    grid = make_grid(layout, loads=[4, 64], temperatures=[16, 256], seeds=2)
    return findings(with_places(grid), Rules())


def asked(found: Findings, kind: str, **args: object) -> Requested:
    defaults = FIGURES[kind].args(name="mine", **args)
    given = {name: getattr(defaults, name) for name in FIGURES[kind].args.__dataclass_fields__}
    return requested_figures(found, [FigureRequest(kind, given)], lambda _name: None)


def test_a_name_is_split_into_the_quantity_and_its_place() -> None:
    assert split_place("cka[at=5, layer=a]") == ("cka[layer=a]", ("epoch", 5))
    assert split_place("cka[at=0+5]") == ("cka[at=0+5]", None)


def test_one_place_alone_is_not_along_a_training() -> None:
    assert measured_along(["cka", "cka[at=5]"]) == []
    (one,) = measured_along(["cka[at=20]", "cka", "cka[at=5]"])
    assert list(one.names.values()) == ["cka[at=5]", "cka[at=20]"], "in the order of time"


def test_places_are_in_no_panel_of_their_own_and_have_one_note(make_grid: MakeGrid) -> None:
    grid = with_places(make_grid(), ["train_loss", "test_accuracy"], range(9))
    of_accuracy = grid.values["quantity"].str.startswith("test_accuracy[")
    grid = replace(grid, values=grid.values.assign(value=grid.values["value"].mask(of_accuracy, 7)))
    found = findings(grid, Rules())
    assert not any("at=" in name for page in further_pages(found) for name in page)
    (note,) = (text for _, text in not_standard(found) if "same" in text)
    assert note.endswith("test_accuracy at 9 places along trainings 7 %")


def test_lines_join_the_places_of_each_cell(found: Findings) -> None:
    levels = {"train_loss": {"a level": 2.0}}
    drawn = asked(found, "along", quantities=("train_loss",), levels=levels)
    (ax,) = drawn.figures["mine"].axes
    assert (ax.get_xlabel(), ax.get_yscale()) == ("epoch", "log")
    lines = {str(line.get_label()): line for line in ax.lines}
    assert set(np.asarray(lines["a level"].get_ydata())) == {2.0}
    assert len(lines) == 5
    means = found.grid.values.query("quantity == 'train_loss'").groupby("cell")["value"].mean()
    firsts = sorted(
        float(np.asarray(line.get_ydata())[0]) for name, line in lines.items() if name != "a level"
    )
    assert firsts == pytest.approx(sorted(means))
    for name, line in lines.items():
        if name != "a level":
            assert list(np.asarray(line.get_xdata())) == list(EPOCHS)
            ys = np.asarray(line.get_ydata())
            assert ys / ys[0] == pytest.approx([1, 6, 21])
    assert len(drawn.tables["mine"]) == 4 * 2 * 3


def test_lines_of_a_logarithm_are_on_a_log_scale(make_grid: MakeGrid) -> None:
    found = findings(with_places(make_grid(), ["trace"]), Rules())
    (ax,) = asked(found, "along", quantities=("trace",)).figures["mine"].axes
    assert (ax.get_ylabel(), ax.get_yscale()) == ("Hessian trace", "log")
    highest = max(float(np.max(np.asarray(line.get_ydata()))) for line in ax.lines)
    assert highest > 20 * 1000, "numbers as measured"


def test_diagrams_of_all_places_share_their_colours(found: Findings) -> None:
    drawn = asked(found, "evolution", quantities=("train_loss",), phases=False)
    meshes = [
        mesh
        for ax in drawn.figures["mine"].axes
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh) and ax.get_xlabel() != ""
    ]
    titles = [ax.get_title(loc="left") for ax in drawn.figures["mine"].axes]
    assert [title.split("\n")[0] for title in titles if title] == [
        f"epoch = {epoch}" for epoch in EPOCHS
    ]
    assert len(meshes) == 3
    assert len({(mesh.norm.vmin, mesh.norm.vmax) for mesh in meshes}) == 1
    numbers = [float(np.ma.max(mesh.get_array())) for mesh in meshes]
    assert np.array(numbers) / numbers[0] == pytest.approx([1, 6, 21])
    frames = drawn.films["mine"]
    of_frames = {
        (mesh.norm.vmin, mesh.norm.vmax)
        for frame in frames
        for ax in frame.axes
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh) and ax.get_xlabel() != ""
    }
    assert len(frames) == 3
    assert of_frames == {(meshes[0].norm.vmin, meshes[0].norm.vmax)}


def test_phases_are_drawn_if_all_that_they_need_is_measured_there(make_grid: MakeGrid) -> None:
    grid = make_grid()
    some = asked(findings(with_places(grid), Rules()), "evolution")
    assert not any("phase" in ax.get_title(loc="left") for ax in some.figures["mine"].axes)
    every = with_places(grid, PHASE_QUANTITIES, (0, 3))
    kept = findings(every, Rules())
    assert list(kept.phases.table["nearest"]) == list(
        findings(grid_at(every, ("epoch", 0)), Rules()).phases.table["nearest"]
    ), "the numbers at epoch 0 are those at the end"
    figure = asked(kept, "evolution").figures["mine"]
    assert [ax.get_title(loc="left") for ax in figure.axes].count("phases") == 2


def test_what_was_measured_in_one_way_has_the_plain_name_at_a_place(found: Findings) -> None:
    values = found.grid.values
    renamed = values.assign(
        quantity=values["quantity"].replace("train_loss[at=5]", "cka[at=5, b=1]")
    )
    there = grid_at(replace(found.grid, values=renamed), ("epoch", 5))
    assert set(there.values["quantity"]) == {"cka"}


def test_places_that_are_not_measured_are_refused(found: Findings) -> None:
    drawn = asked(found, "evolution", quantities=("train_loss",), places=(5, "update-7"))
    assert drawn.failed == ["mine"]
    ((_, reason),) = drawn.notes
    assert "nothing is measured at update 7; there are: epoch 0, epoch 5, epoch 20" in reason


def test_what_has_one_place_is_noted(found: Findings) -> None:
    drawn = asked(found, "along", quantities=("trace",))
    assert drawn.notes == [("mine", "trace is not measured at several places along trainings yet")]


def test_a_sweep_with_one_axis_has_lines_and_no_diagrams(found: Findings) -> None:
    one_axis = replace(found, grid=replace(found.grid, temperature_path=None))
    assert list(unasked_figures(one_axis, [], lambda _name: pd.DataFrame()).figures) == ["along"]
    both = unasked_figures(found, [], lambda _name: pd.DataFrame())
    assert sorted(both.figures) == ["along", "evolution"]
    assert not both.films, "unasked animations would take time"


def test_without_places_nothing_is_drawn(make_grid: MakeGrid) -> None:
    found = findings(make_grid(), Rules())
    assert not unasked_figures(found, [], lambda _name: pd.DataFrame()).figures


def test_a_table_has_a_row_for_each_place(found: Findings, tmp_path: Path) -> None:
    files = {path.name: path for path in write_tables(found, tmp_path / "tables")}
    assert not [name for name in files if "at-" in name]
    table = pd.read_csv(files["train_loss-along.csv"])
    assert sorted(table["at"].unique()) == list(EPOCHS)
    assert len(table) == 4 * 3
    text = files["train_loss-along.md"].read_text(encoding="utf-8")
    assert text.count("| epoch 20 |") == 2, "a block for each temperature"
    every = pd.read_csv(files["all.csv"])
    assert "train_loss[at=5]" in set(every["quantity"])


def test_a_film_has_every_frame_once(tmp_path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        frames = []
        for shade in ("red", "lime", "blue"):
            frames.append(Figure(figsize=(2, 1)))
            frames[-1].subplots().set_facecolor(shade)
        paths = write_film(frames, tmp_path / "film")
    assert paths[0].name == "film.gif"
    with Image.open(paths[0]) as film:
        assert film.n_frames == 3
        seen = []
        for number in range(3):
            film.seek(number)
            pixels = np.asarray(film.convert("RGB"))
            seen.append(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2])
        assert [int(np.argmax(one)) for one in seen] == [0, 1, 2]
