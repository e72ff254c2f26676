"""Laws of axes into blocks that are null by default."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from phasegrid.config.load import load_sweep
from phasegrid.config.types import Sweep
from phasegrid.errors import SweepError
from phasegrid.keys import Json, canonical_json

BASE: Mapping[str, Any] = {
    "schema": 1,
    "name": "blocks",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "load": {"param": "model.width", "values": [4]},
    "seeds": 2,
}
DENSITY = {"param": "train.prune.density", "values": [0.2, 0.5]}


def load(**fields: Any) -> Sweep:
    return load_sweep({**copy.deepcopy(dict(BASE)), **fields})


def recipes(sweep: Sweep) -> list[str]:
    return [canonical_json(point.recipe) for point in sweep.points]


@pytest.mark.parametrize(
    ("block", "axis"),
    [
        ("sam", {"param": "train.sam.rho", "values": [0.0, 0.05]}),
        ("sam", {"param": "train.sam.rho", "start": 0.1, "stop": 0.4, "num": 3}),
        ("checkpoints", {"param": "train.checkpoints.every_epochs", "values": [1, 2]}),
    ],
)
def test_an_axis_begins_its_block_with_the_defaults(block: str, axis: Json) -> None:
    assert recipes(load(temperature=axis)) == recipes(load(temperature=axis, train={block: {}}))


def test_axes_that_give_all_required_fields_begin_a_block() -> None:
    scope = {"param": "train.prune.scope", "values": ["global", "layer"]}
    found = [point.recipe["prune"] for point in load(temperature=DENSITY, facets=[scope]).points]
    assert sorted(map(canonical_json, found)) == sorted(
        canonical_json({"density": density, "scope": scope})
        for density in (0.2, 0.5)
        for scope in ("global", "layer")
    )


def test_couple_begins_a_block() -> None:
    table = {"by": "model.width", "values": {4: 0.5}}
    (point,) = load(couple={"train.prune.density": table}).points
    assert point.recipe["prune"] == {"density": 0.5, "scope": "global"}


def test_a_required_field_that_nothing_gives_is_named() -> None:
    scope = {"param": "train.prune.scope", "values": ["global", "layer"]}
    with pytest.raises(
        SweepError, match=r"which is null; write train.prune: {\.\.\.} with density"
    ):
        load(temperature=scope)


def test_a_block_that_is_said_to_be_null_stays_null() -> None:
    axis = {"param": "train.sam.rho", "values": [0.1]}
    with pytest.raises(SweepError, match=r"part of train.sam, which is null; write train.sam: {"):
        load(temperature=axis, train={"sam": None})


def test_a_stage_begins_a_block_of_its_own() -> None:
    axis = {**DENSITY, "param": "stages.tune.prune.density"}
    stages = [{"name": "tune", "train": {"epochs": 2}}]
    points = load(temperature=axis, stages=stages).points
    assert [point.recipe["prune"] for point in points] == [None, None]
    assert [point.stage_recipes[0]["prune"] for point in points] == [
        {"density": density, "scope": "global"} for density in (0.2, 0.5)
    ]


def test_a_stage_has_the_block_that_an_axis_begins_for_train() -> None:
    scope = {"param": "stages.tune.prune.scope", "values": ["layer"]}
    stages = [{"name": "tune", "train": {"epochs": 2}}]
    points = load(temperature=DENSITY, stages=stages, facets=[scope]).points
    assert [point.stage_recipes[0]["prune"] for point in points] == [
        {"density": density, "scope": "layer"} for density in (0.2, 0.5)
    ]
    assert {point.recipe["prune"]["scope"] for point in points} == {"global"}  # type: ignore[index,call-overload]
