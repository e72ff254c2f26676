"""Every tiny sweep of ``sweeps/taxonomy``, trained, measured and drawn for real, in one process and
one store.
"""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console

from phasegrid import load_sweep
from phasegrid.analysis.report.report import draw
from phasegrid.analysis.stats.aggregate import collapsed_seeds, not_trained
from phasegrid.analysis.tables.load import load_grid, open_store
from phasegrid.analysis.tables.quantities import quantity
from phasegrid.analysis.tables.variants import resolve
from phasegrid.config.load import Sweep
from phasegrid.run.places import RunTarget
from phasegrid.run.run import run_sweep
from phasegrid.store.store import Store

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parent.parent / "sweeps" / "taxonomy"
NAMES = [f"f{number:02d}-tiny" for number in range(2, 24)]
BEFORE = {
    **dict.fromkeys(("f09-tiny", "f10-tiny", "f11-tiny", "f12-tiny"), ("f02-tiny",)),
    "f13-tiny": ("f02-tiny", "f03-tiny"),
}
"""Sweeps whose trainings a sweep takes from the store, or that its figure compares it with."""
FILES = {
    "f16-tiny": "dataset.path={}/cifar10_subset.npz",
    "f18-tiny": "dataset.root={}/multi30k",
    "f19-tiny": "dataset.root={}/multi30k",
}
"""Where the sweeps of a user's own files find some in the folder of real data."""

Run = Callable[..., Sweep]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("store")), create=True)


@pytest.fixture(scope="module")
def run(store: Store) -> Run:
    """Run a sweep once, after those it builds on, and check that everything planned is stored."""

    @cache
    def once(name: str, *overrides: str) -> Sweep:
        for earlier in BEFORE.get(name, ()):
            once(earlier)
        sweep = load_sweep(FOLDER / f"{name}.yaml", overrides)
        said = Console(file=io.StringIO(), width=200)
        result = run_sweep(sweep, store, RunTarget(serial=True), said, True, None)
        assert result.exit_code == 0, said.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
        return sweep

    return once


def test_there_are_as_many_as_files() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*-tiny.yaml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_sweep_goes_from_trainings_to_its_figures(
    name: str, run: Run, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    overrides = []
    if name in FILES:
        overrides.append(FILES[name].format(request.getfixturevalue("shared_data")))
    for earlier in BEFORE.get(name, ()):
        run(earlier)
    before = store.stored("trials")
    sweep = run(name, *overrides)
    if name in BEFORE:
        assert store.stored("trials") == before, "all its trainings are another sweep's"
    grid = load_grid(open_store(store.url), sweep.name)
    measured = set(grid.values.loc[grid.values["value"].notna(), "quantity"])
    trained = ~not_trained(grid, collapsed_seeds(grid).sum(axis=1))
    assert trained.mean() > 0.75, "a figure of cells that learned nothing shows nothing"
    files = draw(store.url, sweep.name, tmp_path, ("png",))
    drawn = {path.stem: path for path in files if path.suffix == ".png"}
    assert sweep.figures
    for asked in sweep.figures:
        for quantity_name in asked.args.get("quantities", ()):
            table = quantity(quantity_name).table
            declared, plain = grid.declared.get(table), grid.plain.get(table, "")
            assert resolve(quantity_name, declared, plain, measured) is not None
        pixels = matplotlib.image.imread(drawn[asked.name])
        assert pixels[..., :3].std() > 0.05, f"{asked.name} is blank"
