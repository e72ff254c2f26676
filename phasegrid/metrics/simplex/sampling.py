"""Draw points of a simplicial complex, as weights of its vertices.

Vertices are ordered modes first: w_0..w_{M-1}, theta_0..theta_{J-1}; simplex i has w_i and all
theta.
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
    shares: Tensor, num_connectors: int, num: int, rng: torch.Generator
) -> Tensor:
    """Draw `num` points: simplex i with probability `shares` (M,), then a uniform point in it; rows
    (num, M + J), float64.

    A uniform point in a simplex has weights from Dirichlet(1, ..., 1): exponentials divided by
    their sum. With shares in proportion to the volumes the points are uniform on the complex
    (Benton et al. 2021, section 3.2); the published code has equal shares.
    """
    num_modes = len(shares)
    which = torch.multinomial(shares.to(rng.device), num, replacement=True, generator=rng)
    draws = torch.empty(num, num_connectors + 1, dtype=torch.float64, device=rng.device)
    draws.exponential_(generator=rng)
    draws /= draws.sum(dim=1, keepdim=True)
    coefficients = draws.new_zeros(num, num_modes + num_connectors)
    coefficients[torch.arange(num, device=rng.device), which] = draws[:, 0]
    coefficients[:, num_modes:] = draws[:, 1:]
    return coefficients
