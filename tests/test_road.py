"""The road for newcomers that the README names stays short."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def test_the_road_for_newcomers_has_fewer_than_800_lines() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (road,) = re.findall(r"^A road for newcomers.*?(?=\n\n)", text, flags=re.DOTALL | re.MULTILINE)
    stops = re.findall(r"`([\w/]+/\w+\.(?:py|yaml))`", road)
    assert len(stops) == 8
    lines = {name: len((CHECKOUT / name).read_text().splitlines()) for name in stops}
    assert sum(lines.values()) < 800, lines
