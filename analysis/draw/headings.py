"""Write the title of a whole figure, broken into lines that fit."""

import textwrap

from matplotlib.figure import Figure

SIZE = 11  # points
LETTER = 0.55
"""Mean width of a letter, in units of its height."""


def write_heading(figure: Figure, text: str) -> None:
    """Write a title over a figure, broken into lines that fit its width; write nothing for an empty
    text.
    """
    if text:
        letters = int(figure.get_figwidth() * 72 / (LETTER * SIZE))
        lines = [
            part for line in text.split("\n") for part in textwrap.wrap(line, max(12, letters))
        ]
        figure.suptitle("\n".join(lines), fontsize=SIZE)
