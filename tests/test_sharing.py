"""Laws of data sets that processes share: loaded once, the same for all, nobody else's, gone at the
end.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phasegrid.datasets import DATASETS
from phasegrid.datasets.coded import CodedDataset
from phasegrid.datasets.dataset import TENSORS, Dataset, Text
from phasegrid.datasets.load import load_dataset
from phasegrid.declare import Tokens, make_part
from phasegrid.run.worker import dataset_cache, node_folder
from phasegrid.run.worker.loaded_data import dataset_of

RUN, KEY = "0123abcd", "feed"
POSIX = pytest.mark.skipif(node_folder.fcntl is None, reason="needs POSIX file locks")
pytestmark = POSIX


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    for run in list(node_folder._held):
        node_folder.forget(run)


def shared(run: str, key: str, load: Callable[[], Dataset]) -> Dataset:
    return dataset_cache.shared(run, key, lambda: CodedDataset(load(), {})).decoded()


def a_dataset(value: float = 0.0) -> Dataset:
    inputs = torch.arange(24.0).view(6, 1, 2, 2) + value
    labels = torch.arange(6) % 3
    one = torch.ones(1, 1, 1)
    return Dataset("made", inputs, labels, inputs[:2], labels[:2], 3, one, -one, "flip_crop")


def sentences() -> Dataset:
    ids = torch.ones(4, 2, 3, dtype=torch.int64)
    text = Text(("a", "b"), ("c", 'd "quoted"'), ("One.", "Ünë two"))
    one = torch.ones(1)
    return Dataset(
        "text",
        ids,
        ids[:, 0],
        ids[:1],
        ids[:1, 0],
        5,
        one,
        one,
        task="translation",
        form=Tokens(3, 2, 5),
        text=text,
    )


def equal(a: Dataset, b: Dataset) -> bool:
    pairs = [(getattr(a, spec.name), getattr(b, spec.name)) for spec in fields(Dataset)]
    return all(
        torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, Tensor) else x == y
        for x, y in pairs
    )


def refuse() -> Dataset:
    raise AssertionError("loaded again")


@pytest.mark.parametrize("make", [a_dataset, sentences])
def test_what_is_mapped_is_what_was_loaded(make: Any) -> None:
    first, second = shared(RUN, KEY, make), shared(RUN, KEY, refuse)
    assert equal(first, make())
    assert equal(second, make())


def test_data_sets_of_other_keys_and_runs_are_others() -> None:
    shared(RUN, KEY, a_dataset)
    assert equal(shared(RUN, "beef", lambda: a_dataset(1.0)), a_dataset(1.0))
    assert equal(shared("4567", KEY, lambda: a_dataset(2.0)), a_dataset(2.0))


def test_every_tensor_begins_where_one_of_torchs_own_could() -> None:
    found = shared(RUN, KEY, a_dataset)
    tensors = [v for spec in fields(Dataset) if isinstance(v := getattr(found, spec.name), Tensor)]
    assert len(tensors) == len(TENSORS)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)


def test_writing_to_a_mapped_data_set_changes_nobody_elses() -> None:
    shared(RUN, KEY, a_dataset).train_inputs.zero_()
    assert equal(shared(RUN, KEY, refuse), a_dataset())


def load_and_count(folder: str, loads: Any) -> None:
    import tempfile

    tempfile.tempdir = folder

    def load() -> Dataset:
        with loads.get_lock():
            loads.value += 1
        return a_dataset()

    assert equal(shared(RUN, KEY, load), a_dataset())


def test_of_processes_that_come_at_once_one_loads(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    loads = context.Value("i", 0)
    processes = [
        context.Process(target=load_and_count, args=(str(tmp_path), loads)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert loads.value == 1


def test_a_folder_that_others_can_enter_is_not_used() -> None:
    node_folder.folder_of(RUN).mkdir(mode=0o755)
    os.chmod(node_folder.folder_of(RUN), 0o755)
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())
    assert not any(node_folder.folder_of(RUN).iterdir())


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    node_folder.folder_of(RUN).symlink_to(tmp_path / "elsewhere")
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_data_set_too_large_for_the_folder_is_loaded_by_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_cache, "ROOM", 2**60)
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())
    assert equal(shared(RUN, KEY, lambda: a_dataset(1.0)), a_dataset(1.0))


@pytest.mark.parametrize("file", [f"{KEY}.json", f"{KEY}.test_labels"])
def test_a_damaged_file_is_made_anew(file: str) -> None:
    shared(RUN, KEY, a_dataset)
    (node_folder.folder_of(RUN) / file).write_bytes(b"damaged")
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())
    assert equal(shared(RUN, KEY, refuse), a_dataset())


def test_a_folder_that_takes_no_files_costs_only_the_sharing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse_lock(_path: Path) -> Any:
        raise OSError("too many open files")

    monkeypatch.setattr(dataset_cache, "locked", refuse_lock)
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())


def test_an_error_of_loading_is_passed_on_and_the_next_may_try() -> None:
    with pytest.raises(AssertionError, match="loaded again"):
        shared(RUN, KEY, refuse)
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())


def test_the_folder_goes_with_the_run_and_mapped_data_stay() -> None:
    dataset = shared(RUN, KEY, a_dataset)
    node_folder.forget(RUN)
    assert not node_folder.folder_of(RUN).exists()
    assert equal(dataset, a_dataset())
    assert equal(shared(RUN, KEY, a_dataset), a_dataset())


def test_what_dead_runs_left_is_deleted_and_what_is_in_use_is_not() -> None:
    left = node_folder.folder_of("dead")
    left.mkdir(mode=0o700)
    (left / "x.json").write_bytes(b"x")
    shared("aaaa", KEY, a_dataset)
    assert not left.exists()
    shared("bbbb", KEY, a_dataset)
    assert node_folder.folder_of("aaaa").is_dir()


def test_without_locks_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_folder, "fcntl", None)
    assert node_folder.enter(RUN) is None
    node_folder.forget(RUN)


def test_a_bench_keeps_its_data_sets_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasegrid.run.worker.loaded_data._DATASETS", {})
    kind = DATASETS["two_spirals"].args
    part = make_part("two_spirals", 1, kind, asdict(kind()))
    found = dataset_of(part, torch.device("cpu"), RUN)
    assert equal(found, load_dataset(part))
    (file,) = node_folder.folder_of(RUN).glob("*.train_inputs")
    assert file.stat().st_size == found.train_inputs.nbytes
