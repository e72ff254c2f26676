"""Write the title of a whole figure, broken into lines that fit."""

import textwrap

from matplotlib.figure import Figure

SIZE = 11  # points
EXPECTED = 2
"""Lines for which figures have room."""
LETTER = 0.55
"""Mean width of a letter, in units of its height."""


def write_heading(figure: Figure, text: str) -> None:
    """Write a title over a figure, broken into lines that fit its width; write nothing for an empty
    text. A figure grows by the lines for which it has no room (`EXPECTED`).
    """
    if text:
        letters = int(figure.get_figwidth() * 72 / (LETTER * SIZE))
        lines = [
            part for line in text.split("\n") for part in textwrap.wrap(line, max(12, letters))
        ]
        figure.suptitle("\n".join(lines), fontsize=SIZE)
        more = max(0, len(lines) - EXPECTED)
        figure.set_figheight(figure.get_figheight() + more * 1.25 * SIZE / 72)
