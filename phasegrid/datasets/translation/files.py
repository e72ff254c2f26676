"""Find and read the files of a parallel text: each sentence in one language has its translation at
the same place in the other.

Three layouts, tried in this order; S is a stem (``train``), X a language, A-B the pair (``de-en``;
either order):

    plain   S.X               one sentence a line
    tags    S.tags.A-B.X      IWSLT's training text: as plain, without the lines that begin
                              with ``<``, which hold information
    xml     *.S.A-B.X.xml     IWSLT's other sets: the texts of ``<seg id="1"> ... </seg>``, in order

Only ``\\n`` ends a line, and a ``\\r`` before it is dropped, because other characters at which
Python splits lines occur within sentences. The xml layout is read with a pattern, not a parser,
because such files are often not well-formed. Only the five predefined entities are replaced. Text
is UTF-8; a byte-order mark is dropped. Standard library only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phasegrid.datasets.text_files import listing, read_text
from phasegrid.errors import DataError

_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg\s*>", re.DOTALL | re.IGNORECASE)
_ENTITY = re.compile(r"&(amp|lt|gt|quot|apos);")
_CHARACTERS = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


@dataclass(frozen=True, slots=True)
class PairOfFiles:
    """The two files of one split, and their layout."""

    source: Path
    target: Path
    layout: Literal["plain", "tags", "xml"]


def find_pairs(
    root: str, stems: Sequence[str], source: str, target: str
) -> tuple[PairOfFiles, ...]:
    """Return the files of each stem in the folder `root`.

    Raises:
        DataError: if a stem does not have exactly one pair of files; the message names every such
            stem, what was looked for, and the files that are there.
    """
    folder = Path(root)
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(
            f"loading data set translation: cannot read the folder {folder.absolute()} "
            f"({error.strerror or error}); set dataset.root to the folder that holds the sentences"
        ) from error
    found = [_find_pair(folder, names, stem, source, target) for stem in stems]
    mistakes = [item for item in found if isinstance(item, str)]
    if mistakes:
        raise DataError(
            f"loading data set translation: {'; '.join(dict.fromkeys(mistakes))}."
            f" {folder.absolute()} holds {listing(names)}. Set dataset.root to the folder, or"
            " dataset.train and dataset.test to the names"
        )
    return tuple(item for item in found if not isinstance(item, str))


def read_pair(files: PairOfFiles) -> tuple[list[str], list[str]]:
    """Return the sentences of both files, equally many.

    Raises:
        DataError: if a file cannot be read, is not UTF-8 or holds no sentence, or if the numbers
        differ.
    """
    source, target = (_read_sentences(path, files.layout) for path in (files.source, files.target))
    if len(source) != len(target):
        raise DataError(
            f"loading data set translation: {files.source} holds {len(source)} sentences, but"
            f" {files.target} {len(target)}; each sentence needs its translation in the same place"
        )
    return source, target


def _find_pair(
    folder: Path, names: Sequence[str], stem: str, source: str, target: str
) -> PairOfFiles | str:
    """Return the files of the first layout that exists for both languages, or what is wrong."""
    directions = "|".join(re.escape(pair) for pair in (f"{source}-{target}", f"{target}-{source}"))
    patterns: dict[Literal["plain", "tags", "xml"], str] = {
        "plain": rf"{re.escape(stem)}\.%s",
        "tags": rf"{re.escape(stem)}\.tags\.(?:{directions})\.%s",
        "xml": rf"(?:.*\.)?{re.escape(stem)}\.(?:{directions})\.%s\.xml",
    }
    for layout, pattern in patterns.items():
        sides = [
            [name for name in names if re.fullmatch(pattern % re.escape(language), name)]
            for language in (source, target)
        ]
        if all(len(side) == 1 for side in sides):
            return PairOfFiles(folder / sides[0][0], folder / sides[1][0], layout)
        if all(sides):
            return f"more than one file fits {stem!r}: {', '.join([*sides[0], *sides[1]])}"
    return (
        f"found no files for {stem!r}: looked for {stem}.{source} and {stem}.{target}, "
        f"{stem}.tags.{source}-{target}.{source} and .{target}, "
        f"*.{stem}.{source}-{target}.{source}.xml and .{target}.xml"
    )


def _read_sentences(path: Path, layout: Literal["plain", "tags", "xml"]) -> list[str]:
    text = read_text("translation", path)
    if layout == "xml":
        sentences = [_plain(found) for found in _SEGMENT.findall(text)]
    else:
        lines = text.split("\n")  # not splitlines(): sentences may hold U+2028, U+0085 and others
        if lines[-1] == "":
            lines.pop()
        sentences = [line.strip() for line in lines]
        if layout == "tags":
            sentences = [line for line in sentences if not line.startswith("<")]
    if not any(sentences):
        raise DataError(
            f"loading data set translation: {path} holds no sentence; it is empty, or not laid out"
            f" as the name says ({layout})"
        )
    return sentences


def _plain(segment: str) -> str:
    return " ".join(_ENTITY.sub(lambda found: _CHARACTERS[found[1]], segment).split())
