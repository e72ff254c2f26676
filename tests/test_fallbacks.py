"""What fails and is done another way is written down, said once, and no failure."""

import gc
import logging
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import phasegrid
from phasegrid.fallbacks import collected, fall_back
from phasegrid.models.image_layouts import PLAIN, working_layouts
from phasegrid.run.worker import training
from phasegrid.store.store import Store
from phasegrid.train.autotune import search
from tests.test_session import SWEEP, invoke, run

TOGETHER = '''\
"""A metric that can be measured alone, and says that it can be measured together."""
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True)
class Args:
    pass

def compute(models, data, rng):
    return {"size": float(len(models))}

def compute_many(models, groups, data, rngs):
    raise RuntimeError("not together: s3://me:hf_abc@there/x")

SIZE = Metric(over="trial", args=Args, columns=(Column("size", "float64", "", ""),), compute=compute,
              compute_many=compute_many)
'''


def test_a_fallback_that_nobody_collects_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    fall_back("a slower way was taken", RuntimeError("no kernel\nand more"))
    assert caplog.record_tuples == [
        ("phasegrid", logging.WARNING, "a slower way was taken (RuntimeError: no kernel)")
    ]


def test_of_several_alike_the_first_is_collected_by_the_innermost() -> None:
    with collected() as outer:
        with collected() as inner:
            fall_back("this", ValueError("1"))
            fall_back("this", ValueError("2"))
            fall_back("that", ValueError())
        fall_back("other", ValueError("3"))
    assert [str(f) for f in inner.values()] == ["this (ValueError: 1)", "that (ValueError)"]
    assert list(outer) == ["other"]
    assert "ValueError: 1" in inner["this"].traceback


def test_jobs_that_fail_together_and_succeed_alone_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "size.py").write_text(TOGETHER)
    text = SWEEP.replace("[accuracy, distance]", '["size.py:SIZE"]')
    code, said = run(tmp_path, text)
    assert code == 0
    notes = [line for line in said.splitlines() if "done another way 4 times" in line]
    assert len(notes) == 1, said
    assert "failed together were each done alone (RuntimeError: not together" in notes[0]
    store = str(tmp_path / "store")
    results = phasegrid.open(store)
    assert len(results.metric("size.py:SIZE")) == 8
    assert results.failures().empty
    fallbacks = results.fallbacks()
    assert set(fallbacks["kind"]) == {"fallback"}
    assert len(fallbacks) == 4, "one a pack, of two seeds"
    assert fallbacks["later_done"].all()
    assert "raise RuntimeError" in fallbacks["traceback"][0]
    assert not fallbacks["exception"].str.contains("hf_abc").any(), "secrets are left out"
    _, status = invoke("status", "--storage", store)
    assert "failed" not in status.replace("failed together", "")
    assert "done another way" in status
    assert invoke("verify", "--storage", store)[0] == 0
    _, logs = invoke("logs", "--cell", "0", "--sweep", "small", "--storage", store)
    assert logs.startswith("nothing failed in cell 0 of small")
    assert "(fallback, attempt 1" in logs
    assert run(tmp_path, text)[1].count("note:") == 0, "nothing is done, nothing is said"


def test_a_stack_that_fails_and_is_trained_alone_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_pack = training.train_pack

    def only_alone(trials: list[object], *args: object, **named: object) -> object:
        if len(trials) > 1:
            raise RuntimeError("no stacks today")
        return train_pack(trials, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_pack", only_alone)
    code, said = run(tmp_path)
    assert code == 0
    assert "trainings that failed together were each done alone" in said
    assert phasegrid.open(str(tmp_path / "store")).failures().empty


def test_trainings_that_failed_hold_no_memory_while_each_is_done_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_pack = training.train_pack
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def only_alone(trials: list[object], *args: object, **named: object) -> object:
        alive.append(sum(each() is not None for each in held))
        if len(trials) > 1:
            on_the_device = torch.empty(1)
            held.append(weakref.ref(on_the_device))
            raise RuntimeError("memory ran out")
        return train_pack(trials, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_pack", only_alone)
    gc.disable()
    try:
        assert run(tmp_path)[0] == 0
    finally:
        gc.enable()
    assert len(alive) > 2
    assert set(alive) == {0}


def test_a_damaged_plan_that_is_written_anew_is_told(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 0
    (tmp_path / "store/plans/small.parquet").write_bytes(b"damaged")
    code, said = run(tmp_path)
    assert code == 0
    assert "note: work failed and was done another way 1 time; the stored plan" in said
    rows = Store.open(str(tmp_path / "store")).read_table("failures").to_pylist()
    assert [(row["kind"], row["key"], row["pack"]) for row in rows] == [("fallback", None, None)]


def test_a_timing_that_raises_ends_the_search_and_is_said() -> None:
    def seconds(_strategy: str, size: int) -> float:
        if size > 2:
            raise RuntimeError("vmap: no batching rule")
        return 1e-3 / size

    with collected() as said:
        choice, timings = search(seconds, "vmap")
    assert (choice.strategy, choice.stack_size, len(timings)) == ("vmap", 2, 2)
    (fallback,) = said.values()
    assert "stacks (vmap) of 4 could not be timed and are not used" in str(fallback)


class Viewing(nn.Module):
    """Flattens with ``view``, which images that lie channels last do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found.view(len(x), -1)


def test_a_network_that_takes_no_images_channels_last_is_said() -> None:
    with collected() as said:
        assert working_layouts(Viewing(), torch.zeros(2, 3, 8, 8)) == PLAIN
    (fallback,) = said.values()
    assert "images for Viewing are not stored channels last (RuntimeError: view size" in str(
        fallback
    )
