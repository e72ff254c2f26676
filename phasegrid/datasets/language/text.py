"""Read running text as a data set, without torch: its words, windows, facts and fingerprint.

A file is one long sequence of words. White space separates words, as in the Penn Treebank that
Mikolov et al. (2010) prepared. Every line, even an empty one, ends with the word `END`. The
vocabulary is that of the whole training file: `UNKNOWN`, `END`, then the other words, the most
frequent first (equally frequent words in the order of their code points). All other words are
unknown.

The sequence is cut into windows of T words, each beginning where the last one ends; the label of a
word is the word after it. So at most the last T words of a file are in no window. Consecutive
windows are consecutive text, so a network can carry a state from one to the next
(`phasegrid.tasks.language`).

What large files were turned into is kept beside them (`phasegrid.datasets.prepared`): the words of
the vocabulary, and both texts as numbers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasegrid.datasets import LanguageOptions, kept_count
from phasegrid.datasets.prepared import Arrays, Entry, prepared
from phasegrid.datasets.text_files import (
    digest_of,
    listing,
    options_of,
    read_text,
    require_digest,
    require_files,
)
from phasegrid.declare import DatasetFacts, Windows
from phasegrid.errors import DataError
from phasegrid.keys import Json

UNKNOWN, END = "<unk>", "<eos>"
SPECIAL_WORDS = (UNKNOWN, END)
SPLITS = ("train", "test", "valid")
"""The texts, in the order of `_names`; the last may not be there."""


@dataclass(frozen=True, slots=True)
class RunningText:
    """The content of the files: the vocabulary, and the texts as indices into it. The first
    `num_train`, `num_test` and `num_valid` windows are kept; a text that is not asked for is empty.
    """

    words: tuple[str, ...]
    train: NDArray[np.int32]
    test: NDArray[np.int32]
    valid: NDArray[np.int32]
    num_train: int
    num_test: int
    num_valid: int


def facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of the text that `args`, the fields of `LanguageOptions`, choose.

    They are cached by the contents of the files.

    Raises:
        DataError: as `read_running_text`.
    """
    options = options_of(LanguageOptions, args)
    return _facts(options if options.sha256 else replace(options, sha256=_digest(options)))


def fingerprint(args: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``{"sha256": ...}`` of the files, training first, then test: their identity.

    Raises:
        DataError: if a file is missing, or the digest of the files differs from a given ``sha256``.
    """
    options = options_of(LanguageOptions, args)
    found = _digest(options)
    files = f"the files {listing(_names(options))} in {options.root}"
    require_digest("language", files, found, options.sha256)
    return {"sha256": found}


def read_running_text(options: LanguageOptions) -> RunningText:
    """Read the files, number their words and count their windows, as the module's docstring says.

    Raises:
        DataError: if a file is missing, unreadable, not UTF-8, or has too few words for a window.
    """
    args: dict[str, Json] = {
        "train": options.train,
        "test": options.test,
        "max_words": options.max_words,
    }
    if options.valid is not None:
        args["valid"] = options.valid
    arrays = prepared(
        Entry(Path(options.root), "language", args),
        lambda: require_files("language", _paths(options)),
        lambda _: _number_words(options),
    )
    texts = {name: arrays.get(name, np.empty(0, np.int32)) for name in SPLITS}
    nums = {
        name: _count_windows(options, file, len(texts[name]))
        for name, file in zip(SPLITS, _names(options), strict=False)
    }
    words = tuple(bytes(arrays["words"]).decode("utf-8").split("\n"))
    kept = kept_count(nums["train"], options.fraction)
    return RunningText(
        words, **texts, num_train=kept, num_test=nums["test"], num_valid=nums.get("valid", 0)
    )


def _number_words(options: LanguageOptions) -> Arrays:
    """Return the texts as numbers of their words, int32, and the vocabulary as the bytes of its
    words in UTF-8, one a line.
    """
    texts = [split_words(_read_text(options, name)) for name in _names(options)]
    words = make_vocabulary(texts[0], options.max_words)
    place = {word: index for index, word in enumerate(words)}
    numbered = {
        name: np.array([place.get(word, 0) for word in text], dtype=np.int32)
        for name, text in zip(SPLITS, texts, strict=False)
    }
    return {"words": np.frombuffer("\n".join(words).encode("utf-8"), dtype=np.uint8), **numbered}


def split_words(text: str) -> list[str]:
    r"""Split a text into its words; every line ends with `END`.

    >>> split_words(" a cat \n<unk> sat\n")
    ['a', 'cat', '<eos>', '<unk>', 'sat', '<eos>']
    """
    lines = text.split("\n")  # not splitlines(): its other separators are white space here
    if lines[-1] == "":
        lines.pop()
    return [word for line in lines for word in (*line.split(), END)]


def make_vocabulary(text: Sequence[str], max_words: int | None) -> tuple[str, ...]:
    """List the words of a text, `SPECIAL_WORDS` first; at most `max_words` of them.

    >>> make_vocabulary(["b", "a", "b", "<eos>"], 3)
    ('<unk>', '<eos>', 'b')
    """
    counts = Counter(text)
    others = sorted(counts.keys() - {*SPECIAL_WORDS}, key=lambda word: (-counts[word], word))
    return (*SPECIAL_WORDS, *others)[:max_words]


@lru_cache(maxsize=64)
def _facts(options: LanguageOptions) -> DatasetFacts:
    """Return the facts of files whose digest is in `options`; so a cached result cannot be out of
    date.
    """
    text = read_running_text(options)
    return DatasetFacts(
        text.num_train,
        text.num_test,
        (options.steps,),
        len(text.words),
        "language",
        Windows(options.steps, len(text.words)),
        float(options.steps),
        num_aside=text.num_valid,
    )


def _count_windows(options: LanguageOptions, name: str, num_words: int) -> int:
    windows = (num_words - 1) // options.steps
    if windows < 1:
        raise DataError(
            f"loading data set language: {_path(options, name)} has {num_words} words, ends of"
            f" lines counted; a window of dataset.steps {options.steps} needs {options.steps + 1}"
        )
    return windows


def _digest(options: LanguageOptions) -> str:
    return digest_of("language", _paths(options))


def _read_text(options: LanguageOptions, name: str) -> str:
    path = _path(options, name)
    text = read_text("language", path)
    if not text.strip():
        raise DataError(f"loading data set language: {path} holds no word")
    return text


def _names(options: LanguageOptions) -> list[str]:
    """Return the names of the files, as `SPLITS` orders them."""
    return [options.train, options.test, *([] if options.valid is None else [options.valid])]


def _paths(options: LanguageOptions) -> list[Path]:
    return [_path(options, name) for name in _names(options)]


def _path(options: LanguageOptions, name: str) -> Path:
    return Path(options.root) / name
