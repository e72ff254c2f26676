"""Pixels stay bytes until a device needs numbers; the numbers are those of the plain formula."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phasegrid.datasets import NpzOptions, Options, coded, prepared
from phasegrid.datasets.coded import Coded, CodedDataset
from phasegrid.datasets.dataset import TENSORS, Dataset
from phasegrid.datasets.load import load_dataset, open_dataset
from phasegrid.datasets.preparing import Raw, prepare
from phasegrid.declare import make_part
from phasegrid.errors import DataError
from phasegrid.fallbacks import collected
from phasegrid.jobs import Part
from phasegrid.run.worker import loaded_data, node_folder
from phasegrid.run.worker.loaded_data import dataset_of, try_dataset

RUN = "c0ded"
CPU = torch.device("cpu")
MEAN, STD = np.array([125.3, 3.1, 77.7]), np.array([62.9, 0.7, 1e-3])


def a_table() -> torch.Tensor:
    numbers = (np.arange(256) - MEAN[:, None]) / STD[:, None]
    return torch.from_numpy(numbers.astype(np.float32))


def drawn(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """The part of an npz file of pixels, in a process that has loaded nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(loaded_data, "_DATASETS", {})
    labels = np.arange(40) % 4
    images = drawn(40, 3, 4, 4)
    monkeypatch.setattr(prepared, "WORTH", 0)
    np.savez_compressed(
        tmp_path / "pixels.npz",
        train_images=images,
        train_labels=labels,
        test_images=images[:12],
        test_labels=labels[:12],
    )
    args = asdict(NpzOptions(path=str(tmp_path / "pixels.npz")))
    return make_part("npz", 1, NpzOptions, args)


@pytest.mark.parametrize("shape", [(50, 3, 6, 5), (50, 3), (0, 3, 6, 5), (1, 3, 2)], ids=str)
@pytest.mark.parametrize("step", [1, 100, 2**20])
def test_decoded_numbers_are_the_formula_in_float64_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], step: int
) -> None:
    monkeypatch.setitem(coded.STEP_BYTES, "cpu", step)
    codes = drawn(*shape)
    places = (3,) + (1,) * (len(shape) - 2)
    expected = ((codes - MEAN.reshape(places)) / STD.reshape(places)).astype(np.float32)
    found = Coded(codes, a_table()).decoded(CPU)
    assert found.dtype == torch.float32
    assert tuple(found.shape) == shape
    assert found.numpy().tobytes() == expected.tobytes()


def test_the_outline_tells_type_and_shape_and_takes_no_memory() -> None:
    outline = coded.outline_of(Coded(drawn(50, 3, 6, 5), a_table()))
    assert (outline.dtype, tuple(outline.shape)) == (torch.float32, (50, 3, 6, 5))
    assert outline.untyped_storage().nbytes() == 4


def raw(kind: str = "uint8") -> Raw:
    images, labels = drawn(40, 3, 4, 4).astype(kind), np.arange(40) % 4
    return Raw("drawn", images, labels, images[:12], labels[:12], 4)


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("uint8", Options(), ["aside_inputs", "test_inputs", "train_inputs"]),
        (
            "uint8",
            Options(fraction=0.5, aside=0.2),
            ["aside_inputs", "test_inputs", "train_inputs"],
        ),
        ("uint8", Options(image_noise=3.0), ["aside_inputs", "test_inputs"]),
        ("float32", Options(), []),
    ],
)
def test_pixels_stay_bytes_except_those_with_noise(
    kind: str, options: Options, names: list[str]
) -> None:
    assert sorted(prepare(raw(kind), options).coded) == names


def test_bytes_of_all_examples_are_not_copied() -> None:
    mapped = raw()
    found = prepare(mapped, Options()).coded["train_inputs"].codes
    assert np.shares_memory(found, mapped.train_inputs)


def same(one: Dataset, other: Dataset) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)


def test_a_data_set_for_a_gpu_is_not_decoded_on_the_way(file: Part) -> None:
    cuda = torch.device("cuda")  # nothing is sent to it: this process only reads and checks
    open_dataset(file)  # it is kept beside its file now
    try_dataset(file, cuda, RUN)
    assert [path.name for path in node_folder.folder_of(RUN).glob("*_inputs")] == []
    assert loaded_data._DATASETS == {}
    node_folder.forget(RUN)


def test_where_nothing_can_be_kept_a_gpu_gets_what_one_process_has_read(
    file: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(prepared, "_require_room", no_room)
    with collected() as said:
        try_dataset(file, torch.device("cuda"), RUN)
    assert "Read-only" in str(*said.values())
    assert len([*node_folder.folder_of(RUN).glob("*_inputs")]) == 3
    monkeypatch.setattr("phasegrid.run.worker.loaded_data.open_dataset", None)  # not read again
    try_dataset(file, torch.device("cuda"), RUN)
    node_folder.forget(RUN)


def test_jobs_on_cpus_find_it_decoded_in_the_folder_of_their_run(file: Part) -> None:
    try_dataset(file, CPU, RUN)
    written = sorted(path.suffix for path in node_folder.folder_of(RUN).glob("*_inputs"))
    assert written == [".aside_inputs", ".test_inputs", ".train_inputs"]
    loaded_data._DATASETS.clear()
    assert same(dataset_of(file, CPU, RUN), load_dataset(file))
    node_folder.forget(RUN)


def test_a_run_in_one_process_loads_a_data_set_once(
    file: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load(part: Part, device: torch.device) -> Dataset:
        loads.append(device.type)
        return open_dataset(part).decoded("cpu")

    monkeypatch.setattr(loaded_data, "load_dataset", load)
    monkeypatch.setattr(loaded_data, "_room_bytes", lambda _: None)
    for device in ("cuda", "cpu"):  # nothing is sent to a GPU: `load` stands in for it
        try_dataset(file, torch.device(device), None)
        dataset_of(file, torch.device(device))
    assert loads == ["cuda", "cpu"]


@pytest.mark.parametrize(
    ("room", "left"), [(0, [2]), (1000, [2]), (2500, [1, 2]), (None, [0, 1, 2])]
)
def test_a_gpu_keeps_for_later_what_fits_and_always_the_newest(
    monkeypatch: pytest.MonkeyPatch, room: int | None, left: list[int]
) -> None:
    monkeypatch.setattr(loaded_data, "_DATASETS", {})
    monkeypatch.setattr(loaded_data, "_room_bytes", lambda _: room)
    data = prepare(raw("float32"), Options()).outline
    data = replace(data, **{name: getattr(data, name)[:0] for name in TENSORS})
    data = replace(data, train_inputs=torch.zeros(250))  # 1,000 bytes
    monkeypatch.setattr(loaded_data, "load_dataset", lambda *_: data)
    parts = [make_part(f"digits{i}", 1, Options, asdict(Options())) for i in range(3)]
    for part in parts:
        dataset_of(part, CPU)
    kept = {key for key, _ in loaded_data._DATASETS}
    assert [i for i, part in enumerate(parts) if loaded_data.data_key_of(part) in kept] == left


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_beside_bytes_are_checked(monkeypatch: pytest.MonkeyPatch, label: int) -> None:
    labels = np.arange(40) % 4
    labels[7] = label
    bad = prepare(replace(raw(), train_labels=labels), Options())
    monkeypatch.setattr("phasegrid.datasets.load.import_function", lambda _: lambda **_: bad)
    with pytest.raises(DataError, match="train_labels run from"):
        open_dataset(make_part("cifar10", 1, Options, asdict(Options())))


def test_a_data_set_that_holds_no_bytes_is_itself() -> None:
    data = prepare(raw("float32"), Options()).outline
    assert same(CodedDataset(data, {}).decoded(), data)


@pytest.mark.gpu
def test_numbers_decoded_on_a_gpu_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(coded.STEP_BYTES, "cuda", 1000)
    data = prepare(raw(), Options(aside=0.1))
    assert same(data.decoded("cuda").to("cpu"), data.decoded())
