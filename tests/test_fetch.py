"""``phasegrid fetch``: data in its place, or said why not; nothing trained, no network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from typer.testing import CliRunner

from phasegrid.cli.data_checks import check_data
from phasegrid.cli.main import app
from phasegrid.datasets import prepared

SWEEP = """\
schema: 1
name: small
dataset: {{name: {name}, {place}}}
model: {{name: {model}}}
train: {{epochs: 1, batch_size: 4}}
load: {{param: model.width, values: [2]}}
temperature: {{param: {param}, values: [0.25, 0.5]}}
seeds: 1
metrics: [accuracy]
"""


def fetch(folder: Path, *options: str, **sweep: str) -> tuple[int, str, str]:
    path = folder / "s.yaml"
    path.write_text(SWEEP.format(**{"param": "dataset.label_noise", "model": "mlp", **sweep}))
    result = CliRunner().invoke(app, ["fetch", str(path), *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def write_npz(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, num in (("train", 20), ("test", 10)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 1, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(num) % 2
    np.savez_compressed(path, **arrays)


def test_one_line_for_each_data_set_whatever_is_chosen_of_it(tmp_path: Path) -> None:
    code, out, err = fetch(tmp_path, name="digits", place="fraction: 0.1")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    assert line.startswith("digits: ready, 1297 training and 500 test examples; loaded in ")


def test_files_are_prepared_and_their_sizes_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    write_npz(tmp_path / "a.npz")
    write_npz(tmp_path / "b.npz")
    place = f"path: {tmp_path / 'a.npz'}"
    code, out, _ = fetch(
        tmp_path, "--set", f"dataset.path={tmp_path / 'b.npz'}", name="npz", place=place
    )
    assert code == 0
    code, out, _ = fetch(tmp_path, "--json", name="npz", place=place)
    (found,) = json.loads(out)
    assert code == 0
    assert found["place"] == str(tmp_path / "a.npz")
    assert found["files"] == [str(tmp_path / "a.npz")]
    assert found["file_bytes"] == (tmp_path / "a.npz").stat().st_size
    assert found["kept_bytes"] > 20 * 16
    assert (found["num_train"], found["num_test"], found["error"]) == (20, 10, None)
    assert len(list((tmp_path / prepared.FOLDER).glob("*.json"))) == 2
    assert not (tmp_path / "results").exists()


def test_of_texts_in_one_folder_those_of_the_sweep_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    for name in ("a", "b", "test"):
        (tmp_path / f"{name}.txt").write_text("one two three\n" * 8)
    for name in ("a", "b"):
        where = f"root: {tmp_path}, train: {name}.txt, test: test.txt, steps: 2"
        lstm = {"name": "language", "place": where, "param": "train.lr", "model": "lstm"}
        code, out, _ = fetch(tmp_path, "--json", **lstm)
        (told,) = json.loads(out)
        assert code == 0
        assert sorted(told["files"]) == [str(tmp_path / f"{n}.txt") for n in (name, "test")]
        assert told["file_bytes"] == 2 * 8 * len("one two three\n")


@pytest.mark.parametrize("option", ["--download", "--no-download"])
def test_missing_files_are_fetched_if_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    asked: list[str] = []

    def download(_: str, root: str, **__: str) -> None:
        asked.append(root)

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", download)
    code, out, err = fetch(tmp_path, option, name="cifar10", place=f"root: {tmp_path}")
    assert (code, out) == (2, "")
    assert "missing there: data_batch_1" in err
    assert asked == ([str(tmp_path)] if option == "--download" else [])


def test_a_place_that_cannot_be_written_is_noted_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    write_npz(tmp_path / "a.npz")
    (tmp_path / prepared.FOLDER).write_text("in the way")
    code, out, err = fetch(tmp_path, name="npz", place=f"path: {tmp_path / 'a.npz'}")
    assert code == 0
    assert "ready, 20 training and 10 test examples; loaded in" in out
    assert "note: data set npz is parsed by every run" in err


def test_a_wrong_sweep_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    from phasegrid.errors import SweepError

    with pytest.raises(SweepError, match=r"dataset\.name"):
        fetch(tmp_path, name="cifar11", place="root: x")


def test_doctor_tells_whole_entries_from_damaged_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    assert [check.state for check in check_data(tmp_path)] == ["note"]
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz")
        fetch(tmp_path, name="npz", place=f"path: {tmp_path / name}.npz")
    checks = list(check_data(tmp_path))
    assert [check.state for check in checks] == ["ok", "ok"]
    assert "npz of 1 file: whole, 0.0 MB" in checks[0].found
    first, *_ = sorted((tmp_path / prepared.FOLDER).glob("*.npy"))
    first.write_bytes(b"rubbish")
    whole, rest = check_data(tmp_path)
    assert (whole.state, rest.state) == ("ok", "note")
    assert "damaged, unfinished or of data that changed: npz-" in rest.found
