"""Times and errors of the attention kernel that is chosen, at one shape and window."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from nanochat import attention

Shape = tuple[int, int, int, int]  # B, T, H, D


def attended_pairs(T: int, window: int) -> int:
    return sum(min(i, window) + 1 for i in range(T))


def milliseconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median over calls, after three that are not counted."""
    measured = (on_gpu if device.type == "cuda" else on_cpu)(function, repeats + 3)
    return round(median(measured[3:]), 4)


def on_cpu(function: Callable[[], object], calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return [1000 * s for s in seconds]


def on_gpu(function: Callable[[], object], calls: int) -> list[float]:
    """Launch all calls before waiting for any, so that the GPU never waits for Python."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairwise(marks)]


def tensors(shape: Shape, device: torch.device) -> list[torch.Tensor]:
    """Return q, k, v and a gradient to send back, in bf16."""
    g = torch.Generator(device=device).manual_seed(0)
    drawn = [torch.randn(shape, generator=g, device=device).bfloat16() for _ in range(4)]
    return [t.requires_grad_() if i < 3 else t for i, t in enumerate(drawn)]


def times(shape: Shape, window: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Time the chosen kernel forward, and forward and backward; FLOPs are those of the pairs that are attended to."""
    (B, T, H, D), (q, k, v, grad) = shape, tensors(shape, device)

    def forward() -> None:
        with torch.no_grad():
            attention.attention(q, k, v, window)

    def both() -> None:
        torch.autograd.grad(attention.attention(q, k, v, window), (q, k, v), grad)

    forward_ms, both_ms = (milliseconds(f, device, repeats) for f in (forward, both))
    gflop = 4 * B * H * D * attended_pairs(T, window) / 1e9
    return {
        "forward_ms": forward_ms,
        "forward_backward_ms": both_ms,
        "forward_tflop_s": round(gflop / forward_ms, 1),
        "forward_backward_tflop_s": round(3.5 * gflop / both_ms, 1),
    }


def errors(shape: Shape, window: int, device: torch.device) -> dict[str, float]:
    """Return the largest error of output and gradients against sdpa in fp32, as parts of the largest value."""
    *qkv, grad = tensors((1, *shape[1:]), device)
    exact_qkv = [t.detach().float().requires_grad_() for t in qkv]
    exact = attention.sdpa_kernel(*exact_qkv, window)
    expected = (exact, *torch.autograd.grad(exact, exact_qkv, grad.float()))
    y = attention.attention(*qkv, window)
    found = (y, *torch.autograd.grad(y, qkv, grad))
    largest = ((a.float() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True))
    return {name: round(error.item(), 6) for name, error in zip(("y", "dq", "dk", "dv"), largest, strict=True)}
