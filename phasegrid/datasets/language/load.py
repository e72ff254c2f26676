"""Running text for language models: a user's own text files, or those of the Penn Treebank.

`phasegrid.datasets.language.text` describes what is read, `phasegrid.declare.Windows` the layout in
tensors.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from phasegrid.datasets import LanguageOptions
from phasegrid.datasets.dataset import Dataset
from phasegrid.datasets.language.text import fingerprint, read_running_text
from phasegrid.datasets.text_files import options_of
from phasegrid.declare import Windows
from phasegrid.keys import Json


def load(**args: Json) -> Dataset:
    """Load the text files in `root`. `args` are the fields of `LanguageOptions`.

    Raises:
        DataError: if the files are missing or malformed, or are not those that `sha256` names.
    """
    options = options_of(LanguageOptions, args)
    if options.sha256:
        fingerprint(args)
    text = read_running_text(options)
    train_inputs, train_labels = as_windows(text.train, options.steps, text.num_train)
    test_inputs, test_labels = as_windows(text.test, options.steps, text.num_test)
    valid_inputs, valid_labels = as_windows(text.valid, options.steps, text.num_valid)
    return Dataset(
        name="language",
        train_inputs=train_inputs,
        train_labels=train_labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        num_classes=len(text.words),
        pixel=torch.ones(1),
        padding=torch.zeros(1),
        task="language",
        form=Windows(options.steps, len(text.words)),
        words=text.words,
        aside_inputs=valid_inputs,
        aside_labels=valid_labels,
    )


def vocabulary_record(data: Dataset) -> Json:
    """Return the map from words to numbers of a data set of this module: its vocabulary."""
    return {"words": list(data.words)}


def as_windows(words: ArrayLike, steps: int, num: int) -> tuple[Tensor, Tensor]:
    """Cut the first `num` windows of T = `steps` words out of a text: inputs (N, T) and labels (N,
    T), int64. Each label is the word after its input.

    >>> [part.tolist() for part in as_windows([5, 6, 7, 8, 9], 2, 2)]
    [[[5, 6], [7, 8]], [[6, 7], [8, 9]]]
    """
    text = torch.from_numpy(np.asarray(words)[: num * steps + 1].astype(np.int64))
    return text[:-1].view(num, steps).clone(), text[1:].view(num, steps).clone()
