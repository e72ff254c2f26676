"""The title of a whole figure, broken so that it fits."""

import textwrap

from matplotlib.figure import Figure

SIZE = 11  # points
LETTER = 0.55
"""Mean width of a letter, in its height."""


def write_heading(figure: Figure, text: str) -> None:
    """Write a title over a figure, its lines broken where the width asks for it; nothing for no
    text.
    """
    if text:
        letters = int(figure.get_figwidth() * 72 / (LETTER * SIZE))
        lines = [
            part for line in text.split("\n") for part in textwrap.wrap(line, max(12, letters))
        ]
        figure.suptitle("\n".join(lines), fontsize=SIZE)
