"""Draw tables of text: a head, rules and rows, one block below the other."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phasegrid.analysis.draw.headings import write_heading

LETTER = 0.068
"""The mean width of a letter in inches, a little more than in this font at this size."""
LINE = 0.2
GAP = 0.22
"""The height of a row, and the room between columns, in inches."""
SIZE = 8
NARROW = 16
"""No head is broken at fewer letters."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table of text, `texts`, with its index as the first column, under its `head` (empty:
    none).
    """

    head: str
    texts: pd.DataFrame


def written_tables(blocks: Sequence[Block], *, title: str = "", note: str = "") -> Figure:
    """Draw tables below each other, with the same widths of columns, and a `note` below the last.

    Raises:
        ValueError: if there is no block.
    """
    letters = _letters(blocks)
    widths = [LETTER * count for count in letters]
    heads = max(len(lines) for block in blocks for lines in _heads(block, letters))
    lines = sum(len(block.texts) + heads + bool(block.head) + 0.8 for block in blocks)
    high = LINE * (lines + bool(note) + 0.2)
    wide = max(sum(widths) + GAP * len(widths), 3.4)
    figure = Figure(figsize=(wide + 0.2, high + 0.3 + 0.35 * bool(title)), layout="constrained")
    ax = figure.subplots()
    ax.set_xlim(0, wide)
    ax.set_ylim(high, 0)
    ax.set_axis_off()
    y = LINE * 0.6
    for block in blocks:
        y = _draw(ax, block, letters, y)
    if note:
        ax.text(0, y, note, fontsize=SIZE - 1, color="0.35", va="center")
    write_heading(figure, title)
    return figure


def _letters(blocks: Sequence[Block]) -> list[int]:
    """Return the widths of the columns in letters, that of the names of the rows first. Heads that
    are longer than all texts below are broken into lines.
    """
    names = max(len(str(name)) for block in blocks for name in block.texts.index)
    columns = []
    for i in range(blocks[0].texts.shape[1]):
        longest = max(len(str(text)) for block in blocks for text in block.texts.iloc[:, i])
        lines = [line for block in blocks for line in _broken(str(block.texts.columns[i]), longest)]
        columns.append(max(longest, *map(len, lines)))
    return [names, *columns]


def _heads(block: Block, letters: Sequence[int]) -> list[list[str]]:
    """Return the lines of the head of each column."""
    return [_broken(str(name), width) for name, width in zip(block.texts, letters[1:], strict=True)]


def _broken(head: str, letters: int) -> list[str]:
    """Break a head into lines of the width of its column, about equally long, but hold its last
    word and unit together.

    >>> _broken("highest on its edges (nats)", 9), _broken("deep ensemble of 3", 9)
    (['highest on its', 'edges (nats)'], ['deep ensemble', 'of 3'])
    """
    tied = head.replace(" (", "\N{NO-BREAK SPACE}(")
    lines = textwrap.wrap(tied, max(letters, NARROW), break_long_words=False) or [""]
    narrower = (textwrap.wrap(tied, width, break_long_words=False) for width in range(1, NARROW))
    lines = next((one for one in narrower if len(one) == len(lines)), lines)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _draw(ax: Axes, block: Block, letters: Sequence[int], y: float) -> float:
    """Draw one block from `y` downwards; return where the next begins."""
    widths = [LETTER * count for count in letters]
    right, ends = 0.0, []
    for width in widths:
        right += width + GAP
        ends.append(right - GAP / 2)
    if block.head:
        ax.text(0, y, block.head, fontsize=SIZE, fontweight="bold", va="center")
        y += LINE
    top = y - LINE / 2
    heads = _heads(block, letters)
    num = max(map(len, heads))
    for line in range(num):  # the last lines of all heads are level
        own = [head[line - num] if len(head) >= num - line else "" for head in heads]
        _write(ax, y, "", own, ends)
        y += LINE
    y -= LINE
    below = y + LINE / 2
    for name, row in zip(block.texts.index, block.texts.to_numpy(), strict=True):
        y += LINE
        _write(ax, y, str(name), row, ends)
    rules = ((top, 1.0), (below, 0.6), (y + LINE / 2, 1.0))
    for height, width in rules:
        ax.plot([0, ends[-1] + GAP / 2], [height, height], color="black", linewidth=width)
    return y + 1.8 * LINE


def _write(ax: Axes, y: float, name: str, texts: Iterable[object], ends: Sequence[float]) -> None:
    ax.text(0, y, name, fontsize=SIZE, va="center")
    for text, end in zip(texts, ends[1:], strict=True):
        ax.text(end, y, str(text), fontsize=SIZE, ha="right", va="center")
