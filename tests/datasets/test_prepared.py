"""What was parsed is kept beside its files, used only if it is whole and current, else made anew."""

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from phasegrid.datasets import prepared as module
from phasegrid.datasets.prepared import FOLDER, Arrays, Entry, prepared, read
from phasegrid.fallbacks import collected

LONG_AGO_NS = 10**18  # 2001


class Text:
    """A data set of one file: the codes of its characters. It counts how often it is parsed."""

    def __init__(self, folder: Path, text: str = "some text") -> None:
        self.path, self.parsed = folder / "text.txt", 0
        self.entry = Entry(folder, "text", {"steps": 1})
        self.write(text)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        os.utime(self.path, ns=(LONG_AGO_NS, LONG_AGO_NS))

    def load(self) -> str:
        arrays = prepared(self.entry, lambda: [self.path], self._parse)
        assert arrays["length"][0] == len(arrays["codes"])
        return bytes(arrays["codes"].astype(np.uint8)).decode()

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.entry.store.iterdir())

    def _parse(self, paths: Sequence[Path]) -> Arrays:
        self.parsed += 1
        codes = np.frombuffer(paths[0].read_bytes(), dtype=np.uint8).astype(np.float32)
        return {"codes": codes, "length": np.array([len(codes)])}


@pytest.fixture(autouse=True)
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 0)
    monkeypatch.setattr(module, "SETTLED_S", -1.0)  # files are written just before


def test_files_are_parsed_once(tmp_path: Path) -> None:
    text = Text(tmp_path)
    assert [text.load() for _ in range(3)] == ["some text"] * 3
    assert text.parsed == 1


def test_arrays_are_mapped_read_only_with_their_types_and_shapes(tmp_path: Path) -> None:
    entry = Entry(tmp_path, "text", {})
    (tmp_path / "file").write_text("x")
    arrays = {"a": np.arange(6).reshape(2, 3)[:, ::-1], "b": np.zeros((0, 4), np.float32)}
    prepared(entry, lambda: [tmp_path / "file"], lambda _: arrays)
    found = read(entry)
    assert found is not None
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert not found[name].flags.writeable


def test_arguments_and_names_have_entries_of_their_own(tmp_path: Path) -> None:
    text = Text(tmp_path)
    text.load()
    assert read(Entry(tmp_path, "text", {"steps": 2})) is None
    assert read(Entry(tmp_path, "other", {"steps": 1})) is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nest(path: Path) -> None:
    path.write_text(json.dumps([1]))


@pytest.mark.parametrize("damage", [_flip, _cut, _empty, _nest, Path.unlink])
@pytest.mark.parametrize("which", range(3))
def test_a_damaged_entry_is_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], which: int
) -> None:
    text = Text(tmp_path)
    text.load()
    names = text.kept()
    assert len(names) == 3
    damage(text.entry.store / names[which])
    assert text.load() == "some text"
    assert text.parsed == 2
    assert text.load() == "some text"
    assert text.parsed == 2
    assert text.kept() == names


def test_a_source_that_changed_is_parsed_again_though_its_size_and_time_are_the_same(
    tmp_path: Path,
) -> None:
    text = Text(tmp_path)
    text.load()
    text.write("same size"[: len("some text")])
    assert text.load() == "same size"
    assert text.parsed == 2
    assert len(text.kept()) == 3  # the arrays of before are gone


def test_a_source_that_changed_a_moment_ago_is_compared_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 1e12)
    text = Text(tmp_path)
    text.load()
    (record,) = tmp_path.glob(f"{FOLDER}/*.json")
    assert json.loads(json.loads(record.read_text())["record"])["sources"][0]["mtime_ns"] is None
    assert text.load() == "some text"
    assert text.parsed == 1


def test_a_copied_folder_keeps_its_entry_and_notes_the_new_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = Text(tmp_path / "a")
    text.load()
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    copy = Entry(tmp_path / "b", "text", {"steps": 1})
    before = copy.record.read_text()
    assert read(copy) is not None
    assert copy.record.read_text() != before
    again = copy.record.stat().st_mtime_ns
    assert read(copy) is not None
    assert copy.record.stat().st_mtime_ns == again


def test_a_source_that_is_gone_makes_the_entry_useless(tmp_path: Path) -> None:
    text = Text(tmp_path)
    text.load()
    text.path.unlink()
    with pytest.raises(FileNotFoundError):
        text.load()


def test_a_source_that_changes_while_it_is_parsed_is_not_kept(tmp_path: Path) -> None:
    text = Text(tmp_path)

    def parse(_: Sequence[Path]) -> Arrays:
        text.write("later")
        return {"length": np.array([1])}

    prepared(text.entry, lambda: [text.path], parse)
    assert not text.entry.store.exists()


def test_a_place_that_takes_no_folder_is_said_once_and_costs_only_time(tmp_path: Path) -> None:
    text = Text(tmp_path)
    (tmp_path / FOLDER).write_text("in the way")
    with collected() as said:
        assert [text.load(), text.load()] == ["some text"] * 2
    (message,) = map(str, said.values())
    assert "data set text is parsed by every run: what was parsed cannot be kept in" in message
    assert FOLDER in message


def test_a_full_file_system_is_said_and_gets_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(9, 9, 0))
    text = Text(tmp_path)
    with collected() as said:
        assert text.load() == "some text"
    assert "0 bytes are free" in str(*said.values())
    assert text.kept() == []


def test_a_write_that_fails_on_the_way_leaves_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    text = Text(tmp_path)
    monkeypatch.setattr(module.os, "replace", full)
    with collected() as said:
        assert text.load() == "some text"
    assert "No space left" in str(*said.values())
    assert text.kept() == []


def test_small_files_are_parsed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH", 100)
    text = Text(tmp_path)
    assert [text.load(), text.load()] == ["some text"] * 2
    assert text.parsed == 2
    assert not text.entry.store.exists()


@pytest.mark.parametrize("locks", [True, False])
def test_of_several_at_once_all_have_it_and_one_parses_where_locks_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(module, "fcntl", None)
    text = Text(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: text.load(), range(16)))
    assert found == ["some text"] * 16
    if locks and module.fcntl is not None:
        assert text.parsed == 1
    assert len(text.kept()) == 3


def test_what_dead_writers_left_goes_with_the_next_entry(tmp_path: Path) -> None:
    text = Text(tmp_path)
    text.entry.store.mkdir()
    old, new = (text.entry.store / f"{name}.part" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, ns=(LONG_AGO_NS, LONG_AGO_NS))
    text.load()
    assert not old.exists()
    assert new.exists()
