"""What the device can do, measured in the same run: matrix products a second, bytes copied a second."""

from dataclasses import dataclass

import torch

from bench.counts import Work
from bench.timing import Effort, measure


# Sides of the square matrices, and bytes of the copied block: large enough to leave the caches, small enough to be
# quick.
SIDES = {"cpu": (1024, 2048, 3072), "gpu": (4096, 8192, 12288)}
COPIED = {"cpu": 2**28, "gpu": 2**31}


@dataclass(frozen=True)
class Limits:
    """Limits of a device.

    Args:
        flops: Floating-point operations a second of the fastest square matrix product.
        bandwidth: Bytes a second, read and written, of a plain copy.
    """

    flops: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """Returns the least time that some work can take here: the longer of computing and moving."""
        return max(work.flops / self.flops, work.bytes / self.bandwidth)

    def bound(self, work: Work) -> str:
        """Tells what limits some work: `compute` or `memory`."""
        return "compute" if work.flops / self.flops >= work.bytes / self.bandwidth else "memory"

    def faster(self, other: "Limits") -> "Limits":
        """Returns the better of two measurements, limit by limit."""
        return Limits(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))


def measure_limits(device: torch.device, dtype: torch.dtype, effort: Effort | None = None) -> Limits:
    """Measures a device; the best run counts, not the median, because this is the limit.

    Args:
        device: The device.
        dtype: Dtype of the matrices.
        effort: How often; default: seven runs.

    Returns:
        Its limits.
    """
    effort = effort or Effort(runs=7, warmups=2, budget=10.0)
    kind, rates = "cpu" if device.type == "cpu" else "gpu", []
    for side in SIDES[kind]:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)

        def multiply(left: torch.Tensor = left, right: torch.Tensor = right, out: torch.Tensor = out) -> None:
            torch.matmul(left, right, out=out)

        rates.append(2 * side**3 / measure({"matmul": multiply}, device, effort)["matmul"].low)
    count = COPIED[kind]
    source = torch.randint(0, 127, (count,), device=device, dtype=torch.int8)
    target = torch.empty_like(source)
    copied = measure({"copy": lambda: target.copy_(source)}, device, effort)["copy"]
    return Limits(max(rates), 2 * count / copied.low)
