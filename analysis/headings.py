"""The title of a whole figure, broken so that it fits."""

import textwrap

from matplotlib.figure import Figure

SIZE = 11  # points
LETTER = 0.55
"""Mean width of a letter, in its height."""


def write_heading(figure: Figure, text: str) -> None:
    """Write a title over a figure, in as many lines as its width needs; nothing for no text."""
    if text:
        letters = int(figure.get_figwidth() * 72 / (LETTER * SIZE))
        figure.suptitle("\n".join(textwrap.wrap(text, max(12, letters))), fontsize=SIZE)
