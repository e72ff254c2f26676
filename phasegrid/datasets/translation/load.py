"""Sentence pairs for machine translation: a user's own text files, or IWSLT'16 as it is
distributed.

`phasegrid.datasets.translation.parallel_text` describes what is read and kept,
`phasegrid.declare.Tokens` the layout in tensors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from phasegrid.datasets import TranslationOptions
from phasegrid.datasets.dataset import Dataset, Text
from phasegrid.datasets.text_files import options_of
from phasegrid.datasets.translation.parallel_text import (
    Sentences,
    fingerprint,
    read_parallel_text,
)
from phasegrid.datasets.translation.vocabulary import (
    TOKENIZER,
    TOKENIZER_VERSION,
    encode,
    numbering,
)
from phasegrid.errors import DataError
from phasegrid.keys import Json
from phasegrid.tasks.tokens import END, IGNORE, PADDING, START


def load(**args: Json) -> Dataset:
    """Load the text files in `root`. `args` are the fields of `TranslationOptions`.

    Raises:
        DataError: if the files are missing or malformed, or are not those that `sha256` names.
    """
    options = options_of(TranslationOptions, args)
    if options.sha256:
        fingerprint(args)
    words = read_parallel_text(options)
    tokens = words.tokens
    vocabularies = numbering(words.source_words), numbering(words.target_words)

    def lay_out(source: Sentences, target: Sentences) -> tuple[Tensor, Tensor]:
        source_ids = [encode(sentence, vocabularies[0]) for sentence in source]
        target_ids = [encode(sentence, vocabularies[1]) for sentence in target]
        return as_tensors(source_ids, target_ids, tokens.length)

    train_inputs, train_labels = lay_out(words.train_source, words.train_target)
    test_inputs, test_labels = lay_out(words.test_source, words.test_target)
    return Dataset(
        name="translation",
        train_inputs=train_inputs,
        train_labels=train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        num_classes=tokens.target_vocabulary,
        pixel=torch.ones(1),
        padding=torch.zeros(1),
        task="translation",
        form=tokens,
        text=Text(words.source_words, words.target_words, words.test_references),
    )


def as_tensors(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], length: int
) -> tuple[Tensor, Tensor]:
    """Lay out N pairs of token ids, given without special tokens, as inputs (N, 2, length) and
    labels (N, length), int64.
    """
    inputs = torch.full((len(source), 2, length), PADDING)
    labels = torch.full((len(source), length), IGNORE)
    for i, (ids, target_ids) in enumerate(zip(source, target, strict=True)):
        inputs[i, 0, : len(ids) + 1] = torch.tensor([*ids, END])
        inputs[i, 1, : len(target_ids) + 1] = torch.tensor([START, *target_ids])
        labels[i, : len(target_ids) + 1] = torch.tensor([*target_ids, END])
    return inputs, labels


def vocabulary_record(data: Dataset) -> Json:
    """Return the map from words to numbers of a data set of this module: the tokeniser and both
    vocabularies, in id order.

    Raises:
        DataError: if the data set has no words.
    """
    if data.text is None:
        raise DataError(f"data set {data.name} has no vocabulary: it does not consist of sentences")
    return {
        "tokenizer": TOKENIZER,
        "tokenizer_version": TOKENIZER_VERSION,
        "source_words": list(data.text.source_words),
        "target_words": list(data.text.target_words),
    }
