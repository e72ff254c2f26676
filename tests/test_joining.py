"""Laws of joining packs of neighbouring cells."""

from pathlib import Path

import pytest

from phasegrid.jobs import Pack
from phasegrid.joining import MAX_DATASETS, PACKS_A_WORKER, join_neighbours
from phasegrid.plan import make_packs, make_plan
from phasegrid.stacking_rules import pack_signature
from phasegrid.sweep import load_sweep

SWEEP = """\
schema: 1
name: neighbours
dataset: {name: digits}
model: {name: mlp}
train: {epochs: 2}
load: {param: model.width, values: [2, 4]}
temperature: {param: PARAM, values: VALUES}
seeds: 3
metrics: [accuracy]
"""


def packs_of(tmp_path: Path, param: str, values: str) -> list[Pack]:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("PARAM", param).replace("VALUES", values), encoding="utf-8")
    return make_packs(make_plan(load_sweep(path)), (), lambda _cell, _job: 1.0)


def training(packs: list[Pack]) -> list[Pack]:
    return [pack for pack in packs if pack.kind == "train"]


RATES = "[0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]"


def test_cells_along_a_learning_rate_axis_become_one_pack(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = join_neighbours(packs, 1, 32)
    assert len(training(packs)) == 16
    assert [len(pack.trials) for pack in training(joined)] == [12, 12, 12, 12]
    assert all(len({pack_signature(t) for t in pack.trials}) == 1 for pack in training(joined))


def test_no_job_is_lost_and_none_is_done_twice(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = join_neighbours(packs, 2, 5)
    before = sorted(key for pack in packs for key in pack.job_keys())
    assert sorted(key for pack in joined for key in pack.job_keys()) == before
    assert sum(pack.cost_s for pack in joined) == sum(pack.cost_s for pack in packs)
    assert len({pack.key for pack in joined}) == len(joined)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_every_worker_keeps_enough_packs(tmp_path: Path, workers: int) -> None:
    packs = training(packs_of(tmp_path, "train.lr", RATES))
    joined = training(join_neighbours(packs, workers, 1000))
    assert len(joined) >= min(len(packs), PACKS_A_WORKER * workers)


def test_a_pack_never_grows_beyond_its_size(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.weight_decay", RATES)
    assert max(len(p.trials) for p in training(join_neighbours(packs, 1, 6))) == 6


def test_networks_of_other_shapes_or_batches_stay_apart(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.batch_size", "[8, 16, 32, 64]")
    found = join_neighbours(packs, 1, 1000)
    assert sorted(p.key for p in found) == sorted(p.key for p in packs)


def test_a_pack_holds_few_data_sets(tmp_path: Path) -> None:
    values = str([round(0.01 * i, 2) for i in range(40)])
    packs = packs_of(tmp_path, "dataset.label_noise", values)
    joined = training(join_neighbours(packs, 1, 1000))
    assert max(len({id(t.dataset) for t in p.trials}) for p in joined) == MAX_DATASETS


def test_measurements_stay_as_they_are(tmp_path: Path) -> None:
    packs = packs_of(tmp_path, "train.lr", RATES)
    joined = join_neighbours(packs, 1, 32)
    assert [p for p in joined if p.kind == "measure"] == [p for p in packs if p.kind == "measure"]
