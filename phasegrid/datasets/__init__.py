"""Declare the built-in data sets. A sweep's ``dataset: {name: ...}`` is looked up in `DATASETS`.

Every data set of arrays has the fields of `Options`. Nothing here imports torch; the loaders do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from phasegrid.declare import MAX_COUNT, DatasetFacts, DatasetKind, Finding, later, locator
from phasegrid.keys import Json

FileName = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of every data set of arrays. Operations are applied in this order: fraction, set
    aside, label noise, image noise, normalise.

    - `fraction` of the training set is kept: the `first` N examples in file order (published code
      of Yang et al. 2021) or a `sample` drawn with `corruption_seed`. N = floor(fraction * size +
      1/2), at least 1.
    - `aside`: the share of the N kept training examples that is taken out of the training set and
      set aside: floor(aside * N + 1/2) examples, drawn with `corruption_seed`. No network is
      trained or scored on them, except by an objective that takes a part of every batch from there
      (``poisoned``). They get no noise and are normalised like the training set.
    - `label_noise` p: floor(p N + 1/2) of the N training labels are replaced, always by a
      *different* class (Yang et al. 2021, text) or by `any` class, the true one included (its
      published code). Test labels stay clean.
    - `image_noise` u: adds U[0, u] in pixel units (0..255 for images) to every training input, in
      float arithmetic, neither wrapped nor clipped.
    - `normalize`: subtract mean and divide by standard deviation per channel, both of the
      (corrupted) training set. Without it images are in 0..1, and other inputs are unchanged.
    - `augment`: ``flip_crop`` flips left-right with probability 1/2 and shifts by up to 4 pixels
      with zero padding, per example and epoch, on the device.
    - `corruption_seed`: seeds the sample and the noise. All seeds of a cell share it, as in the
      published code, so that all trials of a cell have the same training set.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    subset: Literal["first", "sample"] = "first"
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_noise_to: Literal["different", "any"] = "different"
    image_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    normalize: bool = True
    augment: Literal["none", "flip_crop"] = "none"
    corruption_seed: Annotated[int, Field(ge=0)] = 0
    aside: Annotated[float, Field(ge=0, lt=1)] = later(0.0)


@dataclass(frozen=True, slots=True)
class FileOptions(Options):
    """Options of data sets that live in a folder."""

    root: str = locator("data")
    download: bool = locator(False)


@dataclass(frozen=True, slots=True)
class SvhnOptions(FileOptions):
    """Options of SVHN. With ``aside_from: extra`` the examples set aside are the first ones of the
    split ``extra`` (531,131 images of the same distribution), and the whole of the kept training
    set is trained on: for N training examples, the first floor(N aside / (1 - aside) + 1/2), so
    that `aside` is their share of both together (published code of Yenphraphai et al.,
    "Mode-connecting volumes for sharp modes": 73,257 for a share of 0.5).
    """

    aside_from: Literal["train", "extra"] = later("train")


@dataclass(frozen=True, slots=True)
class NpzOptions(Options):
    """`path` is that of the file. The `sha256` of its bytes is filled in and is its identity.

    Arrays ``train_images`` (or ``train_inputs``), ``train_labels``, ``test_images`` (or
    ``test_inputs``), ``test_labels``; layouts and types are described in
    `phasegrid.datasets.npz_file`.
    """

    path: str = locator("")
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ImageFolderOptions(Options):
    """Images in folders named after their classes, as those of ImageNet: ``root/train/CLASS/*.jpg``
    and ``root/val/CLASS/*.jpg``. Classes are numbered in the order of their names.

    - `layout` ``imagenet``: a split may also be the folder of validation images as they are
      published, without folders of classes; these are then in ``root/ILSVRC2012_devkit_t12``, the
      development kit. With ``train: val`` the validation images are both splits, for networks that
      are only measured.
    - `layout` ``cub200``: the birds of CUB-200-2011 (Wah et al. 2011: 5,994 images to train on,
      5,794 to test on, 200 classes) in ``root/CUB_200_2011``, with its lists of classes and splits.
      With `download` they are fetched (1.2 GB) when the sweep is first read.
    - Every image is scaled so that its shorter side has `resize` pixels; the middle `size` x `size`
      pixels are kept (256 and 224: the usual way for ImageNet).
    - `per_class` and `val_per_class`: how many images of each class are kept, the first by name;
      null for all. The training images are in the order: the first of each class, the second of
      each, and so on, so that any `fraction` has all classes.
    - `statistics`: with `normalize`, subtract and divide by those of ``imagenet`` (the usual
      constants, for networks trained with them) or by the training set's ``own``.
    - `sha256` of the files is filled in and is their identity.

    Images are decoded once, into ``root/.phasegrid-prepared``, in bounded memory: 3 size^2 bytes
    for each on disk. A training holds the images that it reads as float32: 602 kB for each of 224 x
    224, 90 GB for 100 of each class of ImageNet with all its validation images. Random resized
    crops are not available; ``augment: flip_crop`` flips and shifts by up to 4 pixels.
    """

    root: str = locator("data")
    train: FileName = "train"
    val: FileName = "val"
    resize: Annotated[int, Field(ge=1, le=10_000)] = 256
    size: Annotated[int, Field(ge=1, le=10_000)] = 224
    per_class: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    val_per_class: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    statistics: Literal["imagenet", "own"] = "imagenet"
    sha256: str = ""
    layout: Literal["folders", "imagenet", "cub200"] = later("folders")
    download: bool = locator(False)


@dataclass(frozen=True, slots=True)
class SpiralOptions(Options):
    """Two interleaved spirals (Benton et al. 2021, section 5.3 and its notebook): `per_class`
    training and `test_per_class` test points per class, Gaussian `noise`.
    """

    per_class: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 50
    test_per_class: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 100
    noise: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True, slots=True)
class TranslationOptions:
    """Sentence pairs in the folder `root`: ``train.de`` and ``train.en``, one sentence a line, or
    the files of IWSLT'16 (``train.tags.de-en.de``, ``IWSLT16.TED.tst2013.de-en.de.xml``); `train`
    and `test` are the stems of their names.

    - `source` and `target`: the languages, as in the files' names. Yang et al. 2021 use De-En.
    - `pairs`: how many pairs of the training set are kept, null for all: a random `sample` drawn
      with `sample_seed` (the paper: 4,000) or the `first` ones (published sister code). Pairs with
      an empty side, or a side of more than `max_length` tokens (sister code: 100), are skipped.
      Test sentences are cut to `max_length`, never left out.
    - `min_frequency`: words that are rarer in the kept training pairs are unknown (sister code: 2).
    - `lowercase`: all words, and the references, in lower case.
    - `sha256` of the files is filled in and is their identity.
    """

    root: str = locator("data")
    source: FileName = "de"
    target: FileName = "en"
    train: FileName = "train"
    test: FileName = "test"
    pairs: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = 4000
    subset: Literal["sample", "first"] = "sample"
    max_length: Annotated[int, Field(ge=1, le=100_000)] = 100
    min_frequency: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 2
    lowercase: bool = False
    sample_seed: Annotated[int, Field(ge=0)] = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """Running text in the folder `root`: the files `train` and `test`, words between white space,
    one sentence a line, as those of the Penn Treebank (Mikolov et al. 2010).

    - `valid`: a third file, on which no network is trained, null for none; perplexity and curves
      are measured on it too.
    - `steps` T: the text is read in windows of this many words; gradients reach back no further
      (Zaremba et al. 2014: 20 or 35). An example is a window.
    - `fraction`: the share of the windows of the training text that is kept, the first ones; the
      vocabulary is that of the whole text.
    - `max_words`: the size of the vocabulary, including ``<unk>`` and ``<eos>``; the most frequent
      words are kept. null for all words. All other words are unknown.
    - `sha256` of the files is filled in and is their identity.
    """

    root: str = locator("data")
    train: FileName = "ptb.train.txt"
    test: FileName = "ptb.test.txt"
    steps: Annotated[int, Field(ge=1, le=100_000)] = 35
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_words: Annotated[int, Field(ge=3, le=MAX_COUNT)] | None = None
    sha256: str = ""
    valid: FileName | None = later(None)


def crop_fits(args: Mapping[str, Json]) -> Finding | None:
    """Find images that are cut to more pixels than they are scaled to."""
    resize, size = args["resize"], args["size"]
    assert isinstance(resize, int)
    assert isinstance(size, int)
    if size <= resize:
        return None
    return "size", f"found {size} with resize {resize}; allowed: at most resize"


def _fixed(num_train: int, num_test: int, shape: tuple[int, ...], classes: int) -> DatasetFacts:
    return DatasetFacts(num_train, num_test, shape, classes)


FIXED_FACTS: Mapping[str, DatasetFacts] = {
    "digits": _fixed(1297, 500, (1, 8, 8), 10),
    "mnist": _fixed(60_000, 10_000, (1, 28, 28), 10),
    "cifar10": _fixed(50_000, 10_000, (3, 32, 32), 10),
    "cifar100": _fixed(50_000, 10_000, (3, 32, 32), 100),
    "svhn": _fixed(73_257, 26_032, (3, 32, 32), 10),
}
SVHN_EXTRA = 531_131
"""The images of the split ``extra`` of SVHN."""


def kept_count(size: int, fraction: float) -> int:
    """Return the number of examples that a `fraction` keeps of `size`: floor(fraction * size +
    1/2), at least 1.
    """
    return max(1, int(fraction * size + 0.5))


def aside_count(kept: int, aside: float) -> int:
    """Return how many of the `kept` training examples are set aside: floor(aside * kept + 1/2), but
    never all.
    """
    return min(kept - 1, int(aside * kept + 0.5))


def extra_count(kept: int, aside: float) -> int:
    """Return how many examples of another split are an `aside` share of them and `kept` training
    examples: floor(kept aside / (1 - aside) + 1/2).

    >>> extra_count(73_257, 0.5), extra_count(1000, 0.2)
    (73257, 250)
    """
    return int(kept * aside / (1 - aside) + 0.5)


def facts_of_options(
    size: int, num_test: int, shape: tuple[int, ...], classes: int, args: Mapping[str, Json]
) -> DatasetFacts:
    """Return the facts of a data set of `size` training examples, after `fraction` and `aside`."""
    fraction, aside = args["fraction"], args["aside"]
    assert isinstance(fraction, float)
    assert isinstance(aside, float)
    kept = kept_count(size, fraction)
    num_aside = aside_count(kept, aside)
    return DatasetFacts(kept - num_aside, num_test, shape, classes, num_aside=num_aside)


def fixed_facts(name: str, args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of a data set of known size."""
    facts = FIXED_FACTS[name]
    return facts_of_options(
        facts.num_train, facts.num_test, facts.input_shape, facts.num_classes, args
    )


def svhn_facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of SVHN."""
    facts = fixed_facts("svhn", args)
    if args["aside_from"] != "extra":
        return facts
    num_train, num_aside = _from_extra(args)
    return replace(facts, num_train=num_train, num_aside=num_aside)


def extra_suffices(args: Mapping[str, Json]) -> Finding | None:
    """Find a share that is more than the split ``extra`` of SVHN has."""
    if args["aside_from"] != "extra":
        return None
    num_train, wanted = _from_extra(args)
    if wanted <= SVHN_EXTRA:
        return None
    most = SVHN_EXTRA / (SVHN_EXTRA + num_train)
    return (
        "aside",
        f"found {args['aside']}, which is {wanted:,} images beside {num_train:,} to train on;"
        f" allowed: at most {most:.3g}, since the split extra has {SVHN_EXTRA:,}",
    )


def _from_extra(args: Mapping[str, Json]) -> tuple[int, int]:
    """Return the numbers of training examples and of examples set aside from the split extra."""
    fraction, aside = args["fraction"], args["aside"]
    assert isinstance(fraction, float)
    assert isinstance(aside, float)
    kept = kept_count(FIXED_FACTS["svhn"].num_train, fraction)
    return kept, extra_count(kept, aside)


def spiral_facts(args: Mapping[str, Json]) -> DatasetFacts:
    """Return the facts of two spirals of the size asked for."""
    per_class, test_per_class = args["per_class"], args["test_per_class"]
    assert isinstance(per_class, int)
    assert isinstance(test_per_class, int)
    return facts_of_options(2 * per_class, 2 * test_per_class, (2,), 2, args)


DATASETS: dict[str, DatasetKind] = {
    "digits": DatasetKind(
        Options, "phasegrid.datasets.digits:load", lambda args: fixed_facts("digits", args)
    ),
    "mnist": DatasetKind(
        FileOptions, "phasegrid.datasets.vision:load_mnist", lambda args: fixed_facts("mnist", args)
    ),
    "cifar10": DatasetKind(
        FileOptions,
        "phasegrid.datasets.vision:load_cifar10",
        lambda args: fixed_facts("cifar10", args),
    ),
    "cifar100": DatasetKind(
        FileOptions,
        "phasegrid.datasets.vision:load_cifar100",
        lambda args: fixed_facts("cifar100", args),
    ),
    "svhn": DatasetKind(
        SvhnOptions,
        "phasegrid.datasets.vision:load_svhn",
        svhn_facts,
        rules=(extra_suffices,),
    ),
    "npz": DatasetKind(
        NpzOptions,
        "phasegrid.datasets.npz:load",
        "phasegrid.datasets.npz_file:facts",
        fingerprint="phasegrid.datasets.npz_file:fingerprint",
    ),
    "image_folder": DatasetKind(
        ImageFolderOptions,
        "phasegrid.datasets.image_folder:load",
        "phasegrid.datasets.image_files:facts",
        fingerprint="phasegrid.datasets.image_files:fingerprint",
        rules=(crop_fits,),
    ),
    "two_spirals": DatasetKind(
        SpiralOptions,
        "phasegrid.datasets.two_spirals:load",
        spiral_facts,
    ),
    "translation": DatasetKind(
        TranslationOptions,
        "phasegrid.datasets.translation.load:load",
        "phasegrid.datasets.translation.parallel_text:facts",
        fingerprint="phasegrid.datasets.translation.parallel_text:fingerprint",
        vocabulary="phasegrid.datasets.translation.load:vocabulary_record",
    ),
    "language": DatasetKind(
        LanguageOptions,
        "phasegrid.datasets.language.load:load",
        "phasegrid.datasets.language.text:facts",
        fingerprint="phasegrid.datasets.language.text:fingerprint",
        vocabulary="phasegrid.datasets.language.load:vocabulary_record",
    ),
}
