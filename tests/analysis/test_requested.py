"""The figures a sweep asks for: drawn from what is there, noted where it is not, refused where it
never can be.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from phasegrid.analysis.phases.rules import Rules
from phasegrid.analysis.report.findings import Findings, findings
from phasegrid.analysis.report.report import draw
from phasegrid.analysis.report.requested import Requested, requested_figures
from phasegrid.analysis.report.standard import diagram_figure, not_standard
from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.declare import FigureRequest
from phasegrid.figures import FIGURES
from phasegrid.run.published.taxonomy import import_taxonomy
from phasegrid.store.store import Store

MakeGrid = Callable[..., SweepTables]
RULES = Rules()

LINES = [
    f"{w},{b},{metric},{s},,{value + 0.01 * s + w / 100}"
    for w in (4, 64)
    for b in (16, 256)
    for s in (0, 1)
    for metric, value in (("train_nll", 0.5), ("train_accuracy", 80.0), ("test_accuracy", 70.0), ("test_nll", 1.0))
]  # fmt: skip


def request(kind: str, **args: object) -> FigureRequest:
    return FigureRequest(kind, asdict(FIGURES[kind].args(**args)))  # type: ignore[arg-type]


def asked(
    grid: SweepTables, *requests: FigureRequest, others: Mapping[str, SweepTables] | None = None
) -> Requested:
    return requested_figures(found_in(grid), requests, (others or {}).get)


def found_in(grid: SweepTables) -> Findings:
    return findings(grid, RULES)


def titles(wanted: Requested, name: str) -> list[str]:
    figure = wanted.figures[name]
    return [
        ax.get_title(loc="left").replace("\n", " ")
        for ax in figure.axes
        if ax.get_title(loc="left")
    ]


def with_noise_variant(grid: SweepTables) -> SweepTables:
    cka = grid.values[grid.values["quantity"] == "cka"]
    other = cka.assign(quantity="cka[mixup_alpha=null, pixel_noise=5]")
    return replace(grid, values=pd.concat([grid.values, other], ignore_index=True))


def test_panels_show_the_quantities_asked_for_in_their_order(make_grid: MakeGrid) -> None:
    panels = request(
        "panels", name="fig10", quantities=("cka", "cka[pixel_noise=5, mixup_alpha=null]")
    )
    wanted = asked(with_noise_variant(make_grid()), panels)
    assert titles(wanted, "fig10") == ["CKA", "CKA, pixel_noise=5, mixup_alpha=null", "phases"]
    assert list(wanted.notes) == []


def test_a_number_that_is_only_shown_when_asked_for_is(make_grid: MakeGrid) -> None:
    grid, name = make_grid(), "curve_gap_train_loss"
    loss = grid.values[grid.values["quantity"] == "train_loss"].assign(quantity=name)
    grid = replace(grid, values=pd.concat([grid.values, loss], ignore_index=True))
    assert name not in set(found_in(grid).table["quantity"])
    wanted = asked(grid, request("panels", name="p", quantities=(name, "cka"), phases=False))
    assert titles(wanted, "p") == ["gap of the training loss", "CKA"]


def test_panels_without_phases_have_no_map_and_no_borders(make_grid: MakeGrid) -> None:
    wanted = asked(make_grid(), request("panels", name="p", quantities=("cka",), phases=False))
    figure = wanted.figures["p"]
    assert titles(wanted, "p") == ["CKA"]
    assert not [text for ax in figure.axes for text in ax.texts if text.get_gid() == "phase-name"]


def test_the_figure_of_a_sweep_that_measures_nothing_of_phases_has_no_map(
    make_grid: MakeGrid,
) -> None:
    whole = make_grid()
    values = whole.values[whole.values["quantity"].isin(["test_accuracy", "train_loss"])]
    for grid, shown in ((whole, True), (replace(whole, values=values), False)):
        figure = diagram_figure(found_in(grid))
        found = [ax.get_title(loc="left") for ax in figure.axes]
        assert ("phases" in found) == shown
        assert "test accuracy" in found


def test_what_is_not_measured_yet_is_noted_and_the_rest_drawn(make_grid: MakeGrid) -> None:
    grid = make_grid()
    wanted = asked(
        grid,
        request("panels", name="some", quantities=("cka", "bleu")),
        request("lines", name="none", quantities=("cka[mixup_alpha=3]",)),
        request("gain", name="later", against="other"),
    )
    assert list(wanted.figures) == ["some"]
    assert list(wanted.notes) == [
        ("some", "bleu is not measured yet"),
        ("none", "cka[mixup_alpha=3] is not measured yet"),
        ("later", "the store has no sweep 'other' yet"),
    ]


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("panels", {"quantities": ("sharpness",)}, "no quantity is called 'sharpness'"),
        ("lines", {"quantities": ("cka",), "at": ("17",)}, "at: no batch size '17'; there are: 16"),
        ("gain", {"against": "other", "quantity": "trace"}, "the best trace: neither more"),
    ],
)  # fmt: skip
def test_what_can_never_be_drawn_is_noted_and_stops_no_other(
    make_grid: MakeGrid, kind: str, args: dict[str, object], message: str
) -> None:
    grid = make_grid()
    good = request("panels", name="good", quantities=("cka",))
    wanted = asked(grid, request(kind, name="bad", **args), good, others={"other": grid})
    assert list(wanted.figures) == ["good"]
    assert list(wanted.failed) == ["bad"]
    ((name, reason),) = wanted.notes
    assert name == "bad"
    assert reason.startswith(f"failed: {message}")


def test_lines_run_along_the_temperature_one_for_each_load_asked_for(make_grid: MakeGrid) -> None:
    lines = request(
        "lines", name="f8e", quantities=("trace",), along="temperature", at=("4", "64"), title="8e"
    )
    figure = asked(make_grid(), lines).figures["f8e"]
    (ax,) = figure.axes
    assert ax.get_xlabel() == "batch size  (temperature →)"
    assert [bars.get_label() for bars in ax.containers] == ["width 4", "width 64"]
    assert ax.get_title(loc="left") == "ln Hessian trace"


def test_curves_are_drawn_where_there_are_any(make_grid: MakeGrid) -> None:
    grid = make_grid()
    assert titles(asked(grid, request("curves", name="c")), "c") == [
        "training error along the connecting curve"
    ]
    without = replace(grid, curves=grid.curves.head(0))
    assert list(asked(without, request("curves", name="c")).notes) == [
        ("c", "no connecting curve is measured yet")
    ]


def test_the_gain_brings_its_table(make_grid: MakeGrid) -> None:
    grid = make_grid()
    gain = request("gain", name="fig13", against="other", labels=("decay", "constant"))
    wanted = asked(grid, gain, others={"other": grid})
    table = wanted.tables["fig13"]
    assert table is not None
    assert list(table["gain"]) == [0.0] * 4
    assert titles(wanted, "fig13") == [
        "best test accuracy of each load",
        "gain of decay over constant",
    ]


def test_a_gain_over_a_sweep_that_has_not_begun_is_noted(make_grid: MakeGrid) -> None:
    grid = make_grid()
    empty = replace(grid, values=grid.values.head(0))
    gain = request("gain", name="g", against="other")
    assert list(asked(grid, gain, others={"other": empty}).notes) == [
        ("g", "test_accuracy is not measured yet in other")
    ]


def test_a_gain_without_a_shared_load_is_drawn_with_a_note(make_grid: MakeGrid) -> None:
    gain = request("gain", name="g", against="other")
    other = make_grid(loads=(5, 6, 7, 8))
    wanted = asked(make_grid(), gain, others={"other": other})
    assert list(wanted.notes) == [("g", "no load is in both sweeps yet (other)")]
    assert len(wanted.figures["g"].axes) == 2


def test_a_sweep_without_temperature_has_its_panels_and_lines(make_grid: MakeGrid) -> None:
    grid = make_grid([["I", "II", "IV-B", "IV-B"]], temperatures=("",), temperature_path=None)
    wanted = asked(
        grid,
        request("panels", name="p", quantities=("cka",)),
        request("lines", name="l", quantities=("cka",)),
        request("lines", name="t", quantities=("cka",), along="temperature"),
        request("gain", name="g", against="other"),
        others={"other": grid},
    )
    assert sorted(wanted.figures) == ["g", "l", "p"]
    assert list(wanted.notes) == [("t", "the sweep has no temperature")]
    for drawing in wanted.figures.values():
        assert drawing.axes


def test_requests_in_the_store_are_drawn_with_the_rest(tmp_path: Path) -> None:
    csv = tmp_path / "published.csv"
    head = "width,batch_size,metric,seed_a,seed_b,value"
    csv.write_text("\n".join([head, *LINES]), encoding="utf-8")
    store = Store.open(str(tmp_path / "store"), create=True)
    import_taxonomy(csv, store, "toy")
    store.notes.put_figures(
        "toy",
        [
            request("panels", name="fig02.a", quantities=("test_accuracy", "cka")),
            request("gain", name="fig13", against="toy"),
        ],
    )
    paths = draw(tmp_path / "store", "toy", tmp_path / "out", ["png"])
    written = {path.relative_to(tmp_path / "out").as_posix() for path in paths}
    assert {"diagram.png", "fig02.a.png", "fig13.png", "fig13.csv", "not_drawn.csv"} <= written
    assert {"tables/phase.md", "tables/niceness.tex", "tables/limited_by.md"} <= written
    notes = pd.read_csv(tmp_path / "out" / "not_drawn.csv")
    assert notes.to_dict("records") == [{"figure": "fig02.a", "reason": "cka is not measured yet"}]


def test_what_the_axes_leave_no_room_for_is_noted(make_grid: MakeGrid) -> None:
    grid = make_grid()
    more = grid.values[grid.values["quantity"] == "cka"].assign(quantity="cka[mixup_alpha=4]")
    grid = replace(grid, values=pd.concat([grid.values, more], ignore_index=True))
    assert not not_standard(found_in(grid))
    one_axis = dict(not_standard(found_in(replace(grid, temperature_path=None))))
    assert one_axis["diagram"].startswith("the sweep has no temperature")
    assert "cka[mixup_alpha=4]" in one_axis["further"]
    none = not_standard(found_in(replace(grid, load_path=None, temperature_path=None)))
    assert [name for name, _ in none] == ["diagram"]
