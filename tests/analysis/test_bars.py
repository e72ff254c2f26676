"""Bars of the rows of a measurement."""

import pandas as pd

from phasegrid.analysis.draw.bars import COLOURS, OTHERS, bar_panels


def test_each_row_is_a_bar_of_its_height_under_its_name() -> None:
    labels = ["negative_1", "positive_1", "w_peak"]
    rows = pd.DataFrame({"head": ["a"] * 3 + ["b"] * 3, "label": labels * 2})
    rows = rows.assign(overlap=[0.1, 0.2, 1.0, 0.3, 0.4, 1.0])
    figure = bar_panels(rows, "overlap", "cosine", most=9)
    for ax, heights in zip(figure.axes, ([0.1, 0.2, 1.0], [0.3, 0.4, 1.0]), strict=True):
        assert [bar.get_height() for bar in ax.patches] == heights  # type: ignore[attr-defined]
        named = [text.get_text() for text in ax.get_xticklabels()]
        assert named == ["N.E. 1", "P.E. 1", "mined (w-peak)"]
    assert len({COLOURS["negative"], COLOURS["positive"], OTHERS}) == 3
