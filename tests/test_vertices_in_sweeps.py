"""Sweeps that look at the vertices of complexes: what they may ask for, and what they draw."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import phasegrid
from phasegrid import load_sweep
from phasegrid.errors import SweepError

GROWN: dict[str, Any] = {
    "simplex": {
        "id": "grown",
        "connectors": 2,
        "epochs": 1,
        "samples": 1,
        "batch_size": 128,
        "eval_samples": 4,
    }
}
SWEEP: dict[str, Any] = {
    "schema": 1,
    "name": "vertices",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "width": 4},
    "train": {"epochs": 1, "batch_size": 128, "stop": None},
    "seeds": 2,
    "metrics": [
        GROWN,
        {"plane": {"of": "grown", "vertices": ["w0", "c0", "w1"], "points": 3, "examples": 50}},
        {"plane": {"of": "grown", "vertices": ["c0", "c1", "w1"], "points": 3, "examples": 50}},
        {"vertex_path": {"of": "grown", "points": 2}},
    ],
    "figures": [
        {"planes": {"name": "faces", "column": ["train_loss", "test_loss"]}},
        {"overlay": {"name": "path", "metric": "vertex_path", "x": "t", "y": ["test_loss"]}},
        {"overlay": {"name": "far", "metric": "vertex_path", "x": "distance", "y": ["test_loss"]}},
    ],
}


@pytest.mark.parametrize("argument", ["refresh_examples: 50", "refresh_augment: flip_crop"])
@pytest.mark.parametrize("where", ["simplex", "plane", "vertex_path", "ensemble", "predictions"])
def test_saved_statistics_are_not_recomputed(where: str, argument: str) -> None:
    name, _, value = argument.partition(": ")
    args = {name: int(value) if value.isdigit() else value}
    vertices = {"vertices": ["w0", "c0", "w1"]} if where == "plane" else {}
    saved: dict[str, Any] = {"simplex": {**GROWN["simplex"], "batch_norm": "saved"}}
    asked: list[dict[str, Any]] = [saved, {where: {"of": "grown", **vertices, **args}}]
    if where == "simplex":
        asked = [{"simplex": {**saved["simplex"], **args}}]
    with pytest.raises(SweepError, match=rf"{where}.{name}: found {value} with batch_norm: saved"):
        load_sweep({**SWEEP, "metrics": asked, "figures": []})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"plane": {"of": "grown", "vertices": ["w0", "c0"]}},
            "metrics.1.plane.vertices: found w0, c0; a plane goes through three vertices, each once",
        ),
        ({"plane": {"of": "grown"}}, "metrics.1.plane.vertices: found none; of a complex, write"),
        (
            {"plane": {"of": "grown", "vertices": ["w0", "c0", "w0"]}},
            "metrics.1.plane.vertices: found w0, c0, w0; a plane goes through three",
        ),
        (
            {"plane": {"of": "grown", "vertices": ["w0", "c2", "w1"]}},
            "found c2, but the complex has connectors: 2; allowed: c0 to c1",
        ),
        ({"plane": {"of": "grown", "vertices": ["w0", "x1", "w1"]}}, "metrics.1.plane.vertices.1"),
        (
            {"plane": {"of": "grown", "vertices": ["w0", "c0", "w3"]}},
            "metrics.1.plane.vertices: found w3, but the complex has modes: 3; allowed: w0 to w2",
        ),
        (
            {"vertex_path": {"of": "grown", "through": ["w3", "c0"]}},
            "metrics.1.vertex_path.through: found w3, but the complex has modes: 3",
        ),
        ({"plane": {"vertices": ["w0", "c0", "w1"]}}, "but no complex; leave it out, or write of:"),
        (
            {"plane": {"of": "grown", "vertices": ["w0", "c0", "w1"], "bend": 1}},
            "metrics.1.plane.bend: found 1, but no curve",
        ),
        ({"vertex_path": {}}, "reads the complex that another metric leaves; write of:"),
        (
            {"vertex_path": {"of": "grown", "through": ["w0", "c0", "c0"]}},
            "metrics.1.vertex_path.through.2: found c0 after itself; leave one of them out",
        ),
        (
            {"vertex_path": {"of": "grown", "through": ["w0", "c7"]}},
            "metrics.1.vertex_path.through: found c7, but the complex has connectors: 2",
        ),
        ({"vertex_path": {"of": "grown", "through": ["w0"]}}, "metrics.1.vertex_path.through"),
    ],
)
def test_vertices_that_no_complex_has_are_named_before_anything_runs(
    asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(SweepError) as caught:
        load_sweep({**SWEEP, "seeds": 3, "metrics": [GROWN, asked], "figures": []})
    assert [str(one) for one in caught.value.mistakes if told in str(one)], caught.value


@pytest.mark.parametrize(
    ("grown", "modes"),
    [
        ({"espro": {"id": "grown"}}, "1; allowed: w0"),
        ({"simplex": {"id": "grown", "networks": [{"seed": 0}, {"seed": 1}]}}, "2; allowed: w0 to"),
        ({"simplex": {"id": "grown", "over": "pair"}}, "2; allowed: w0 to w1"),
        ({"simplex": {"id": "grown", "over": "across", "where": {"seed": [0, 2]}}}, "2; allowed"),
    ],
)
def test_modes_are_those_of_the_complex_that_is_read(grown: dict[str, Any], modes: str) -> None:
    path = {"vertex_path": {"of": "grown", "through": ["w0", "c0", "w2"]}}
    with pytest.raises(SweepError, match=f"found w2, but the complex has modes: {modes}"):
        load_sweep({**SWEEP, "seeds": 3, "metrics": [grown, path], "figures": []})


def test_modes_are_checked_where_vertices_vary_from_cell_to_cell() -> None:
    path = {"vertex_path": {"id": "way", "of": "grown"}}
    ways = {"param": "metrics.way.through", "values": [["w0", "w1"], ["w0", "w2"]]}
    with pytest.raises(SweepError, match=r"found w2, but the complex has modes: 2.*in the cell"):
        load_sweep({**SWEEP, "load": ways, "metrics": [GROWN, path], "figures": []})


def test_planes_and_paths_of_a_complex_are_drawn_with_the_names_of_its_vertices(
    tmp_path: Path,
) -> None:
    result = phasegrid.run(SWEEP, tmp_path / "store", serial=True, quiet=True)
    shown = phasegrid.plot(result).figures
    titles = [ax.get_title(loc="left") for ax in shown["faces"].axes if ax.get_xlabel() == "u"]
    assert titles == ["w₀ θ₀ w₁", "θ₀ θ₁ w₁"] * 2
    (row,) = result.results.metric("vertex_path", sweep="vertices").to_dict("records")
    assert list(row["vertex_name"]) == ["w0", "c0", "w1", "c1"]
    for name, at in (("path", "vertex_t"), ("far", "vertex_distance")):
        (ax,) = shown[name].axes
        assert [text.get_text() for text in ax.get_xticklabels()] == ["w₀", "θ₀", "w₁", "θ₁"]
        np.testing.assert_allclose(ax.get_xticks(), row[at])
        np.testing.assert_allclose(ax.lines[0].get_ydata(), row["test_loss"])
    planes = result.results.metric("plane", sweep="vertices")
    assert sorted(len(edges) for edges in planes["edges"]) == [2, 3]
