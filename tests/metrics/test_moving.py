"""Laws of volumes while a vertex moves, for any wiring and several complexes at once."""

import math
from itertools import combinations

import pytest
import torch
from metric_oracles_curves import log_volumes_by_qr, total_log_volume
from torch import Tensor

from phasegrid.metrics.simplex.moving import FixedFaces, Moved, fix_faces, log_volume_gradient, move
from phasegrid.metrics.simplex.volume import log_volume
from phasegrid.metrics.simplex.wiring import Simplexes

CLOSE = 1e-11  # measured errors of float64 QR are below 2e-14

STARS: dict[str, Simplexes] = {
    "one simplex": ((0, 1, 2, 6),),
    "all but one shared": ((0, 3, 4, 5, 6), (1, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
    "a vertex shared": ((0, 2, 6), (1, 2, 6), (2, 3, 6)),
    "nothing shared": ((0, 1, 6), (2, 3, 6), (4, 5, 6)),
    "two of their own": ((0, 1, 2, 6), (2, 3, 4, 6)),
    "three dimensions": ((0, 6), (1, 2, 6), (2, 3, 4, 6), (3, 5, 6)),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(vertices: Tensor, simplexes: Simplexes) -> tuple[FixedFaces, Moved]:
    faces = fix_faces(vertices, simplexes)
    return faces, move(faces, vertices[:, -1])


@pytest.mark.parametrize("num_parameters", [5, 40])
@pytest.mark.parametrize("star", STARS.values(), ids=STARS)
def test_volumes_are_those_of_the_whole_simplexes(star: Simplexes, num_parameters: int) -> None:
    vertices = normal(2, 7, num_parameters)
    found = at(vertices, star)[1].log_volumes
    whole = [[log_volume(own[list(simplex)]) for simplex in star] for own in vertices]
    expected = torch.tensor(whole, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("num_parameters", [5, 40])
@pytest.mark.parametrize("star", STARS.values(), ids=STARS)
def test_gradient_and_shares_are_those_of_autograd(star: Simplexes, num_parameters: int) -> None:
    vertices = normal(2, 7, num_parameters)
    faces, moved = at(vertices, star)
    found = log_volume_gradient(faces, moved)
    for own, gradient, shares in zip(vertices, found, moved.shares, strict=True):
        theta = own[-1].clone().requires_grad_()
        logs = log_volumes_by_qr(torch.cat([own[:-1], theta[None]]), star)
        total = total_log_volume(logs, star)
        expected = torch.autograd.grad(total, (logs, theta))
        torch.testing.assert_close(shares, expected[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("star", STARS.values(), ids=STARS)
def test_gradient_is_that_of_finite_differences(star: Simplexes) -> None:
    vertices = normal(1, 7, 8)
    faces, moved = at(vertices, star)

    def total(theta: Tensor) -> float:
        return float(total_log_volume(move(faces, theta[None]).log_volumes[0], star))

    theta, steps = vertices[0, -1], 1e-5 * torch.eye(8, dtype=torch.float64)
    slopes = [(total(theta + h) - total(theta - h)) / 2e-5 for h in steps]
    found = log_volume_gradient(faces, moved)[0]
    assert found.tolist() == pytest.approx(slopes, rel=1e-6, abs=1e-8)


def test_vertices_that_share_no_simplex_with_the_moving_one_take_no_memory() -> None:
    faces = fix_faces(normal(2, 7, 40).float(), ((0, 2, 6), (2, 3, 6)))
    assert faces.basis.shape == (2, 2, 40)
    assert faces.origins.untyped_storage().nbytes() == 2 * 40 * 8


def test_two_vertices_are_as_far_apart_as_their_distance() -> None:
    vertices = normal(3, 2, 7)
    faces, moved = at(vertices, ((0, 1),))
    apart = vertices[:, 1] - vertices[:, 0]
    torch.testing.assert_close(moved.log_volumes, apart.norm(dim=1, keepdim=True).log())
    found = log_volume_gradient(faces, moved)
    torch.testing.assert_close(found, apart / apart.square().sum(dim=1, keepdim=True))


@pytest.mark.parametrize("height", [1e-3, 1e-7])
def test_own_vertices_a_hair_over_the_rest_keep_their_volume(height: float) -> None:
    # The relative error of a height of 1e-7 of the edges is about 1e-16 / 1e-7.
    vertices = normal(1, 7, 30)
    off = height * normal(30, seed=3) / math.sqrt(30)
    vertices[0, 1] = (vertices[0, 2] + vertices[0, 0]) / 2 + off
    star: Simplexes = ((0, 1, 2, 6), (2, 3, 4, 6))
    found = at(vertices, star)[1].log_volumes[0]
    whole = torch.tensor([log_volume(vertices[0, list(one)]) for one in star], dtype=torch.float64)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-14 / height)


def test_gradient_stays_right_close_to_a_face() -> None:
    # 1e-7 of the edge over the face: the square of this is lost in a Gram matrix.
    vertices, simplex = normal(1, 4, 40), ((0, 1, 2, 3),)
    outwards = at(vertices, simplex)[1].outside[0]
    outwards /= outwards.norm()
    vertices[0, -1] = vertices[0, :-1].mean(dim=0) + 1e-7 * outwards
    found = log_volume_gradient(*at(vertices, simplex))[0]
    torch.testing.assert_close(found, 1e7 * outwards, rtol=1e-6, atol=1.0)


def test_a_regular_star_has_equal_shares() -> None:
    vertices = torch.eye(7, 12, dtype=torch.float64)[None]
    star = tuple((*pair, 6) for pair in combinations(range(4), 2))
    assert at(vertices, star)[1].shares[0].tolist() == pytest.approx([1 / 6] * 6)


def test_a_flat_simplex_takes_no_share_and_gives_no_gradient() -> None:
    vertices = normal(1, 3, 10)
    vertices[0, 2] = vertices[0, 0]
    faces, moved = at(vertices, ((0, 2), (1, 2)))
    assert moved.shares.tolist() == [[0.0, 1.0]]
    away = vertices[0, 0] - vertices[0, 1]
    torch.testing.assert_close(log_volume_gradient(faces, moved)[0], away / away.dot(away))


@pytest.mark.parametrize("num_vertices", [2, 3, 4, 6])
def test_a_complex_shrunk_to_a_point_has_equal_shares_and_no_gradient(num_vertices: int) -> None:
    vertices = normal(1, 1, 10).expand(2, num_vertices, 10)
    faces, moved = at(vertices, (tuple(range(num_vertices)),) * 4)
    assert moved.log_volumes.tolist() == [[-math.inf] * 4] * 2
    assert moved.shares.tolist() == [[0.25] * 4] * 2
    assert log_volume_gradient(faces, moved).tolist() == [[0.0] * 10] * 2


def test_more_edges_than_parameters_are_flat() -> None:
    moved = at(normal(1, 4, 2), ((0, 1, 2, 3), (0, 3)))[1]
    assert moved.log_volumes[0].isfinite().tolist() == [False, True]
