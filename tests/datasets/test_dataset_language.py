"""Running text from files: which words, which windows, the identity of the files, and every
refusal.
"""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phasegrid.datasets import LanguageOptions, prepared
from phasegrid.datasets.language import text
from phasegrid.datasets.language.load import as_windows, load
from phasegrid.datasets.language.text import RunningText, fingerprint, read_running_text
from phasegrid.datasets.language.text import facts as language_facts
from phasegrid.datasets.text_files import options_of
from phasegrid.errors import DataError

TRAIN = " the cat sat \n the dog <unk> \n\n a cat ran \n"
TEST = "a dog flew\nthe cat ran\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ptb.train.txt").write_bytes(TRAIN.encode())
    (tmp_path / "ptb.test.txt").write_bytes(TEST.encode())
    return tmp_path


def options(root: Path, **changes: Any) -> dict[str, Any]:
    return asdict(replace(LanguageOptions(root=str(root), steps=3), **changes))


def read(root: Path, **changes: Any) -> RunningText:
    return read_running_text(options_of(LanguageOptions, options(root, **changes)))


def spelled(text: RunningText, places: Any) -> list[str]:
    return [text.words[place] for place in places]


def test_vocabulary_is_the_special_words_then_the_most_frequent_first(root: Path) -> None:
    assert read(root).words == ("<unk>", "<eos>", "cat", "the", "a", "dog", "ran", "sat")
    assert read(root, max_words=4).words == ("<unk>", "<eos>", "cat", "the")


def test_text_is_every_word_and_an_end_after_every_line(root: Path) -> None:
    text = read(root)
    expected = "the cat sat <eos> the dog <unk> <eos> <eos> a cat ran <eos>"
    assert spelled(text, text.train) == expected.split()
    assert spelled(text, text.test) == ["a", "dog", "<unk>", "<eos>", "the", "cat", "ran", "<eos>"]


def test_a_validation_text_has_the_words_of_the_training_text_and_its_own_windows(
    root: Path,
) -> None:
    (root / "valid.txt").write_text("the cat flew\n")
    text, without = read(root, valid="valid.txt"), read(root)
    assert text.words == without.words
    assert spelled(text, text.valid) == ["the", "cat", "<unk>", "<eos>"]
    assert (text.num_valid, without.num_valid) == (1, 0)
    data = load(**options(root, valid="valid.txt"))
    assert data.facts.num_aside == language_facts(options(root, valid="valid.txt")).num_aside == 1
    assert data.aside_inputs.tolist() == [text.valid[:3].tolist()]
    assert data.aside_labels.tolist() == [text.valid[1:4].tolist()]
    assert torch.equal(data.train_inputs, load(**options(root)).train_inputs)


def test_a_validation_text_changes_the_identity_only_where_it_is_asked_for(root: Path) -> None:
    (root / "valid.txt").write_text("the cat flew\n")
    before, three = fingerprint(options(root)), fingerprint(options(root, valid="valid.txt"))
    (root / "valid.txt").write_text("the cat ran\n")
    assert fingerprint(options(root)) == before
    assert fingerprint(options(root, valid="valid.txt")) != three
    with pytest.raises(DataError, match=r"cannot read .*missing.txt"):
        read(root, valid="missing.txt")


def test_windows_are_consecutive_and_labels_are_the_words_after(root: Path) -> None:
    text = read(root)
    inputs, labels = as_windows(text.train, 3, text.num_train)
    assert text.num_train == 4
    assert inputs.flatten().tolist() == list(text.train[:12])
    assert labels.flatten().tolist() == list(text.train[1:13])


def test_fraction_keeps_the_first_windows_and_the_whole_vocabulary(root: Path) -> None:
    half, whole = read(root, fraction=0.5), read(root)
    assert (half.num_train, half.num_test) == (2, whole.num_test)
    assert half.words == whole.words
    assert list(half.train) == list(whole.train)


def test_what_was_numbered_once_is_kept_for_every_choice_of_windows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(root, steps=3), read(root, fraction=0.5), read(root, max_words=4)
    monkeypatch.setattr(prepared, "WORTH", 0)
    kept = read(root, steps=3), read(root, fraction=0.5), read(root, max_words=4)
    assert len(list(root.glob(f"{prepared.FOLDER}/*.json"))) == 2  # of two vocabularies
    monkeypatch.setattr(text, "split_words", None)  # it cannot be read again
    later = read(root, steps=3), read(root, fraction=0.5), read(root, max_words=4)
    for one in (kept, later):
        for found, expected in zip(one, first, strict=True):
            assert found.words == expected.words
            assert (found.num_train, found.num_test) == (expected.num_train, expected.num_test)
            for name in ("train", "test"):
                a, b = getattr(found, name), getattr(expected, name)
                assert (a.dtype, a.tolist()) == (b.dtype, b.tolist())
    load(**options(root))  # from numbers that are mapped read-only


def test_a_text_that_has_changed_is_numbered_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    before = read(root)
    (root / "ptb.test.txt").write_text(TEST.replace("dog", "cat"))
    after = read(root)
    assert spelled(before, before.test)[:2] == ["a", "dog"]
    assert spelled(after, after.test)[:2] == ["a", "cat"]


def test_a_kept_text_is_refused_where_it_has_no_window(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "WORTH", 0)
    read(root)
    with pytest.raises(DataError, match=r"a window of dataset\.steps 100 needs 101"):
        read(root, steps=100)


def test_fingerprint_is_that_of_the_files_bytes(root: Path) -> None:
    parts = [hashlib.sha256(text.encode()).digest() for text in (TRAIN, TEST)]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    assert fingerprint(options(root)) == {"sha256": digest}
    assert fingerprint(options(root, sha256=digest)) == {"sha256": digest}
    with pytest.raises(DataError, match=r"a file has changed\. Put the old one back"):
        fingerprint(options(root, sha256="0" * 64))


def test_a_missing_file_is_refused_with_what_is_there(root: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*wiki.txt .*holds ptb.test.txt, ptb.train"):
        read(root, train="wiki.txt")
    with pytest.raises(DataError, match=r"cannot read .*nowhere.*Set dataset.root to the folder"):
        read(root / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ptb.test.txt holds no word"),
        (b" \n \n", "ptb.test.txt holds no word"),
        (b"a cat\nna\xefve\n", r"line 2 of .*ptb.test.txt is not UTF-8 .*byte 0xef"),
        (b"a cat\n", "has 3 words, ends of lines counted; a window of dataset.steps 3 needs 4"),
    ],
)
def test_a_file_that_is_no_text_for_a_window_is_refused(
    root: Path, content: bytes, message: str
) -> None:
    (root / "ptb.test.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(root)
