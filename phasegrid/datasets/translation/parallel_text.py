"""Read a parallel text as a data set, without torch: its pairs, words, facts and fingerprint.

From two files of training and two of test sentences (`phasegrid.datasets.translation.files`):

1. Training pairs are examined in a random order (`subset` ``sample``: a permutation drawn from the
   stream ``pairs`` of `sample_seed`; Yang et al. 2021, B.2, draw 4,000 pairs) or in file order
   (``first``: the published sister code). A pair is skipped if a side has no token or more than
   `max_length` tokens; the first `pairs` of the others are kept, in file order. So a sample is
   uniform over the pairs that can be kept, and a smaller sample is part of a larger one. If there
   are fewer than `pairs`, all are kept, and the facts give their number.
2. Each language has a vocabulary of the words of its kept training sentences (`make_vocabulary`).
3. Every test pair is kept, so that results are for the whole test set. Its sentences are cut after
   `max_length` tokens, its references are not.

Letters: N pairs, L tokens of the longest sentence of either set and either language with its start
or end token.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from phasegrid.datasets import TranslationOptions
from phasegrid.datasets.text_files import digest_of, options_of, require_digest
from phasegrid.datasets.translation.files import PairOfFiles, find_pairs, read_pair
from phasegrid.datasets.translation.vocabulary import make_vocabulary, tokenize
from phasegrid.declare import DatasetFacts, Tokens
from phasegrid.errors import DataError
from phasegrid.keys import Json, stream_seed

Sentences: TypeAlias = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class ParallelText:
    """The content of the files, as words. `num_skipped` training pairs were examined and not kept.
    `test_references` are the target sentences of the test set as in the file, in lower case if that
    is requested.
    """

    train_source: Sentences
    train_target: Sentences
    test_source: Sentences
    test_target: Sentences
    test_references: tuple[str, ...]
    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    num_skipped: int

    @property
    def tokens(self) -> Tokens:
        """The length and the sizes of the vocabularies."""
        groups = (self.train_source, self.train_target, self.test_source, self.test_target)
        longest = max(len(sentence) for group in groups for sentence in group)
        return Tokens(longest + 1, len(self.source_words), len(self.target_words))


def facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of the text that `args`, the fields of `TranslationOptions`, choose.

    They are cached by the contents of the files.

    Raises:
        DataError: as `read_parallel_text`.
    """
    options = options_of(TranslationOptions, args)
    return _facts(options if options.sha256 else replace(options, sha256=_digest(_files(options))))


def fingerprint(args: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``{"sha256": ...}`` of the four files, in the order training, test, each source,
    target: their identity.

    Raises:
        DataError: if a file is missing, or the digest of the files differs from a given ``sha256``.
    """
    options = options_of(TranslationOptions, args)
    found = _digest(_files(options))
    require_digest("translation", f"the files in {options.root}", found, options.sha256)
    return {"sha256": found}


def read_parallel_text(options: TranslationOptions) -> ParallelText:
    """Read, choose and split the sentences, as the module's docstring says.

    Raises:
        DataError: if files are missing, unreadable or do not match, or no training pair can be
        kept.
    """
    train_files, test_files = _files(options)
    train_source, train_target, num_skipped = _choose_pairs(options, train_files)
    sources, references = read_pair(test_files)
    length = options.max_length
    return ParallelText(
        train_source,
        train_target,
        [tokenize(text, options.lowercase)[:length] for text in sources],
        [tokenize(text, options.lowercase)[:length] for text in references],
        tuple(text.lower() if options.lowercase else text for text in references),
        make_vocabulary(train_source, options.min_frequency),
        make_vocabulary(train_target, options.min_frequency),
        num_skipped,
    )


@lru_cache(maxsize=64)
def _facts(options: TranslationOptions) -> DatasetFacts:
    """Return the facts of files whose digest is in `options`; so a cached result cannot be out of
    date.
    """
    text = read_parallel_text(options)
    tokens = text.tokens
    target_tokens = sum(len(sentence) + 1 for sentence in text.train_target)
    return DatasetFacts(
        len(text.train_target),
        len(text.test_target),
        (2, tokens.length),
        tokens.target_vocabulary,
        "translation",
        tokens,
        target_tokens / len(text.train_target),
    )


def _files(options: TranslationOptions) -> tuple[PairOfFiles, ...]:
    stems = (options.train, options.test)
    return find_pairs(options.root, stems, options.source, options.target)


def _digest(files: Iterable[PairOfFiles]) -> str:
    paths = [path for pair in files for path in (pair.source, pair.target)]
    return digest_of("translation", paths)


def _choose_pairs(
    options: TranslationOptions, files: PairOfFiles
) -> tuple[list[list[str]], list[list[str]], int]:
    """Return the source and the target sentences of the kept pairs, and the number of skipped
    pairs.
    """
    sources, targets = read_pair(files)
    wanted = len(sources) if options.pairs is None else options.pairs
    kept: dict[int, tuple[list[str], list[str]]] = {}
    num_skipped = 0
    for index in _order(options, len(sources)):
        if len(kept) == wanted:
            break
        source = tokenize(sources[index], options.lowercase)
        target = tokenize(targets[index], options.lowercase)
        lengths = len(source), len(target)
        if min(lengths) > 0 and max(lengths) <= options.max_length:
            kept[index] = source, target
        else:
            num_skipped += 1
    if not kept:
        raise DataError(
            f"loading data set translation: none of the {num_skipped} pairs of {files.source} and"
            f" {files.target} has 1 to {options.max_length} tokens on both sides; raise"
            " dataset.max_length"
        )
    chosen = [kept[index] for index in sorted(kept)]
    return [source for source, _ in chosen], [target for _, target in chosen], num_skipped


def _order(options: TranslationOptions, size: int) -> Sequence[int]:
    if options.subset == "first":
        return range(size)
    rng = np.random.default_rng(stream_seed(options.sample_seed, "pairs"))
    order: list[int] = rng.permutation(size).tolist()
    return order
