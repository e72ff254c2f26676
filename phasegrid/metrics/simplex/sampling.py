"""Draw points of a simplicial complex, as weights of its vertices.

Letters: V vertices, S simplexes, K vertices of the largest simplex.
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
    (num, V), float64. `members` (S, K) are the vertices of each simplex, padded with -1.

    A uniform point in a simplex has weights from Dirichlet(1, ..., 1): exponentials divided by
    their sum. With shares in proportion to the volumes the points are uniform on the complex
    (Benton et al. 2021, section 3.2); the published code has equal shares.
    """
    which = torch.multinomial(shares.to(rng.device), num, replacement=True, generator=rng)
    chosen = members.to(rng.device)[which]
    draws = torch.empty(chosen.shape, dtype=torch.float64, device=rng.device)
    draws.exponential_(generator=rng)
    draws = draws.masked_fill(chosen < 0, 0.0)
    draws /= draws.sum(dim=1, keepdim=True)
    padded = draws.new_zeros(num, num_vertices + 1)  # the last column takes the padding
    return padded.scatter_(1, chosen % (num_vertices + 1), draws)[:, :num_vertices]
