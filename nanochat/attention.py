"""Causal attention with a window to the left: one function, the fastest kernel that is right for the device.

What is not covered: a kernel that skips the blocks outside the window. A short window costs what a full one costs.
"""

import torch
import torch.nn.functional as F


def window_mask(T, window, device):
    """Return (T, T), True where query i may look at key j: itself and `window` positions to the left."""
    i = torch.arange(T, device=device)
    distance = i[:, None] - i[None, :]
    return (distance >= 0) & (distance <= window)


def attention(q, k, v, window):
    """Return (B, T, H, D) for q (B, T, H, D) and k, v (B, T, H_kv, D); H is a multiple of H_kv."""
    T, grouped = q.size(1), q.size(2) != k.size(2)
    full = window >= T - 1
    mask = None if full else window_mask(T, window, q.device)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v)) # (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=full, enable_gqa=grouped)
    return y.transpose(1, 2)
