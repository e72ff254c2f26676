"""A module has one thing to say: it stays under 400 lines."""

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path.relative_to(CHECKOUT)
    for room in ("phasegrid", "analysis")
    for path in (CHECKOUT / room).rglob("*.py")
    if not path.relative_to(CHECKOUT).is_relative_to("phasegrid/analysis")  # a link to analysis/
)


@pytest.mark.parametrize("room", ["phasegrid", "analysis"])
def test_a_module_has_at_most_400_lines(room: str) -> None:
    sizes = {
        str(path): len((CHECKOUT / path).read_text(encoding="utf-8").splitlines())
        for path in MODULES
        if path.parts[0] == room
    }
    assert len(sizes) > 30  # it has looked at the modules
    long = {path: size for path, size in sizes.items() if size > 400}
    assert not long, "split each along what it says: a module of the package has one subject"
