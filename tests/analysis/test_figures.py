"""Figures without pixels: edges, directions, labels, hatches, lines."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from phasegrid.analysis.draw.colours import colour_scale, linear_scale
from phasegrid.analysis.draw.curves import curve_grid, cuts
from phasegrid.analysis.draw.diagrams import phase_diagram, phase_map
from phasegrid.analysis.draw.differences import difference_diagram
from phasegrid.analysis.draw.lines import curve_panels, cut_panels
from phasegrid.analysis.draw.panels import seven_panels
from phasegrid.analysis.draw.scales import Frame, make_axis, make_frame, thinned
from phasegrid.analysis.draw.style import (
    DIVERGED,
    INAPPLICABLE,
    MISSING,
    NEGATIVE,
    NOT_CONVERGED,
    NOT_TRAINED,
    PHASE_COLOURS,
    PHASE_MEANINGS,
    STYLE,
    UNDEFINED,
    UNSURE,
    ZERO,
    Hatch,
)
from phasegrid.analysis.draw.ticks import set_ticks, tick_room
from phasegrid.analysis.phases.label import PHASES, label_phases
from phasegrid.analysis.phases.phase_map import PhaseMap
from phasegrid.analysis.phases.rules import Rules, rules_from
from phasegrid.analysis.stats.aggregate import aggregate, counts_in_words
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import QUANTITIES, SEVEN, seven

MakeGrid = Callable[..., SweepTables]

HOLES = [
    ["collapsed", "II", "II", "diverged"],
    ["I", "II", "IV-B", "IV-B"],
    ["I", "III", "IV-B", "IV-B"],
    [None, "III", "IV-A", "IV-A"],
]


def prepared(grid: SweepTables) -> tuple[PhaseMap, Frame]:
    phases = label_phases(grid, Rules())
    return phases, make_frame(grid.cells, grid.load_path, grid.temperature_path)


def new_axes() -> Axes:
    return Figure(figsize=(4, 3)).subplots()


def drawn(grid: SweepTables, name: str = "train_loss", **options: object) -> Axes:
    phases, frame = prepared(grid)
    table = aggregate(grid, [name])
    return phase_diagram(new_axes(), table, QUANTITIES[name], frame, phases=phases.table, **options)  # type: ignore[arg-type]


def mesh_of(ax: Axes) -> QuadMesh:
    (mesh,) = [item for item in ax.collections if isinstance(item, QuadMesh)]
    return mesh


def hatched(ax: Axes, style: Hatch) -> list[Rectangle]:
    return [p for p in ax.patches if isinstance(p, Rectangle) and p.get_hatch() == style.hatch]


def labels(axis: matplotlib.axis.Axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_cells_meet_at_geometric_midpoints_on_log_axes(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid())
    corners = np.asarray(mesh_of(ax).get_coordinates())
    np.testing.assert_allclose(corners[0, :, 0], [2, 8, 32, 128, 512])
    np.testing.assert_allclose(corners[:, 0, 1], [8, 32, 128, 512, 2048])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_every_cell_is_drawn_at_its_own_values(make_grid: MakeGrid) -> None:
    grid = make_grid()
    ax = drawn(grid, "trace")
    drawn_values = np.asarray(mesh_of(ax).get_array())
    frame = make_frame(grid.cells, grid.load_path, grid.temperature_path)
    rows = [row for row in aggregate(grid, ["trace"]).to_dict("records") if not row["not_trained"]]
    assert len(rows) == 15
    for row in rows:
        j = frame.temperature.index(row["temperature_label"])
        assert drawn_values[j, frame.load.index(row["load_label"])] == row["value"]


def test_cells_meet_at_arithmetic_midpoints_on_uneven_linear_axes() -> None:
    axis = make_axis("dataset.label_noise", [0.0, 0.1, 0.4], ["0.0", "0.1", "0.4"])
    assert axis.spacing == "linear"
    assert axis.edges == pytest.approx((-0.05, 0.05, 0.25, 0.55))


@pytest.mark.parametrize(
    ("path", "values", "spacing"),
    [
        ("x.y", [1.0, 10.0], "linear"),
        ("x.y", [1.0, 10.1], "log"),
        ("x.y", [0.0, 1.0, 20.0], "linear"),
        ("train.weight_decay", [0.0, 1e-5, 1e-2], "ordinal"),
        ("train.batch_size", [16.0, 32.0], "log"),
        ("model.width", [4.0, 8.0], "log"),
        ("model.activation", [float("nan"), float("nan")], "ordinal"),
        ("x.y", [3.0], "linear"),
    ],
)
def test_spacing_follows_the_values_and_the_path(
    path: str, values: list[float], spacing: str
) -> None:
    assert make_axis(path, values, [f"v{i}" for i in range(len(values))]).spacing == spacing


def test_a_declared_spacing_wins() -> None:
    assert make_axis("x", [1.0, 100.0], ["1", "100"], spacing="linear").edges[0] == -48.5


def test_an_axis_of_names_keeps_the_order_of_the_plan() -> None:
    axis = make_axis("model.activation", [float("nan")] * 3, ["relu", "gelu", "tanh"])
    assert axis.labels == ("relu", "gelu", "tanh")
    assert axis.centres == (0.0, 1.0, 2.0)


def test_a_single_value_still_has_a_cell() -> None:
    assert make_axis("model.width", [8.0], ["8"]).edges == pytest.approx((8 / 2**0.5, 8 * 2**0.5))
    assert make_axis("x", [8.0], ["8"]).edges == (7.5, 8.5)


def test_smaller_batches_are_hotter_and_on_top(make_grid: MakeGrid) -> None:
    bottom, top = drawn(make_grid()).get_ylim()
    assert bottom == pytest.approx(2048)
    assert top == pytest.approx(8)


@pytest.mark.parametrize("path", ["train.lr", "train.weight_decay"])
def test_larger_rates_and_decays_are_hotter_and_on_top(make_grid: MakeGrid, path: str) -> None:
    grid = make_grid(temperatures=[0.01, 0.03, 0.1, 0.3], temperature_path=path)
    bottom, top = drawn(grid).get_ylim()
    assert bottom < top


def test_batch_size_as_load_grows_to_the_right(make_grid: MakeGrid) -> None:
    grid = make_grid(load_path="train.batch_size", temperature_path="train.lr")
    left, right = drawn(grid).get_xlim()
    assert left < right


def test_ticks_stand_at_the_values(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid())
    assert labels(ax.xaxis) == ["4", "16", "64", "256"]
    np.testing.assert_allclose(ax.xaxis.get_majorticklocs(), [4, 16, 64, 256])
    assert ax.get_xlabel() == "width  (load →)"
    assert ax.get_ylabel() == "batch size  (temperature →)"


def test_crowded_ticks_lose_labels_but_not_ends() -> None:
    values = [float(v) for v in range(100, 130)]
    axis = make_axis("x", values, [f"{v:.0f}" for v in values])
    kept = thinned(axis, [0.11] * 30)
    places = [axis.fraction(axis.centres[i]) for i in kept]
    assert (kept[0], kept[-1]) == (0, 29)
    assert 5 <= len(kept) <= 9
    assert (
        min(np.diff(places)) > 0.09
    )  # the last label may take the place of its neighbour, never touch it


def test_seven_short_labels_have_room_on_an_axis_of_two_inches() -> None:
    """Densities, evenly spread on the logarithmic axis of one panel of four."""
    values = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    axis = make_axis("density", values, [str(value) for value in values])
    with matplotlib.rc_context(STYLE):
        ax = Figure(figsize=(12.4, 2.8)).subplots(1, 4)[0]
        assert thinned(axis, tick_room(ax, axis)) == list(range(7))


def test_words_that_do_not_fit_below_an_axis_are_all_shown_at_a_slant() -> None:
    words = ["cross_entropy", "mse", "cross_entropy (label_smoothing 0.1)", "poisoned"]
    axis = make_axis("train.objective", [np.nan] * 4, words)
    with matplotlib.rc_context(STYLE):
        ax = Figure(figsize=(12.4, 2.8)).subplots(1, 4)[0]
        set_ticks(ax.xaxis, axis, tick_room(ax, axis))
        shown = ax.get_xticklabels()
    assert [text.get_text() for text in shown] == words
    assert {text.get_rotation() for text in shown} == {20.0}


def test_missing_and_diverged_cells_are_hatched_differently(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid(HOLES))
    (missing,), (diverged,) = hatched(ax, MISSING), hatched(ax, DIVERGED)
    assert missing.get_xy() == pytest.approx((2, 512))
    assert diverged.get_xy() == pytest.approx((128, 8))
    assert (diverged.get_width(), diverged.get_height()) == pytest.approx((384, 24))
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "not measured",
        "every trial diverged",
        "not trained: half of the seeds or more learned nothing",
    ]
    assert np.ma.count_masked(mesh_of(ax).get_array()) == 3


def test_negative_zero_and_missing_cells_are_three_hatches(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", "III", None]], loads=[4, 16, 64], temperatures=[16], noise=0.0)
    trace = grid.values["quantity"] == "trace"
    values = grid.values.copy()
    values.loc[trace & (values["cell"] == 0), "value"] = -1.0
    values.loc[trace & (values["cell"] == 1), "value"] = 0.0
    holed = SweepTables("g", grid.load_path, grid.temperature_path, grid.cells, values, grid.curves)
    ax = drawn(holed, "trace")
    assert [len(hatched(ax, style)) for style in (NEGATIVE, ZERO, MISSING)] == [1, 1, 1]
    legend = ax.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {
        "not measured", "negative: no logarithm", "zero within rounding: no logarithm",
    }  # fmt: skip
    frame = make_frame(holed.cells, holed.load_path, holed.temperature_path)
    rules = Rules(hessian=250.0)
    phases = label_phases(holed, rules).table
    ax = phase_map(new_axes(), phases, frame)
    assert [len(hatched(ax, style)) for style in (NEGATIVE, ZERO, MISSING)] == [1, 1, 1]
    legend = ax.get_legend()
    assert legend is not None
    assert {"negative: no logarithm", "zero within rounding: no logarithm"} <= {
        text.get_text() for text in legend.get_texts()
    }


def test_the_caption_states_n_and_what_is_missing(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid(HOLES))
    said = " ".join(text.get_text().replace("\n", " ") for text in ax.texts)
    assert (
        "n = 4 seeds; 1 cell missing; 1 cell diverged; 4 trials diverged; 4 trials collapsed"
        in said
    )


def test_a_cell_with_fewer_seeds_shows_its_n(make_grid: MakeGrid) -> None:
    grid = make_grid()
    first = (grid.values["cell"] == 5) & (grid.values["seed_a"] == 3)
    values = grid.values[~(first & (grid.values["quantity"] == "train_loss"))]
    ax = drawn(
        SweepTables("g", grid.load_path, grid.temperature_path, grid.cells, values, grid.curves)
    )
    odd = [text for text in ax.texts if text.get_gid() == "odd-count"]
    assert [text.get_text() for text in odd] == ["3"]


def test_the_colour_bar_shows_label_unit_and_limits(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid(), "mode_connectivity")
    bar = next(other for other in ax.figure.axes if other is not ax)  # type: ignore[union-attr]
    assert bar.get_ylabel() == "mode connectivity (points)"
    ends = [text.get_text() for text in bar.get_yticklabels()]
    assert ends[0].startswith("−")
    assert ends[0].lstrip("−") == ends[-1]


def test_connectivity_is_white_at_zero(make_grid: MakeGrid) -> None:
    mesh = mesh_of(drawn(make_grid(), "mode_connectivity"))
    assert mesh.norm(0.0) == pytest.approx(0.5)


def test_cells_that_are_not_trained_have_a_hatch_and_no_colour(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = aggregate(grid, ["test_accuracy"])
    scale = colour_scale(table, QUANTITIES["test_accuracy"])
    assert scale.low > 60
    assert scale.extend == "neither"
    ax = drawn(grid, "trace")
    (patch,) = hatched(ax, NOT_TRAINED)
    assert patch.get_xy() == pytest.approx((2, 8))  # width 4, batch 16
    assert np.ma.count_masked(mesh_of(ax).get_array()) == 1
    assert triangles(ax) == []


def test_a_sweep_of_which_nothing_is_trained_draws_hatches_alone(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid([["collapsed"] * 2] * 2, loads=[4, 16], temperatures=[16, 64]), "trace")
    assert len(hatched(ax, NOT_TRAINED)) == 4
    assert len(ax.figure.axes) == 1  # type: ignore[union-attr]  # no colour bar


def test_undefined_inapplicable_and_missing_are_three_hatches(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", "III", None]], loads=[4, 16, 64], temperatures=[16])
    values = grid.values.copy()
    cka = values["quantity"] == "cka"
    values.loc[cka, "value"] = np.nan
    values.loc[cka & (values["cell"] == 1), "outcome"] = "not_applicable"
    table = aggregate(replace(grid, values=values), ["cka"])
    assert list(table["status"]) == ["undefined", "not applicable", "missing"]
    ax = phase_diagram(new_axes(), table, QUANTITIES["cka"], prepared(grid)[1])
    assert [len(hatched(ax, style)) for style in (UNDEFINED, INAPPLICABLE, MISSING)] == [1, 1, 1]
    words = counts_in_words(table)
    assert words == "no cell measured; 1 cell missing; 1 cell not applicable; 1 cell undefined"


def test_losses_get_logarithmic_colours_when_they_span_decades(make_grid: MakeGrid) -> None:
    table = aggregate(make_grid(), ["train_loss"])
    assert colour_scale(table, QUANTITIES["train_loss"]).log
    narrow = table.assign(value=np.linspace(0.1, 0.2, len(table)))
    assert not colour_scale(narrow, QUANTITIES["train_loss"]).log


def test_a_loss_of_zero_is_coloured_as_below_the_limits(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", "III", "IV-A"]], loads=[4, 16, 64], temperatures=[16])
    values = grid.values.copy()
    values.loc[(values["quantity"] == "train_loss") & (values["cell"] == 2), "value"] = 0.0
    ax = drawn(replace(grid, values=values))
    colours = np.asarray(mesh_of(ax).get_array())
    assert np.ma.count_masked(mesh_of(ax).get_array()) == 0
    assert 0 < colours[0, 2] < colours[0, 1]


def test_equal_values_still_have_colour_limits(make_grid: MakeGrid) -> None:
    table = aggregate(make_grid(), ["cka"]).assign(value=0.5)
    scale = colour_scale(table, QUANTITIES["cka"])
    assert scale.low < 0.5 < scale.high


def test_no_values_still_draw_axes_and_hatches(make_grid: MakeGrid) -> None:
    grid = make_grid(HOLES)
    table = aggregate(grid, ["lambda_min"])
    ax = phase_diagram(new_axes(), table, QUANTITIES["lambda_min"], prepared(grid)[1])
    assert len(hatched(ax, MISSING)) == 14  # and one is not trained, one diverged
    assert len(ax.figure.axes) == 1  # type: ignore[union-attr]


def test_phases_are_named_once_and_bordered(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid())
    names = [text.get_text() for text in ax.texts if text.get_gid() == "phase-name"]
    assert sorted(names) == ["I", "II", "III", "IV-A", "IV-B", "not trained"]
    lines = [item for item in ax.collections if isinstance(item, LineCollection)]
    assert {len(item.get_segments()) for item in lines} == {2, 11}  # IV-A/IV-B, dashed; the others


def test_the_phase_map_stipples_what_is_undetermined(make_grid: MakeGrid) -> None:
    grid = make_grid(HOLES, mc_pairs="all")
    phases, frame = prepared(grid)
    table = phases.table.copy()
    table.loc[5, "phase"] = "undetermined"
    ax = phase_map(new_axes(), table, frame)
    assert len(hatched(ax, UNSURE)) == 1
    assert len(hatched(ax, MISSING)) == 1
    assert len(hatched(ax, DIVERGED)) == 1
    legend = ax.get_legend()
    assert legend is not None
    said = [text.get_text() for text in legend.get_texts()]
    assert said[-4:] == [
        "undetermined (nearest phase in colour)",
        "not measured",
        "every trial diverged",
        "some seeds collapsed (learned nothing)",
    ]


def test_seven_panels_and_the_phases_fill_two_rows_of_four(make_grid: MakeGrid) -> None:
    grid = make_grid()
    phases, frame = prepared(grid)
    figure = seven_panels(aggregate(grid), phases, frame, title="toy")
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    names = [title.replace("\n", " ") for title in titles]
    assert names == [*(QUANTITIES[name].label for name in SEVEN), "phases"]
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert {ax.get_gridspec().get_geometry() for ax in panels if ax.get_gridspec()} == {(2, 4)}


def test_a_quantity_that_was_not_measured_has_no_panel(make_grid: MakeGrid) -> None:
    grid = make_grid()
    values = grid.values[~grid.values["quantity"].isin(["cka", "l2_distance"])]
    grid = SweepTables("g", grid.load_path, grid.temperature_path, grid.cells, values, grid.curves)
    phases, frame = prepared(grid)
    titles = [ax.get_title(loc="left") for ax in seven_panels(aggregate(grid), phases, frame).axes]
    assert "CKA" not in titles
    assert "phases" in titles


def test_facets_become_columns_with_shared_colours(make_grid: MakeGrid) -> None:
    facets = ['[["dataset.label_noise",0]]', '[["dataset.label_noise",0.1]]']
    grid = make_grid(facets=facets)
    phases, frame = prepared(grid)
    figure = seven_panels(aggregate(grid), phases, frame, ["train_loss"])
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert [ax.get_title(loc="left").split("\n")[0] for ax in panels[:2]] == [
        "label noise = 0",
        "label noise = 0.1",
    ]
    limits = {(mesh_of(ax).norm.vmin, mesh_of(ax).norm.vmax) for ax in panels[:2]}
    assert len(limits) == 1


def test_every_cell_has_its_curve_between_its_own_ends(make_grid: MakeGrid) -> None:
    grid = make_grid(HOLES)
    phases, frame = prepared(grid)
    ax = curve_grid(new_axes(), grid.curves, phases.table, frame, top=20.0)
    solid = [line for line in ax.lines if len(line.get_xdata()) == 3]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert (len(solid), len(crosses)) == (14, 2)
    assert labels(ax.yaxis) == ["1024", "256", "64", "16"]  # bottom to top: the hottest on top
    barrier = next(  # width 4, batch 64: first column, second row from the top
        line for line in solid if abs(line.get_xdata()[1]) < 0.01 and 1.5 < line.get_ydata()[0] < 2
    )
    assert np.diff(np.asarray(barrier.get_ydata())).tolist() == pytest.approx(
        [0.86 * 12 / 20, -0.86 * 12 / 20]
    )


def test_cuts_draw_rows_with_error_bars_against_load(make_grid: MakeGrid) -> None:
    grid = make_grid()
    frame = prepared(grid)[1]
    table = aggregate(grid, ["test_accuracy"])
    ax = cuts(
        new_axes(), table, QUANTITIES["test_accuracy"], frame, along="load", at=["16", "1024"]
    )
    assert len(ax.containers) == 2
    assert [bars.get_label() for bars in ax.containers] == ["batch size 1024", "batch size 16"]
    row = table[table["temperature_label"] == "1024"]
    np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), row["value"])
    looks = [(bars.lines[0].get_marker(), bars.lines[0].get_linewidth()) for bars in ax.containers]
    assert [marker for marker, _ in looks] == ["o", "s"]
    assert looks[0][1] > looks[1][1], "an earlier line is seen beside a later one on it"
    assert ax.get_xlabel() == "width  (load →)"


def test_a_line_alone_is_dark(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = aggregate(grid, ["test_accuracy"])
    for at in (["16"], ["16", "1024"]):
        quantity, frame = QUANTITIES["test_accuracy"], prepared(grid)[1]
        ax = cuts(new_axes(), table, quantity, frame, along="load", at=at)
        assert np.mean(to_rgb(ax.containers[-1].lines[0].get_color())) < 0.3


def test_cuts_against_temperature_run_from_cold_to_hot(make_grid: MakeGrid) -> None:
    grid = make_grid()
    table = aggregate(grid, ["mode_connectivity"])
    ax = cuts(
        new_axes(), table, QUANTITIES["mode_connectivity"], prepared(grid)[1], along="temperature"
    )
    left, right = ax.get_xlim()
    assert left > right
    assert len(ax.containers) == 4


def test_figures_are_saved_without_a_warning_at_every_size_of_grid(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    for size in (1, 4):
        layout = [row[:size] for row in HOLES[1 : 1 + size]] if size == 1 else HOLES
        grid = make_grid(
            layout, loads=[4, 16, 64, 256][:size], temperatures=[16, 64, 256, 1024][:size]
        )
        phases, frame = prepared(grid)
        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("error")
            figure = seven_panels(aggregate(grid), phases, frame, ["train_loss", "cka"])
            for extension in ("png", "pdf") if size == 1 else ("png",):
                path = tmp_path / f"{size}.{extension}"
                figure.savefig(path, dpi=50)
                assert path.stat().st_size > 1000


def triangles(ax: Axes) -> list[tuple[float, float]]:
    """The corners at which triangles stand."""
    return [
        (float(x), float(y))
        for item in ax.collections
        if item.get_gid() == "collapsed"
        for x, y in np.asarray(item.get_offsets())
    ]


def test_a_cell_with_collapsed_seeds_has_a_triangle_in_its_corner(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", *HOLES[0][1:]], *HOLES[1:]])
    values = grid.values.copy()
    first = (values["cell"] == 0) & (values["seed_a"] == 0)
    values.loc[first & (values["quantity"] == "train_loss"), "value"] = 2.31
    values.loc[first & (values["quantity"] == "train_accuracy"), "value"] = 10.0
    grid = replace(grid, values=values)
    phases, frame = prepared(grid)
    for ax in (drawn(grid), phase_map(new_axes(), phases.table, frame)):
        (corner,) = triangles(ax)
        assert corner == pytest.approx((8, 8))  # width 4 ends at 8; batch 16, on top, at 8
        legend = ax.get_legend()
        assert legend is not None
        assert "some seeds collapsed (learned nothing)" in [
            t.get_text() for t in legend.get_texts()
        ]


def test_no_collapse_no_triangle(make_grid: MakeGrid) -> None:
    ax = drawn(make_grid([["II"] * 4, *HOLES[1:]]))
    assert triangles(ax) == []


def test_what_did_not_converge_has_a_colour_a_hatch_a_name_and_a_legend(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid(HOLES)
    rules = rules_from({"not_converged": 0.3})
    phases = label_phases(grid, rules)
    ax = phase_map(new_axes(), phases.table, prepared(grid)[1])
    stuck = int((phases.table["nearest"] == "NC").sum())
    assert len(hatched(ax, NOT_CONVERGED)) == stuck > 3
    assert "NC" in [text.get_text() for text in ax.texts if text.get_gid() == "phase-name"]
    legend = ax.get_legend()
    assert legend is not None
    assert "NC  not converged" in [text.get_text() for text in legend.get_texts()]
    assert set(PHASE_COLOURS) == set(PHASE_MEANINGS) == set(PHASES)


def test_the_main_figure_of_translation_leads_with_the_loss() -> None:
    names = seven("translation")
    assert names[0] == "test_loss"
    assert "mode_connectivity_loss" in names
    assert "mode_connectivity" not in names
    assert seven("classification") == SEVEN


def test_variants_side_by_side_share_their_colours(make_grid: MakeGrid) -> None:
    grid = make_grid()
    cka = grid.values[grid.values["quantity"] == "cka"]
    other = cka.assign(quantity="cka[mixup_alpha=4]", value=cka["value"] / 2)
    values = pd.concat([grid.values, other], ignore_index=True)
    grid = SweepTables("g", grid.load_path, grid.temperature_path, grid.cells, values, grid.curves)
    phases, frame = prepared(grid)
    figure = seven_panels(
        aggregate(grid), phases, frame, ["cka", "cka[mixup_alpha=4]"], with_phases=False
    )
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 2
    assert len({(mesh_of(ax).norm.vmin, mesh_of(ax).norm.vmax) for ax in panels}) == 1
    bars = [ax.get_ylabel() for ax in figure.axes if ax not in panels]
    assert bars == ["CKA", "CKA"]


def test_facets_share_one_colour_bar_per_row(make_grid: MakeGrid) -> None:
    facets = [f'[["dataset.label_noise",{noise}]]' for noise in (0, 0.1, 0.2)]
    grid = make_grid(facets=facets)
    phases, frame = prepared(grid)
    figure = seven_panels(aggregate(grid), phases, frame, ["train_loss", "cka"])
    assert sum(not ax.get_title(loc="left") for ax in figure.axes) == 2


def test_lines_of_facets_are_columns_and_only_the_drawn_rows_are_counted(
    make_grid: MakeGrid,
) -> None:
    facets = [f'[["dataset.label_noise",{noise}]]' for noise in (0, 0.1)]
    grid = make_grid(HOLES, facets=facets)
    figure = cut_panels(
        aggregate(grid), prepared(grid)[1], ["trace", "test_accuracy"], "load", ["64", "256"]
    )
    titles = [ax.get_title(loc="left").split("\n")[0] for ax in figure.axes]
    assert titles == ["label noise = 0", "label noise = 0.1", "test accuracy", "test accuracy"]
    said = [ax.texts[0].get_text().replace("\n", " ") for ax in figure.axes]
    assert set(said) == {"n = 4 seeds; bars: standard error"}
    assert [len(ax.containers) for ax in figure.axes] == [2, 2, 2, 2]


def test_curves_of_translation_show_the_loss(make_grid: MakeGrid) -> None:
    grid = make_grid()
    curves = grid.curves.assign(train_loss=grid.curves["train_error_percent"] / 10)
    phases, frame = prepared(grid)
    figure = curve_panels(curves, phases.table, frame, "train_loss")
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "training loss along the connecting curve"
    assert "loss from 0 to 2 (nats)" in ax.texts[0].get_text().replace("\n", " ")


def test_a_dot_marks_the_cells_that_differ(make_grid: MakeGrid) -> None:
    grid = make_grid()
    frame = prepared(grid)[1]
    table = aggregate(grid, ["train_loss"]).head(2)
    table = table.assign(difference=[-0.1, 0.2], differs=[True, False], n_a=4, n_b=4)
    scale = linear_scale(np.array([-0.1, 0.2]), 0.0)
    ax = difference_diagram(new_axes(), table, QUANTITIES["train_loss"], frame, scale)
    (dots,) = [item for item in ax.collections if item.get_gid() == "differs"]
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), [[4, 16]])
    assert len(hatched(ax, MISSING)) == 14
    mesh = mesh_of(ax)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.2, 0.2)
    assert "2 cells, at least 4 seeds; 1 of 2 differ" in ax.texts[0].get_text().replace("\n", " ")
