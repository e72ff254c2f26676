"""Numbers of pairs as matrices, in a cell and across cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import phasegrid
from phasegrid.analysis.report.report import Drawn
from phasegrid.errors import SweepError
from phasegrid.run.result import RunResult

SWEEP: Mapping[str, Any] = {
    "schema": 1,
    "name": "pairs",
    "dataset": {"name": "digits", "fraction": 0.1},
    "model": {"name": "mlp", "depth": 1, "width": 4},
    "train": {"lr": 0.05, "batch_size": 32, "epochs": 2, "stop": None, "keep": "last"},
    "temperature": {"param": "train.lr", "values": [0.02, 0.1]},
    "seeds": 3,
    "metrics": ["distance", {"distance": {"over": "across", "where": {"seed": [0, 1]}}}],
    "figures": [
        {"matrix": {"name": "cells", "number": "l2_distance"}},
        {"matrix": {"name": "one", "number": "distance.cosine_similarity", "cell": 1}},
        {"matrix": {"name": "all", "number": "distance.l2_distance", "across": True}},
        {"matrix": {"name": "wrong", "number": "test_accuracy"}},
        {"matrix": {"name": "way", "number": "distance.l2_distance[k=3]", "across": True}},
    ],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return phasegrid.run(SWEEP, tmp_path_factory.mktemp("pairs") / "store", serial=True, quiet=True)


@pytest.fixture(scope="module")
def drawn(ran: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return phasegrid.plot(ran, output=tmp_path_factory.mktemp("drawn"), formats=("png",))


@pytest.fixture(scope="module")
def folder(drawn: Drawn) -> Path:
    return drawn.files[0].parent


def entries(drawn: Drawn, name: str, panel: int = 0) -> np.ma.MaskedArray[Any, Any]:
    return drawn[name].axes[panel].collections[0].get_array()  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "cells", "column"),
    [("cells", (0, 1), "l2_distance"), ("one", (1,), "cosine_similarity")],
)
def test_a_matrix_is_symmetric_and_has_the_number_of_each_pair(
    ran: RunResult, drawn: Drawn, name: str, cells: tuple[int, ...], column: str
) -> None:
    rows = ran.results.metric("distance", ran.sweep)
    for panel, cell in enumerate(cells):
        found = entries(drawn, name, panel)
        assert list(np.ma.getmaskarray(found).diagonal()) == [True] * 3
        np.testing.assert_array_equal(found.filled(0), found.filled(0).T)
        own = rows[(rows["cell"] == cell) & ~rows["across"]]
        assert len(own) == 3
        for pair in own.to_dict("records"):
            assert found[int(pair["seed_a"]), int(pair["seed_b"])] == pytest.approx(pair[column])


def test_networks_of_several_cells_stand_in_the_order_of_the_plan(
    ran: RunResult, drawn: Drawn
) -> None:
    labels = [text.get_text() for text in drawn["all"].axes[0].get_yticklabels()]
    assert labels == [f"learning rate {lr}, seed {seed}" for lr in (0.02, 0.1) for seed in (0, 1)]
    found = entries(drawn, "all")
    rows = ran.results.metric("distance", ran.sweep)
    own = rows[rows["across"]]
    upper = found.filled(np.nan)[np.triu_indices(4, 1)]
    assert len(own) == 6
    np.testing.assert_allclose(np.sort(upper), np.sort(own["l2_distance"]))


def test_pairs_are_tabulated(ran: RunResult, folder: Path) -> None:
    table = pd.read_csv(folder / "cells.csv")
    rows = ran.results.metric("distance", ran.sweep)
    assert len(table) == 6
    stored = rows.loc[~rows["across"], "l2_distance"]
    np.testing.assert_allclose(np.sort(table["value"]), np.sort(stored), rtol=1e-14)


def test_what_is_no_matrix_is_refused_with_its_reason(drawn: Drawn) -> None:
    notes = dict(drawn.notes)
    assert notes["wrong"] == "failed: number: test_accuracy is not of pairs of networks"
    assert notes["way"].startswith("failed: number: found 'distance.l2_distance[k=3]'; measured")
    assert set(drawn.failed) == {"wrong", "way"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": "distance.l2"}, "matrix.number: found 'l2'; allowed: a column of distance"),
        ({"number": "l2_distance", "across": True}, "found 'l2_distance'; allowed: a column, as"),
        ({"number": "l2_distance", "cell": 7}, "matrix.cell: found 7; allowed: 0 to 1"),
        ({"number": "trace"}, "matrix.number: found 'trace', which metric hessian gives"),
    ],
)
def test_mistakes_are_named_where_they_are_written(changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(SweepError) as found:
        phasegrid.load_sweep({**SWEEP, "figures": [{"matrix": {"name": "a", **changes}}]})
    assert said in str(found.value)
