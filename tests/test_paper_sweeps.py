"""The sweeps of papers, a folder of ``sweeps/`` each: each sweep says what it is about, has a small
twin, and can be planned, and its figures show what it measures.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from phasegrid import load_sweep
from phasegrid.analysis.tables.quantities import quantity
from phasegrid.analysis.tables.variants import parts, plainly
from phasegrid.config.load import Sweep
from phasegrid.config.types import MetricRequest
from phasegrid.declare import FigureRequest
from phasegrid.figures.table import row_column
from phasegrid.plan.contents import trials_by_key
from phasegrid.plan.plan import make_plan
from phasegrid.registry import declared_metric, identity, resolve_figure

FOLDER = Path(__file__).resolve().parent.parent / "sweeps"
FOLDERS = ("taxonomy", "connectivity", "simplexes", "sharp-modes", "landscape")
FILES = {
    f"{path.parent.name}/{path.stem}": path
    for folder in FOLDERS
    for path in sorted((FOLDER / folder).glob("*.yaml"))
}
HEADINGS = ("Question", "Reference", "Cost", "Stated nowhere")
"""What a sweep of a figure or table says; others may have nothing that is stated nowhere."""
OF_A_PAPER = re.compile(r"/[a-z][0-9]{2}(-tiny)?$")
ALONE = set[str]()
"""Files without a twin."""


def dataset_of(path: Path) -> str:
    """The data set that a file names, or the files that it extends."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    extended = content.get("extends", [])
    found = content.get("dataset") or {}
    if "name" in found:
        return str(found["name"])
    others = [extended] if isinstance(extended, str) else extended
    return next((name for other in others if (name := dataset_of(path.parent / other))), "")


@cache
def loaded(name: str, *overrides: str) -> Sweep:
    return load_sweep(FILES[name], overrides)


def read(name: str, inputs: Mapping[str, str]) -> Sweep:
    """Load a sweep with small files in place of a user's own."""
    needed = inputs.get(dataset_of(FILES[name]))
    return loaded(name, *([needed] if needed else []))


def test_every_sweep_has_a_tiny_twin() -> None:
    assert len(FILES) > 44
    whole = {name.removesuffix("-tiny") for name in FILES if name not in ALONE}
    assert {*whole, *(f"{name}-tiny" for name in whole), *ALONE} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_sweep_opens_with_what_it_is_about(name: str) -> None:
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    head = list(takewhile(lambda line: line.startswith("# "), lines))
    assert head
    if re.match(r"# As [\w-]+\.yaml", head[0]):
        return
    said = [line.removeprefix("# ").partition(":")[0].partition(",")[0] for line in head]
    wanted = HEADINGS if OF_A_PAPER.search(name) else HEADINGS[:3]
    assert [heading for heading in said if heading in wanted] == list(wanted)


@pytest.mark.parametrize("name", FILES)
def test_a_sweep_can_be_planned(name: str, inputs: Mapping[str, str]) -> None:
    sweep = read(name, inputs)
    assert sweep.name in (name.replace("/", "-"), name.rpartition("/")[2])
    assert len(trials_by_key(make_plan(sweep))) > 0


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("taxonomy/")])
def test_a_tiny_sweep_draws_the_same_figures(name: str, inputs: Mapping[str, str]) -> None:
    if name in ALONE:
        return
    tiny, whole = (read(one, inputs) for one in (f"{name.removesuffix('-tiny')}-tiny", name))
    assert [one.name for one in tiny.figures] == [one.name for one in whole.figures]


@pytest.mark.parametrize("name", FILES)
def test_figures_name_what_is_measured(name: str, inputs: Mapping[str, str]) -> None:
    sweep = read(name, inputs)
    assert sweep.figures or name in ALONE or not name.startswith("taxonomy/")
    shown = [one for figure in sweep.figures for one in ways_shown(figure)]
    for metric, asked in shown:
        named = parts(f"[{asked}]")
        assert metric == "trials" or any(
            one.name == metric and fits(one, named, sweep) for one in sweep.metrics
        ), f"{metric}[{asked}]"


def ways_shown(figure: FigureRequest) -> Iterator[tuple[str, str]]:
    """Yield each metric and way of measuring that a figure shows."""
    needs = resolve_figure(figure.kind).needs(figure.args)
    for asked in needs.quantities:
        if "[" in asked or figure.kind != "gain":
            yield quantity(asked).table, asked.partition("[")[2].removesuffix("]")
    variants = figure.args.get("variants")
    metric = next(iter(needs.rows), None)
    for way in variants.values() if isinstance(variants, Mapping) else ():
        yield identity(str(metric)), str(way)
    rows = figure.args.get("rows")
    for numbers in rows.values() if isinstance(rows, Mapping) else ():
        for one in numbers if isinstance(numbers, list) else ():
            if one is not None and row_column(str(one))[0]:
                yield row_column(str(one))[0], str(one).partition("[")[2].removesuffix("]")


def fits(request: MetricRequest, named: Mapping[str, object], sweep: Sweep) -> bool:
    """Say whether a request measures in this way: with these arguments, or from these inputs."""
    axes = {c.name for c in declared_metric(request.name).columns if c.role == "axis"}
    of = None if request.of is None else sweep.metrics[request.of].id
    asked = {"stage": request.stage, "of": of, "id": request.id}
    joined = {"runs": request.runs or "all"} if request.joins else {}
    said = {**request.part.args, **request.asked, **asked, **joined}
    unchecked = {*axes, "at", "networks"}
    told = {key: value for key, value in named.items() if key not in unchecked}
    return all(plainly(said.get(key)) == plainly(value) for key, value in told.items())
