"""Compare the Triton kernel of weight gradients, interpreted on the CPU, with torch in float64.

Run in a process of its own, with TRITON_INTERPRET=1: Triton reads it when it is imported. The last
line on stdout says what was begun last.
"""

import torch

from tests.benchmarks.weight_gradient import weight_gradient

SHAPES = ((3, 5, 7, 4, 6), (2, 16, 16, 8, 8), (1, 70, 3, 3, 3), (9, 8, 8, 16, 16))


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    for num, channels, out, height, width in SHAPES:
        print(num, channels, out, height, width, flush=True)
        x, grad = (
            torch.randn(num, size, height, width, generator=generator).to(
                memory_format=torch.channels_last
            )
            for size in (channels, out)
        )
        leaf = torch.zeros(out, channels, 3, 3, dtype=torch.float64, requires_grad=True)
        y = torch.nn.functional.conv2d(x.double(), leaf, padding=1)
        (expected,) = torch.autograd.grad(y, leaf, grad.double())
        off = 1e-6 * float(expected.abs().max())
        found = weight_gradient(x, grad).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=off)
    print("whole", flush=True)


if __name__ == "__main__":
    main()
