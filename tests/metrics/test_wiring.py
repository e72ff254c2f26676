"""Which vertices simplexes have, and what a wiring must not be."""

import pytest

from phasegrid.metrics.simplex.wiring import (
    Wiring,
    around,
    modes_mistake,
    shared,
    simplexes_of,
    up_to,
    vertex_names,
    wiring_mistake,
)

SEVEN_MODES: Wiring = (
    ("w0", "c0", "c1", "c2"),
    ("w1", "c0", "c1", "c2"),
    ("w2", "c0", "c3"),
    ("w3", "c3", "c4"),
    ("w4", "c4", "c5"),
    ("w5", "c5", "c6"),
    ("w6", "c6", "c7"),
    ("c1", "c3", "c5"),
    ("c2", "c4", "c6"),
    ("w0", "c7", "c8"),
    ("w3", "c8"),
    ("w6", "c8"),
)
"""7 modes, 9 connectors, 12 simplexes, of three dimensions."""


def test_shared_wiring_written_out_is_the_same_complex() -> None:
    written = (("w0", "c0", "c1"), ("c1", "w1", "c0"), ("w2", "c0", "c1"))
    assert simplexes_of(written, 3, 2) == shared(3, 2) == simplexes_of("shared", 3, 2)


def test_modes_come_before_connectors() -> None:
    assert vertex_names(2, 2) == ("w0", "w1", "c0", "c1")


def test_a_large_wiring_has_no_mistake() -> None:
    assert wiring_mistake(SEVEN_MODES, 9) is None
    assert modes_mistake(SEVEN_MODES, 7) is None
    assert wiring_mistake("shared", 3) is modes_mistake("shared", 2) is None


@pytest.mark.parametrize("connector", range(9))
def test_a_connector_is_trained_in_its_simplexes_without_later_vertices(connector: int) -> None:
    simplexes, vertex = simplexes_of(SEVEN_MODES, 7, 9), 7 + connector
    own = around(simplexes, vertex)
    assert own
    for simplex in own:
        assert max(simplex) == vertex
        assert len(simplex) > 1
        assert any({*simplex} <= {*whole} for whole in simplexes)
    for simplex in simplexes:  # whatever has begun of its simplexes is in one of these
        if vertex in simplex:
            begun = {v for v in simplex if v <= vertex}
            assert any(begun <= {*mine} for mine in own)


def test_no_simplex_of_an_unfinished_complex_is_a_face_of_another_or_a_point() -> None:
    simplexes = simplexes_of(SEVEN_MODES, 7, 9)
    for num in range(8, 17):
        begun = up_to(simplexes, num)
        assert len({*begun}) == len(begun)
        assert not any({*a} < {*b} for a in begun for b in begun)
        assert min(map(len, begun)) > 1
    assert up_to(simplexes, 16) == simplexes


@pytest.mark.parametrize(
    ("wiring", "connectors", "place", "message"),
    [
        ((("w0", "c0"), ("w1", "k0")), 1, "wiring.1", "found 'k0'; vertices are w0, w1"),
        ((("w0", "c00"),), 1, "wiring.0", "found 'c00'"),
        ((("w0", "c1"),), 1, "wiring.0", "found c1, but there is 1 connector: c0"),
        ((("w0", "c0", "w0"),), 1, "wiring.0", "names a vertex twice"),
        ((("c0",),), 1, "wiring.0", "at least two vertices"),
        ((("w0", "c0"), ("c0", "w0")), 1, "wiring.1", "which is simplex 0 too"),
        ((("w0", "c0"), ("w1", "c0", "w0")), 1, "wiring.0", "[w0, c0], a face of simplex 1"),
        ((("w0", "c0"), ("w1", "c0")), 2, "wiring", "no simplex has c1"),
        ((("w0", "c1"), ("c1", "c0")), 2, "wiring", "c0 shares no simplex with a mode or an"),
        ((("w0", "c0"), ("w1", "c1")), 2, "wiring.1", "[w1, c1] is not connected with [w0, c0]"),
    ],
)
def test_a_wiring_with_a_mistake_is_told_where(
    wiring: Wiring, connectors: int, place: str, message: str
) -> None:
    found = wiring_mistake(wiring, connectors)
    assert found is not None
    assert found[0] == place
    assert message in found[1]


@pytest.mark.parametrize(
    ("num", "place", "message"),
    [
        (2, "wiring.1", "found w2, but there are 2 modes: w0, w1"),
        (4, "wiring", "no simplex has w3"),
    ],
)
def test_a_wiring_for_other_modes_is_told_where(num: int, place: str, message: str) -> None:
    found = modes_mistake((("w0", "c0"), ("w1", "w2", "c0")), num)
    assert found is not None
    assert found[0] == place
    assert message in found[1]
