"""The figures of a sweep are resolved like everything else in it, kept in the store, and part of no
key.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from store_support import make_store
from test_sweep_mistakes import mistakes, write

from phasegrid import load_sweep
from phasegrid.config.figures import STANDARD_STEMS, with_defaults
from phasegrid.config.load import Sweep
from phasegrid.declare import FigureRequest
from phasegrid.errors import StoreError
from phasegrid.figures import FIGURES as KINDS
from phasegrid.plan.contents import plan_hash
from phasegrid.plan.plan import make_plan
from phasegrid.plugin_files import FOLDERS_VARIABLE
from phasegrid.run.verify import verify
from phasegrid.store.compact import compact
from phasegrid.store.meta import figures_text, parse_figures
from phasegrid.store.results import Results
from phasegrid.store.store import Store

BASE = """\
schema: 1
name: tiny
dataset: {name: digits}
model: {name: mlp, depth: 1}
load: {param: train.lr, values: [1, 0.1]}
temperature: {param: train.batch_size, values: [16, 24, 32]}
include: [{load: 0.5, temperature: 16}]
seeds: 2
metrics: [hessian, connectivity]
"""
FIGURES = """\
figures:
  - panels: {name: fig06, quantities: [test_accuracy, trace]}
  - lines: {name: fig07, quantities: [trace], along: temperature, at: [1, "0.1", 5e-1]}
  - curves: {name: fig12, title: Curves}
  - gain: {name: fig13, against: other, labels: [noisy, clean]}
"""

Load = Callable[..., Sweep]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(extra: str = FIGURES, *overrides: str, base: str = BASE) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(base + extra, encoding="utf-8")
        return load_sweep(path, overrides)

    return write_and_load


def test_figures_are_resolved_with_their_defaults(load: Load) -> None:
    panels, lines, curves, gain = load().figures
    assert panels == FigureRequest(
        "panels",
        {
            "name": "fig06",
            "quantities": ["test_accuracy", "trace"],
            "title": None,
            "phases": True,
            "columns": None,
            "share_colours": None,
        },
    )
    assert (lines.name, lines.args["along"]) == ("fig07", "temperature")
    assert curves.args == {"name": "fig12", "title": "Curves"}
    assert (gain.args["quantity"], gain.args["labels"]) == ("test_accuracy", ["noisy", "clean"])
    assert load("").figures == ()
    assert load("figures: null\n").figures == ()


def test_lines_may_be_named_by_numbers(load: Load) -> None:
    assert load().figures[1].args["at"] == ["1.0", "0.1", "0.5"]  # the labels of the axis


def test_lines_may_be_named_by_truths(load: Load) -> None:
    base = BASE.replace("train.lr, values: [1, 0.1]", "train.nesterov, values: [true, false]")
    base = base.replace("include: [{load: 0.5, temperature: 16}]\n", "")
    text = "figures: [lines: {name: a, quantities: [trace], along: temperature, at: [true]}]\n"
    assert load(text, base=base).figures[0].args["at"] == ["true"]


def test_figures_change_no_key(load: Load) -> None:
    assert plan_hash(make_plan(load())) == plan_hash(make_plan(load("")))


def test_a_list_of_figures_replaces_that_of_an_extended_sweep(load: Load, tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(BASE + FIGURES)
    base = "extends: parent.yaml\n"
    assert [f.name for f in load("", base=base).figures] == ["fig06", "fig07", "fig12", "fig13"]
    assert [f.name for f in load("figures: [curves: {name: a}]", base=base).figures] == ["a"]


def test_a_figure_can_be_changed_from_the_command_line(load: Load) -> None:
    sweep = load(FIGURES, "figures.curves.title=Bridges", "figures.0.panels.columns=3")
    assert [f.args.get("title") for f in sweep.figures] == [None, None, "Bridges", None]
    assert sweep.figures[0].args["columns"] == 3


CASES = [
    # the list, path, message
    ("{}", "figures", "found {}; allowed: a list of figures"),
    ("[3]", "figures.0", "found 3; allowed: a name, or one name"),
    ("[panls: {name: a}]", "figures.0", "did you mean 'panels'"),
    ("[curves]", "figures.0.curves.name", "found nothing; it is required"),
    ("[curves: 3]", "figures.0.curves", "found 3; allowed: a mapping with the keys name, title"),
    ("[curves: {name: 3}]", "figures.0.curves.name", "found 3; allowed: text"),
    (
        "[curves: {name: Up}]",
        "figures.0.curves.name",
        r"found 'Up'; allowed: text of the form \^\[",
    ),
    ("[curves: {name: a, titel: b}]", "figures.0.curves.titel", "did you mean 'title'"),
    ("[panels: {name: a}]", "figures.0.panels.quantities", "found nothing; it is required"),
    ("[panels: {name: a, quantities: []}]", "figures.0.panels.quantities", "at least 1 items"),
    ("[panels: {name: a, quantities: b}]", "figures.0.panels.quantities", "allowed: a list"),
    ("[panels: {name: a, quantities: [3]}]", "figures.0.panels.quantities.0", "found 3; .* text"),
    (
        "[panels: {name: a, quantities: [test_loss, test_loss]}]",
        "figures.0.panels.quantities.1",
        "'test_loss' twice",
    ),
    (
        "[panels: {name: a, quantities: [test_loss], columns: 0}]",
        "figures.0.panels.columns",
        "found 0; allowed: at least 1",
    ),
    (
        "[panels: {name: a, quantities: [test_loss], phases: 1}]",
        "figures.0.panels.phases",
        "found 1; allowed: true or false",
    ),
    (
        "[lines: {name: a, quantities: [test_loss], along: lod}]",
        "figures.0.lines.along",
        "did you mean 'load'",
    ),
    (
        "[lines: {name: a, quantities: [test_loss], at: [4, 5]}]",
        "figures.0.lines.at.1",
        "found '5', which is not on the axis temperature; allowed: 4, 8",
    ),
    (
        "[lines: {name: a, quantities: [test_loss], at: [4, '4']}]",
        "figures.0.lines.at.1",
        "found '4' twice",
    ),
    (
        "[lines: {name: a, quantities: [test_loss], at: [{c: 1}]}]",
        "figures.0.lines.at.0",
        "found {c: 1}; allowed: text",
    ),
    ("[lines: {name: a, quantities: [test_loss], at: 4}]", "figures.0.lines.at", "allowed: a list"),
    ("[gain: {name: a}]", "figures.0.gain.against", "found nothing; it is required"),
    ("[gain: {name: a, against: tiny}]", "figures.0.gain.against", "this sweep itself"),
    (
        "[gain: {name: a, against: b, labels: [c]}]",
        "figures.0.gain.labels",
        r"found \['c'\]; allowed: ",
    ),
    (
        "[panels: {name: a, quantities: [trace, tracee]}]",
        "figures.0.panels.quantities.1",
        "found 'tracee', which no metric of the sweep gives; allowed: .*did you mean 'trace'",
    ),
    (
        "[lines: {name: a, quantities: ['cka[mixup_alpha=4]']}]",
        "figures.0.lines.quantities.0",
        r"found 'cka\[mixup_alpha=4\]', which metric cka gives, but metrics does not ask for it",
    ),
    (
        "[gain: {name: a, against: b, quantity: log_volume}]",
        "figures.0.gain.quantity",
        "which metric simplex gives, but",
    ),
    (
        "[slices: {name: a}]",
        "figures.0.slices",
        "reads rows of metric slice, but metrics does not ask for it; .*: hessian, connectivity",
    ),
    (
        "[rows: {name: a, metric: conectivity, x: t, y: [train_loss]}]",
        "figures.0.rows.metric",
        "did you mean 'connectivity'",
    ),
    (
        "[rows: {name: a, metric: connectivity, x: t, y: [train_loss, los]}]",
        "figures.0.rows.y.1",
        r"found 'los'; allowed: a column of connectivity: .*_loss and \d\d others \(phasegrid schema",
    ),
    (
        "[rows: {name: a, metric: connectivity, x: s, y: [train_loss]}]",
        "figures.0.rows.x",
        "found 's'; allowed: a column of connectivity",
    ),
    ("[curves: {name: a}, curves: {name: a}]", "figures.1.curves.name", "found 'a' twice"),
]


@pytest.mark.parametrize(("listed", "path", "message"), CASES)
def test_a_mistake_is_told_with_path_and_reason(
    tmp_path: Path, listed: str, path: str, message: str
) -> None:
    (mistake,) = mistakes(write(tmp_path, figures=listed, metrics="[hessian, connectivity]"))
    assert mistake.path == path
    assert re.search(message, mistake.message)
    assert (mistake.line, mistake.column >= 10) == (9, True)


@pytest.mark.parametrize("stem", [*STANDARD_STEMS, "further_1", "further_12"])
def test_no_figure_takes_the_name_of_one_that_every_sweep_has(tmp_path: Path, stem: str) -> None:
    (mistake,) = mistakes(
        write(tmp_path, figures=f"[panels: {{name: {stem}, quantities: [test_loss]}}]")
    )
    assert re.search(f"found '{stem}', which every sweep has", mistake.message)


def test_lines_need_their_axis(tmp_path: Path) -> None:
    lines = "[lines: {name: a, quantities: [test_loss]}]"
    (mistake,) = mistakes(write(tmp_path, load=None, figures=lines))
    assert mistake.message.startswith("found load, but the sweep has no such axis; allowed: temp")
    at = "[lines: {name: a, quantities: [test_loss], at: [4]}]"
    (mistake,) = mistakes(write(tmp_path, temperature=None, figures=at))
    assert mistake.message.endswith("allowed: none (the sweep has no axis temperature)")


def test_every_mistake_is_told_at_once_but_no_consequence(tmp_path: Path) -> None:
    figures = "[lines: {name: A, quantities: [test_loss, test_loss], at: [x]}, curve: {}, gain: {name: phases}]"
    found = mistakes(write(tmp_path, figures=figures))
    assert [m.path for m in found] == [
        "figures.0.lines.name",
        "figures.0.lines.quantities.1",
        "figures.0.lines.at.0",
        "figures.1",
        "figures.2.gain.against",
        "figures.2.gain.name",
    ]
    broken = write(
        tmp_path,
        temperature="{param: train.batch_size, values: [4, x]}",
        figures="[lines: {name: a, quantities: [test_loss], at: [8]}]",
    )
    assert [m.path for m in mistakes(broken)] == ["temperature.values.1"]


RAISES = """\
from dataclasses import dataclass
from phasegrid.declare import FigureKind, Needs

@dataclass(frozen=True)
class Args:
    name: str

OWN = FigureKind(Args, lambda tables, args: None, needs=lambda args: Needs(rows=("cka",)))
RAISES = FigureKind(Args, lambda tables, args: None, needs=lambda args: Needs(rows=args["rows"]))
"""


def test_a_kind_of_ones_own_is_checked_by_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS_VARIABLE, "")
    (tmp_path / "dots.py").write_text(RAISES)
    listed = '["dots.py:OWN": {name: a}, "dots.py:RAISES": {name: b}]'
    first, second = mistakes(write(tmp_path, figures=listed, metrics="[accuracy]"))
    assert (first.path, second.path) == ("figures.0.dots.py:OWN", "figures.1.dots.py:RAISES")
    assert first.message == (
        "reads rows of metric cka, but metrics does not ask for it; it asks for: accuracy"
    )
    assert re.fullmatch(r"checking it raises KeyError: 'rows' \(.*dots.py:9\)", second.message)


def test_what_is_not_measured_is_no_mistake_where_the_metrics_have_one(tmp_path: Path) -> None:
    figures = "[panels: {name: a, quantities: [cka]}]"
    (mistake,) = mistakes(write(tmp_path, figures=figures, metrics="[ckaa]"))
    assert mistake.path == "metrics.0"


def test_what_is_written_is_read_back(load: Load) -> None:
    figures = list(load().figures)
    assert {figure.kind for figure in figures} == {"panels", "lines", "curves", "gain"} & set(KINDS)
    assert with_defaults(parse_figures(figures_text(figures))) == (figures, [])
    assert parse_figures(figures_text([])) == []


def test_an_argument_added_since_has_its_default() -> None:
    (figure,), _absent = with_defaults(parse_figures('[{"kind": "curves", "args": {"name": "a"}}]'))
    assert figure.args == {"name": "a", "title": None}


BAD = [
    ("", "Expecting value"),
    ("\xff", "Expecting value"),
    ("{}", "it is not a list of figures"),
    ("[3]", "item 0 is not a figure kind with its args"),
    ('[{"kind": "curves"}]', "item 0 is not a figure kind with its args"),
    ('[{"kind": "new", "args": {"name": "a"}}]', "item 0: found figure 'new'; allowed: panels"),
    ('[{"kind": "curves", "args": 3}]', "item 0: its args are not a mapping with a name"),
    ('[{"kind": "curves", "args": {"name": "a", "b": 1}}]', "item 0: found the key 'b'"),
    ('[{"kind": "lines", "args": {"name": "a", "quantities": ["b"], "at": [1]}}]', "item 0: fou"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_text_that_is_no_list_of_figures_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_defaults(parse_figures(text))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def test_the_store_keeps_figures_and_says_what_changed(load: Load, store: Store) -> None:
    figures = load().figures
    path = Path(store.files.path("meta/figures/tiny.json"))
    assert store.notes.read_figures("tiny") == []
    assert not store.notes.put_figures("tiny", ())
    assert not path.exists()
    assert store.notes.put_figures("tiny", figures)
    before = path.stat().st_mtime_ns
    assert not store.notes.put_figures("tiny", figures)
    assert path.stat().st_mtime_ns == before
    assert Results(store).figures("tiny") == list(figures)
    assert store.notes.put_figures("tiny", figures[:1])
    assert store.notes.read_figures("tiny") == [figures[0]]
    assert store.notes.put_figures("tiny", ())
    assert store.notes.read_figures("tiny") == []
    assert store.notes.read_figures("other") == []


@pytest.mark.parametrize("data", [b"[", b"\xff\xfe\x00", b'[{"kind": "new", "args": {}}]'])
def test_damaged_figures_are_named_and_written_anew(load: Load, store: Store, data: bytes) -> None:
    figures = load().figures
    store.notes.put_figures("tiny", figures)
    Path(store.files.path("meta/figures/tiny.json")).write_bytes(data)
    with pytest.raises(
        StoreError, match=r"figures of tiny: .*tiny.json is damaged, or was written by a newer"
    ):
        Results(store).figures("tiny")
    assert store.notes.put_figures("tiny", figures)
    assert store.notes.read_figures("tiny") == list(figures)


def test_a_sweep_whose_name_is_a_path_has_no_figures(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot name a file"):
        store.notes.read_figures("../plans")


def test_figures_are_no_problem_of_a_store(load: Load, store: Store) -> None:
    store.notes.put_figures("tiny", load().figures)
    assert verify(store, deep=True) == []
    assert compact(store).tables == ()
    assert Store.open(store.url, create=True).sweeps() == []


def test_a_figure_of_an_extended_sweep_may_need_a_metric_that_is_not_asked_for(
    tmp_path: Path,
) -> None:
    figures = "[panels: {name: own, quantities: [lambda_max]}]"
    whole = write(tmp_path, figures=figures, metrics="[hessian, accuracy]")
    assert [f.name for f in load_sweep(whole, ["metrics=[accuracy]"]).figures] == ["own"]
    (mistake,) = mistakes(write(tmp_path, figures=figures, metrics="[accuracy]"))
    assert "found 'lambda_max', which metric hessian gives" in mistake.message
