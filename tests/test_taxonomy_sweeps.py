"""The sweeps of ``sweeps/taxonomy``: each figure of Yang et al. 2021 as a file that says what it
costs and what it rests on.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from math import comb
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.config.load import Sweep
from phasegrid.jobs import MetricJob
from phasegrid.metrics import METRICS
from phasegrid.plan.contents import Plan, trials_by_key
from phasegrid.plan.plan import make_plan

FOLDER = Path(__file__).resolve().parent.parent / "sweeps" / "taxonomy"

STANDARD = {"accuracy": 1, "distance": 1, "hessian": 1, "cka": 1, "connectivity": 1}
FIGURES: Mapping[str, tuple[int, int, Mapping[str, int]]] = {
    "f02": (14 * 13, 5, STANDARD),
    "f03": (14 * 15, 5, STANDARD),
    "f04": (14 * 13, 5, STANDARD),
    "f05": (14 * 17, 5, STANDARD),
    "f06": (5 * 7 * 7, 5, STANDARD),
    "f07": (2 * 3 * 10 * 7, 5, STANDARD),
    "f08": (19 * 13, 5, STANDARD),
    "f09": (14 * 13, 5, {"cka": 5}),
    "f10": (14 * 13, 5, {"cka": 5}),
    "f11": (14 * 13, 5, {"connectivity": 4}),
    "f12": (14 * 13, 5, {"connectivity": 1}),
    "f13": (14 * 13, 5, {}),
    "f14": (7 * 7, 5, STANDARD),
    "f15": (14 * 13, 5, STANDARD),
    "f16": (14 * 13, 5, STANDARD),
    "f17": (14 * 17, 5, STANDARD),
    "f18": (6 * 6, 5, {**STANDARD, "bleu": 1}),
    "f19": (2 * 6 * 6, 5, {}),
    "f20": (14 * 17, 5, STANDARD),
    "f21": (9 * 13, 5, STANDARD),
    "f22": (14 * 16, 5, STANDARD),
    "f23": (14 * 13, 5, STANDARD),
    "f02-tiny": (9, 2, STANDARD),
    "f03-tiny": (9, 2, STANDARD),
    "f04-tiny": (9, 2, STANDARD),
    "f05-tiny": (9, 2, STANDARD),
    "f06-tiny": (2 * 3 * 2, 2, STANDARD),
    "f07-tiny": (2 * 2 * 2 * 2, 2, STANDARD),
    "f08-tiny": (9, 2, STANDARD),
    "f09-tiny": (9, 2, {"cka": 5}),
    "f10-tiny": (9, 2, {"cka": 5}),
    "f11-tiny": (3 * 2, 2, {"connectivity": 4}),
    "f12-tiny": (9, 2, {"connectivity": 1}),
    "f13-tiny": (9, 2, {}),
    "f14-tiny": (9, 2, STANDARD),
    "f15-tiny": (9, 2, STANDARD),
    "f16-tiny": (9, 2, STANDARD),
    "f17-tiny": (9, 2, STANDARD),
    "f18-tiny": (2 * 2, 2, {**STANDARD, "bleu": 1}),
    "f19-tiny": (2 * 2 * 2, 2, {}),
    "f20-tiny": (9, 2, STANDARD),
    "f21-tiny": (9, 2, STANDARD),
    "f22-tiny": (2 * 3, 2, STANDARD),
    "f23-tiny": (9, 2, STANDARD),
}
"""By file: cells, seeds, and in how many ways each metric is measured in a cell."""

SHARED: Mapping[tuple[str, str], int] = {
    ("f05", "f02"): 14 * 5,  # one row: batch size 128
    ("f06", "f02"): 7 * 7 * 5,  # the whole training set
    ("f07", "f06"): 5 * 3 * 7 * 5,  # clean labels, where fraction and width meet
    ("f07", "f04"): 3 * 7 * 5,  # the whole training set with noise
    ("f08", "f02"): 13 * 5,
    ("f08", "f04"): 13 * 5,
    ("f09", "f02"): 910,
    ("f10", "f02"): 910,
    ("f11", "f02"): 910,
    ("f12", "f02"): 910,
    ("f13", "f03"): 910,
    ("f17", "f04"): 14 * 5,
    ("f19", "f18"): 6 * 6 * 5,
    ("f20", "f02"): 14 * 5,
    ("f21", "f02"): 13 * 5,
    ("f22", "f02"): 910,
    ("f23", "f02"): 14 * 5,
    ("f03", "f02"): 0,
    ("f14", "f02"): 0,
    ("f15", "f02"): 0,
    ("f16", "f02"): 0,
    ("f09-tiny", "f02-tiny"): 18,
    ("f10-tiny", "f02-tiny"): 18,
    ("f11-tiny", "f02-tiny"): 12,
    ("f12-tiny", "f02-tiny"): 18,
    ("f13-tiny", "f03-tiny"): 18,
    ("f19-tiny", "f18-tiny"): 8,
}
"""How many trainings of the first file are those of the second."""

WIDTHS = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128]
OPTION = re.compile(r"^(?P<indent> *)# (?P<key>[a-z_]+): (?P<value>.*?)  # option(?: |:)")
PUBLISHED_DIFFERENCES = {1, 2, 3, 4, 6, 7, 14, 18, 19, 20}
"""Numbers D-001-N of the differences that are an option of some file."""


def needed(name: str, inputs: Mapping[str, str]) -> tuple[str, ...]:
    """The overrides that a file needs to find its data."""
    if name == "f16-tiny":
        return (inputs["npz"],)
    return (inputs["translation"],) if name[:3] in ("f18", "f19") else ()


@cache
def read(name: str, overrides: tuple[str, ...]) -> tuple[Sweep, Plan]:
    sweep = load_sweep(FOLDER / f"{name}.yaml", overrides)
    return sweep, make_plan(sweep)


def metric_jobs(plan: Plan) -> list[MetricJob]:
    return [job for cell in plan.cells for job in cell.metric_jobs]


def per_cell(metric: str, seeds: int) -> int:
    """How many times one way of measuring is done in a cell: every trial, every pair, or
    (connectivity) the first pair.
    """
    if metric == "connectivity":
        return 1
    return comb(seeds, 2) if METRICS[metric].over == "pair" else seeds


def header(name: str) -> str:
    """The comment a file opens with, as one text."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    taken = []
    for line in lines:
        if not line.startswith("# "):
            break
        taken.append(line[2:].strip())
    return "\n".join(taken)


def test_every_figure_has_its_sweep_and_its_tiny_one() -> None:
    found = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert found == sorted(FIGURES)
    numbers = [f"f{number:02d}" for number in range(2, 24)]
    assert found == sorted([*numbers, *(f"{number}-tiny" for number in numbers)])
    assert len(found) == 44


@pytest.mark.parametrize("name", FIGURES)
def test_cells_trials_and_measurements_are_those_of_the_table(
    name: str, inputs: Mapping[str, str]
) -> None:
    sweep, plan = read(name, needed(name, inputs))
    cells, seeds, ways = FIGURES[name]
    assert sweep.name == f"taxonomy-{name}"
    assert (len(plan.cells), len(sweep.seeds)) == (cells, seeds)
    assert len(trials_by_key(plan)) == cells * seeds
    jobs = metric_jobs(plan)
    assert Counter(job.metric.name for job in jobs) == {
        metric: cells * number * per_cell(metric, seeds) for metric, number in ways.items()
    }
    assert len({job.key for job in jobs}) == len(jobs)


@pytest.mark.parametrize("name", FIGURES)
def test_the_head_of_a_file_says_what_it_is_and_what_it_costs(
    name: str, inputs: Mapping[str, str]
) -> None:
    said = header(name)
    assert f"Figure {int(name[1:3])}" in said
    sweep, plan = read(name, needed(name, inputs))
    axes = [axis for axis in (*sweep.facets, sweep.load, sweep.temperature) if axis is not None]
    size = " x ".join(str(len(axis.values)) for axis in axes)
    cost = (
        f"Cost: {size} cells x {len(sweep.seeds)} seeds = {len(trials_by_key(plan)):,} trainings"
        f" and {len(metric_jobs(plan)):,} measurements.\n"
    )
    assert cost in said
    assert name.endswith("-tiny") or "GPU time: not yet measured." in said


@pytest.mark.parametrize(("name", "other"), SHARED)
def test_cells_that_two_sweeps_share_are_the_same_trainings(
    name: str, other: str, inputs: Mapping[str, str]
) -> None:
    mine, others = (
        set(trials_by_key(read(each, needed(each, inputs))[1])) for each in (name, other)
    )
    assert len(mine & others) == SHARED[name, other]


@pytest.mark.parametrize("suffix", ["", "-tiny"])
def test_measurements_that_two_sweeps_share_are_the_same_jobs(suffix: str) -> None:
    keys = {
        figure: {job.key for job in metric_jobs(read(figure + suffix, ())[1])}
        for figure in ("f02", "f09", "f11", "f12")
    }
    _, plan = read(f"f02{suffix}", ())
    pairs = Counter(job.metric.name for job in metric_jobs(plan))
    assert keys["f12"] <= keys["f02"]
    assert len(keys["f09"] & keys["f02"]) == pairs["cka"]
    shared = len(keys["f11"] & keys["f02"])
    assert shared == len(read(f"f11{suffix}", ())[1].cells)


@pytest.mark.parametrize("name", [name for name in FIGURES if name.endswith("-tiny")])
def test_a_tiny_sweep_is_a_corner_of_its_figures_grid(name: str, inputs: Mapping[str, str]) -> None:
    tiny, full = (
        read(each, needed(each, inputs))[0] for each in (name, name.removesuffix("-tiny"))
    )
    mine, whole = ((*s.facets, s.load, s.temperature) for s in (tiny, full))
    for small, large in zip(mine, whole, strict=True):
        assert small is not None
        assert large is not None
        assert small.path == large.path
        assert set(small.values) <= set(large.values)
    drawn = [[request.name for request in sweep.figures] for sweep in (tiny, full)]
    assert drawn[0] == drawn[1]


def test_figure_3_covers_the_published_cells(request: pytest.FixtureRequest) -> None:
    sweep, plan = read("f03", ())
    assert sweep.load is not None
    assert list(sweep.load.values) == WIDTHS
    cells = {(cell.load, cell.temperature) for cell in plan.cells}
    published = request.getfixturevalue("shared_data") / "taxonomy_fig3_part.csv"
    with published.open(newline="", encoding="utf-8") as lines:
        theirs = {(int(row["width"]), int(row["batch_size"])) for row in csv.DictReader(lines)}
    assert len(theirs) >= 100
    assert theirs <= cells


def test_recipes_are_the_papers() -> None:
    standard = read("f02", ())[0].points[0].recipe
    assert (standard["lr"], standard["weight_decay"], standard["epochs"]) == (0.05, 5e-4, 150)
    assert standard["stop"] == {"rule": "plateau", "min_delta": 1e-4, "patience": 5}
    assert standard["keep"] == "best_train_loss"
    decay = read("f03", ())[0].points[0].recipe
    assert (decay["lr"], decay["epochs"], decay["drop_last"], decay["stop"]) == (
        0.1,
        100,
        True,
        None,
    )
    scaled = {p.temperature: p.recipe["lr"] for p in read("f23", ())[0].points}
    assert scaled == {batch: pytest.approx(0.05 * batch / 128) for batch in scaled}  # type: ignore[operator]


def test_translation_is_evaluated_as_often_in_every_cell(inputs: Mapping[str, str]) -> None:
    sweep, _ = read("f18", needed("f18", inputs))
    recipe = sweep.points[0].recipe
    assert (recipe["updates"], recipe["keep"], recipe["label_smoothing"]) == (80_000, "last", 0.1)
    # 4,000 pairs in batches of B are 4,000/B updates an epoch; one evaluation in B/16 epochs is one
    # in 250 updates.
    updates = {
        p.temperature: 4000 / p.temperature * p.recipe["test_every"]  # type: ignore[operator]
        for p in sweep.points
    }
    assert len(updates) == 6
    assert set(updates.values()) == {250.0}


@pytest.mark.parametrize("name", FIGURES)
def test_a_file_stays_valid_with_all_its_options_taken(
    name: str, inputs: Mapping[str, str], tmp_path: Path
) -> None:
    source = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    taken, options = with_options(source)
    assert source.count("# option") == len(options)
    copied(tmp_path)
    (tmp_path / f"{name}.yaml").write_text(taken, encoding="utf-8")
    changed = load_sweep(tmp_path / f"{name}.yaml", needed(name, inputs))
    if options:
        assert make_plan(changed) != read(name, needed(name, inputs))[1]


def test_the_published_codes_way_is_an_option_where_it_differs() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.yaml")]
    found = {int(n) for text in texts for n in re.findall(r"# option D-001-(\d+)", text)}
    assert found == PUBLISHED_DIFFERENCES
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {int(n) for n in re.findall(r"^\| D-001-(\d+)", readme, re.MULTILINE)} == set(
        range(1, 25)
    )


def test_the_readme_names_every_figure_and_only_what_is_there() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:parts/)?([\w-]+\.yaml)`", readme)
    assert named
    assert set(named) <= {path.name for path in FOLDER.rglob("*.yaml")}
    assert {f"{name}.yaml" for name in FIGURES if not name.endswith("-tiny")} <= set(named)


@pytest.mark.parametrize("name", [name for name in FIGURES if not name.endswith("-tiny")])
def test_the_readme_says_how_many_trainings_are_new(name: str, inputs: Mapping[str, str]) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{name}.yaml` .*$", readme, re.MULTILINE)
    total, new = (cell.strip() for cell in line.split("|")[4:6])
    mine = set(trials_by_key(read(name, needed(name, inputs))[1]))
    assert total == f"{len(mine):,}"
    after, _, _ = new.partition(";")
    for other in re.findall(r"`(\w+).yaml`", after):
        mine -= set(trials_by_key(read(other, needed(other, inputs))[1]))
    assert after.split(" ")[0] == ("all" if f"{len(mine):,}" == total else f"{len(mine):,}")
    assert f"`phasegrid run sweeps/taxonomy/{name}.yaml`" in line
    assert f"`phasegrid plot taxonomy-{name}`" in line


def copied(folder: Path) -> None:
    (folder / "parts").mkdir()
    for path in FOLDER.rglob("*.yaml"):
        (folder / path.relative_to(FOLDER)).write_text(path.read_text(encoding="utf-8"))


def with_options(text: str) -> tuple[str, list[str]]:
    """Uncomment every option, and remove what stands before it in the same mapping under the same
    key.
    """
    lines: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match = OPTION.match(line)
        if match is None:
            lines.append(line)
            continue
        options.append(line)
        start = f"{match['indent']}{match['key']}: "
        for back in range(len(lines) - 1, -1, -1):
            if lines[back].startswith(start):
                del lines[back]
                break
            if not lines[back].startswith(match["indent"]):
                break
        lines.append(f"{start}{match['value']}")
    return "\n".join(lines) + "\n", options
