"""Is anything on a CPU faster than SDPA with a cached mask? Both passes at the CPU preset's shapes, one thread.

    python benchmarks/nanochat_attention.py [--rounds 300]

Each round times every candidate once, so that other work on the machine meets them alike; what is kept is the ratio to
our kernel within a round. The result goes to benchmarks/results/nanochat_attention.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median, quantiles

import torch
import torch.nn.functional as F

from nanochat.attention import masks, sdpa_kernel, window_mask

RESULTS = Path(__file__).parent / "results"
B, T, H, D = 4, 128, 2, 32
CALLS = 5  # in one measurement

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


@cache
def additive_mask(window: int) -> torch.Tensor:
    return torch.zeros(T, T).masked_fill(~window_mask(T, window, "cpu"), -math.inf)


def rebuilt_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    masks.clear()
    return sdpa_kernel(q, k, v, window)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> torch.Tensor:
    return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), **options).transpose(1, 2)


def float_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    return sdpa_kernel(q, k, v, window) if window >= T - 1 else sdpa(q, k, v, attn_mask=additive_mask(window))


def two_parts(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Attend without a mask where the window cuts nothing off, with one elsewhere: a third fewer pairs."""
    n = window + 1
    if n >= T:
        return sdpa_kernel(q, k, v, window)
    early = sdpa(q[:, :n], k[:, :n], v[:, :n], is_causal=True)
    late = sdpa(q[:, n:], k[:, 1:], v[:, 1:], attn_mask=window_mask(T, window, "cpu")[n:, 1:])
    return torch.cat((early, late), dim=1)


class Explicit(torch.autograd.Function):
    """Matrix product, softmax, matrix product: all scores are kept for the backward pass."""

    @staticmethod
    def forward(ctx, q, k, v, mask):
        q, k, v = (t.transpose(1, 2).reshape(B * H, T, D) for t in (q, k, v))
        p = torch.softmax(torch.baddbmm(mask, q, k.mT, alpha=D**-0.5), dim=-1)
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v).view(B, H, T, D).transpose(1, 2)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        grad = grad.transpose(1, 2).reshape(B * H, T, D)
        scores_grad = torch._softmax_backward_data(torch.bmm(grad, v.mT), p, -1, torch.float32).mul_(D**-0.5)
        grads = (torch.bmm(scores_grad, k), torch.bmm(scores_grad.mT, q), torch.bmm(p.mT, grad))
        return *(g.view(B, H, T, D).transpose(1, 2) for g in grads), None


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    return Explicit.apply(q, k, v, additive_mask(window))


CANDIDATES: dict[str, Kernel] = {
    "ours": sdpa_kernel,
    "rebuilt_mask": rebuilt_mask,
    "float_mask": float_mask,
    "two_parts": two_parts,
    "explicit": explicit,
}


def inputs() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(B, T, H, D, generator=g, requires_grad=i < 3) for i in range(4)]


def with_gradients(kernel: Kernel, window: int) -> tuple[torch.Tensor, ...]:
    *qkv, grad = inputs()
    y = kernel(*qkv, window)
    return (y, *torch.autograd.grad(y, qkv, grad))


def microseconds(kernel: Kernel, window: int) -> float:
    """Return the mean of a forward and backward pass over CALLS."""
    *qkv, grad = inputs()
    began = time.perf_counter()
    for _ in range(CALLS):
        torch.autograd.grad(kernel(*qkv, window), qkv, grad)
    return 1e6 * (time.perf_counter() - began) / CALLS


def compare(window: int, rounds: int) -> dict[str, object]:
    """Return the time of ours, and of the others the ratio to it with quartiles and the largest difference in value."""
    expected = with_gradients(sdpa_kernel, window)
    found = [{name: microseconds(kernel, window) for name, kernel in CANDIDATES.items()} for _ in range(rounds + 1)][1:]
    told: dict[str, object] = {"ours_us": round(median(times["ours"] for times in found), 1)}
    for name, kernel in list(CANDIDATES.items())[1:]:
        low, middle, high = quantiles([times[name] / times["ours"] for times in found], n=4)
        pairs = zip(with_gradients(kernel, window), expected, strict=True)
        difference = max((a - b).abs().max().item() for a, b in pairs)
        told[name] = {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)], "difference": difference}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "load_average_before": os.getloadavg()[0],
        "shape": {"B": B, "T": T, "H": H, "D": D},
        "rounds": args.rounds,
        "window_64": compare(64, args.rounds),
        "full": compare(T, args.rounds),
    }
    (RESULTS / "nanochat_attention.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
