"""Draw points of a simplicial complex, as weights of its vertices.

Letters: K complexes, V vertices of each, S simplexes, n vertices of the largest one, H points.
"""

import torch
from torch import Tensor


def generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """Return a generator of `device` that is seeded from `rng`, or `rng` itself if it is one."""
    if rng.device.type == device.type:
        return rng
    seed = int(torch.randint(1 << 62, (), generator=rng, device=rng.device))
    return torch.Generator(device).manual_seed(seed)


def sample_coefficients(
    shares: Tensor, members: Tensor, num_vertices: int, num: int, rng: torch.Generator
) -> Tensor:
    """Draw `num` points: simplex i with probability `shares` (S,), then a uniform point in it; rows
    (num, V), float64. `members` (S, n) are the vertices of each simplex, padded with -1.

    With shares in proportion to the volumes the points are uniform on the complex (Benton et al.
    2021, section 3.2); the published code has equal shares.
    """
    choices, places = draw_points((1, num), members.shape[1], rng)
    shares, members = shares.to(rng.device).unsqueeze(0), members.to(rng.device)
    return place_points(shares, members, choices, places, num_vertices)[0]


def draw_points(shape: tuple[int, ...], size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw what `place_points` makes points of, for simplexes of at most `size` vertices: numbers
    of this `shape` from U[0, 1), and for each of them `size` exponential ones.
    """
    choices = torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64)
    return choices, choices.new_empty(*shape, size).exponential_(generator=rng)


def place_points(
    shares: Tensor, members: Tensor, choices: Tensor, places: Tensor, num_vertices: int
) -> Tensor:
    """Return the weights (K, H, V) of H points of each of K complexes with the same simplexes,
    float64; `members` (S, n) are their vertices, padded with -1.

    `choices` (K, H) from U[0, 1) choose simplexes by their `shares` (K, S). Exponential `places`
    (K, H, n), divided by their sum over the vertices of the simplex, are from Dirichlet(1, ..., 1):
    the weights of a uniform point.
    """
    ends = shares.double().cumsum(dim=1)
    which = torch.searchsorted(ends / ends[:, -1:], choices, right=True)
    chosen = members[which.clamp(max=len(members) - 1)]
    weights = places.masked_fill(chosen < 0, 0.0)
    weights = weights / weights.sum(dim=2, keepdim=True)
    padded = weights.new_zeros(*choices.shape, num_vertices + 1)  # the last takes the padding
    return padded.scatter_(2, chosen % (num_vertices + 1), weights)[:, :, :num_vertices]
