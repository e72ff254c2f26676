"""Laws of layouts: who shares a pack is decided once, for the whole plan, and kept."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import StoreError
from phasegrid.jobs import MetricJob, Trial
from phasegrid.keys import Json
from phasegrid.packs import Outcome, Pack
from phasegrid.plan.contents import Cell, Plan, all_keys
from phasegrid.plan.pack_layout import Shape, as_record, from_records, lay_out, shaped
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.plan.shaping import fill_gpus
from phasegrid.run.executors.base import Serial
from phasegrid.run.run import _kept_layout
from phasegrid.run.verify import verify
from phasegrid.store.meta import Notes
from phasegrid.store.store import Store

SWEEP = """\
schema: 1
name: laid-out
dataset: {name: digits}
model: {name: mlp}
train: {epochs: 2}
load: {param: model.width, values: [2, 4]}
temperature: {param: train.lr, values: [0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]}
seeds: 3
metrics: [accuracy, distance, {connectivity: {pairs: all}}, {simplex: {}}]
"""

MakePlan = Callable[..., Plan]


@pytest.fixture
def plan_of(tmp_path: Path) -> MakePlan:
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    return lambda *overrides: make_plan(load_sweep(tmp_path / "sweep.yaml", overrides))


def one_second(_cell: Cell, _job: Trial | MetricJob) -> float:
    return 1.0


def no_pack(pack: Pack) -> Sequence[Outcome]:
    raise AssertionError(f"pack {pack.key} is not to be done")


def packs_to_do(plan: Plan, shapes: Sequence[Shape], stored: set[str], size: int = 32) -> list[Pack]:  # fmt: skip
    packs = make_packs(plan, stored, one_second, size)
    return shaped(packs, shapes, plan, stored, one_second, size)


def kept(shapes: Sequence[Shape]) -> Json:
    return as_record(shapes)


@pytest.mark.parametrize("seed", range(5))
def test_a_pack_keeps_its_layout_whatever_is_stored(plan_of: MakePlan, seed: int) -> None:
    plan = plan_of()
    shapes = lay_out(plan, (), one_second, 1, 32)
    whole = {pack.job_keys(): pack for pack in packs_to_do(plan, shapes, set())}
    stored = set(random.Random(seed).sample(sorted(all_keys(plan)), 70))
    packs = packs_to_do(plan, shapes, stored)
    done = [key for pack in packs for key in pack.job_keys()]
    assert sorted(done) == sorted(all_keys(plan) - stored)
    for pack in packs:
        assert pack.layout is not None
        full = next(p for keys, p in whole.items() if not set(keys).isdisjoint(pack.job_keys()))
        assert pack.layout.trials == full.layout.trials  # type: ignore[union-attr]
        assert pack.layout.cost_s == full.layout.cost_s  # type: ignore[union-attr]
        assert all(group in full.layout.groups for group in pack.layout.groups)  # type: ignore[union-attr]
        members = {job.key for group in pack.layout.groups for job in group}
        together = {job.key for job in pack.metric_jobs if job.request.together}
        assert together <= members
        assert set(pack.needs) == {
            key
            for job in (*pack.metric_jobs, *(j for g in pack.layout.groups for j in g))
            for key in job.trials
        }


def test_a_plan_is_laid_out_alike_whoever_asks_next(plan_of: MakePlan) -> None:
    plan = plan_of()
    shapes = lay_out(plan, (), one_second, 4, 32)
    assert lay_out(plan, shapes, one_second, 1, 32) == []
    assert from_records([kept(shapes)]) == shapes
    laid_out = [key for shape in shapes for key in shape.jobs]
    assert len(set(laid_out)) == len(laid_out) == 2 * 8 * (3 + 3)  # trainings and curves


def test_jobs_that_a_plan_gains_are_laid_out_among_themselves(plan_of: MakePlan) -> None:
    plan, more = plan_of(), plan_of("seeds=5")
    shapes = lay_out(plan, (), one_second, 1, 32)
    new = lay_out(more, shapes, one_second, 1, 32)
    old_keys = {key for shape in shapes for key in shape.jobs}
    assert old_keys.isdisjoint(key for shape in new for key in shape.jobs)
    packs = packs_to_do(more, [*shapes, *new], old_keys)
    members = {t.key for p in packs if p.kind == "train" and p.layout for t in p.layout.trials}
    assert members.isdisjoint(old_keys)
    assert {t.seed for p in packs if p.kind == "train" for t in p.trials} == {3, 4}


def test_of_jobs_that_a_plan_has_no_more_nothing_is_done(plan_of: MakePlan) -> None:
    shapes = lay_out(plan_of(), (), one_second, 1, 32)
    fewer = plan_of("seeds=2", "load.values=[2]")
    packs = packs_to_do(fewer, shapes, set())
    assert sorted(key for p in packs for key in p.job_keys()) == sorted(all_keys(fewer))


def test_a_pack_that_is_to_be_smaller_now_is_cut(plan_of: MakePlan) -> None:
    plan = plan_of()
    shapes = lay_out(plan, (), one_second, 1, 32)
    sizes = [
        len(p.layout.trials)
        for p in packs_to_do(plan, shapes, set(), 4)
        if p.kind == "train" and p.layout
    ]
    assert max(sizes) == 4
    assert sum(sizes) == 48


def test_a_job_that_a_record_holds_twice_counts_once() -> None:
    shapes = [Shape(("a", "b", "a"), 1.0), Shape(("b", "c"), 1.0), Shape(("c",), 1.0)]
    found = from_records([kept(shapes)])
    assert [shape.jobs for shape in found] == [("a", "b"), ("c",)]


def test_of_two_records_that_have_a_job_the_first_counts() -> None:
    one, other = [Shape(("a", "b"), 2.0)], [Shape(("b", "c"), 3.0), Shape(("a",), 1.0)]
    found = from_records([kept(one), kept(other)])
    assert found == [Shape(("a", "b"), 2.0), Shape(("c",), 3.0)]


def test_on_gpus_what_was_laid_out_for_cores_and_not_begun_is_laid_out_anew(
    plan_of: MakePlan,
) -> None:
    plan = plan_of()
    cores = lay_out(plan, (), one_second, 4, 32)
    begun = {cores[0].jobs[0]}
    gpus = lay_out(plan, cores, one_second, 1, None, fill_gpus, begun)
    assert all(shape.for_gpus for shape in gpus)
    found = from_records([kept(cores), kept(gpus)])
    assert found == [cores[0], *gpus]
    assert max(len(shape.jobs) for shape in gpus) > max(len(shape.jobs) for shape in cores)
    assert sorted(k for s in found for k in s.jobs) == sorted(k for s in cores for k in s.jobs)


def test_what_was_laid_out_for_gpus_stays_wherever_it_is_done(plan_of: MakePlan) -> None:
    plan, more = plan_of(), plan_of("seeds=5")
    gpus = lay_out(plan, (), one_second, 1, None, fill_gpus)
    assert lay_out(plan, gpus, one_second, 4, 32) == []
    assert lay_out(plan, gpus, one_second, 3, None, fill_gpus) == []
    cores = lay_out(more, gpus, one_second, 4, 32)
    assert from_records([kept(gpus), kept(cores)]) == [*gpus, *cores]


def test_a_record_of_before_gpus_is_one_for_cores(plan_of: MakePlan) -> None:
    shapes = lay_out(plan_of(), (), one_second, 4, 32)
    old: Json = {
        "version": 1,
        "packs": [{"cost_s": s.cost_s, "jobs": list(s.jobs)} for s in shapes],
    }
    assert kept(shapes) == old
    assert from_records([old]) == shapes


@pytest.mark.parametrize("record", [None, [], {}, {"version": 2, "packs": []}, {"version": 1, "packs": [{}]}])  # fmt: skip
def test_a_record_that_cannot_be_read_is_an_error(record: Json) -> None:
    with pytest.raises(StoreError, match="damaged, or was written by a newer phasegrid"):
        from_records([record])


def test_of_drivers_that_decide_at_once_the_first_decides(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    plan = plan_of()
    put_layout = Notes.put_layout

    def beaten(self: Notes, sweep: str, part: int, record: Json) -> bool:
        assert put_layout(self, sweep, part, as_record(lay_out(plan, (), one_second, 8, 32)))
        monkeypatch.setattr(Notes, "put_layout", put_layout)
        return put_layout(self, sweep, part, record)

    monkeypatch.setattr(Notes, "put_layout", beaten)
    found = _kept_layout(store, plan, one_second, Serial(no_pack), 32)
    assert found == lay_out(plan, (), one_second, 8, 32)
    more = replace(plan, cells=plan_of("seeds=4").cells)
    assert (
        _kept_layout(store, more, one_second, Serial(no_pack, parallel=2), 32)[: len(found)]
        == found
    )
    assert len(store.notes.read_layout(plan.sweep)) == 2


def test_a_damaged_layout_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"), create=True)
    store.notes.put_layout("s", 0, {})
    (tmp_path / "store/meta/layouts/s/0.json").write_text("{")
    with pytest.raises(StoreError, match=r"layouts/s/0\.json is damaged .*; delete it"):
        store.notes.read_layout("s")
    store.put_plan("s", [{"cell": 0, "seed": 0, "key": "0" * 32}])
    assert any("layouts/s/0.json is damaged" in str(problem) for problem in verify(store))


@pytest.mark.parametrize(
    "metrics", ["[{connectivity: {pairs: all}}, distance]", "[distance, connectivity]"]
)
def test_small_measurements_beside_laid_out_ones_are_not_lost(
    plan_of: MakePlan, metrics: str
) -> None:
    plan = plan_of(f"metrics={metrics}")
    trained = {trial.key for cell in plan.cells for trial in cell.trials}
    packs = make_packs(plan, trained, lambda _cell, _job: 0.01)
    shapes = lay_out(plan, (), lambda _cell, _job: 0.01, 1, 32)
    done = [
        key
        for pack in shaped(packs, shapes, plan, trained, one_second, 32)
        for key in pack.job_keys()
    ]
    assert sorted(done) == sorted(all_keys(plan) - trained)
