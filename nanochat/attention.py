"""Causal attention with a window to the left: one function, four kernels, and the choice between them.

`choose(device)` picks the kernel of this process once; until then it is `sdpa`, which runs everywhere.

fa3    FlashAttention 3, the package `flash_attn_interface`; Hopper only (compute capability 9.0)
flash  FlashAttention 2, inside PyTorch; compute capability 8.0 or newer
flex   FlexAttention, a Triton kernel that PyTorch writes for a block mask
sdpa   scaled_dot_product_attention with an explicit mask; a short window costs what a full one costs

What is not covered: fp32 on the first two, which take bf16 and fp16 only, and head sizes that are no multiple of 8.
"""

import importlib.util
import types

import torch
import torch.nn.functional as F

from nanochat.mistakes import KernelUnavailable

AUTO_ORDER = ("fa3", "flash", "flex", "sdpa")
FA3_CAPABILITY = (9, 0)
FLASH_CAPABILITY = (8, 0)

chosen = "sdpa"
library = types.SimpleNamespace() # what `load` imported: functions of the kernels that not every process needs


def attention(q, k, v, window):
    """Return (B, T, H, D) for q (B, T, H, D) and k, v (B, T, H_kv, D); H is a multiple of H_kv.

    Query i sees key j if 0 <= i - j <= window: itself and `window` positions to the left.
    """
    return KERNELS[chosen](q, k, v, window)


# -----------------------------------------------------------------------------
# The kernels; `left` is -1 where a window cuts nothing off, which the flash kernels take as no window

def window_left(T, window):
    return -1 if window >= T - 1 else window


def fa3_kernel(q, k, v, window):
    return library.flash_attn_func(q, k, v, causal=True, window_size=(window_left(q.size(1), window), 0))


def flash_kernel(q, k, v, window):
    T = q.size(1)
    left = window_left(T, window)
    return torch.ops.aten._flash_attention_forward( # differentiable, and an op that torch.compile knows
        q, k, v, None, None, T, T, 0.0, left < 0, False, window_size_left=left, window_size_right=0)[0]


def flex_kernel(q, k, v, window):
    T, grouped = q.size(1), q.size(2) != k.size(2)
    mask = getattr(block_masks, block_mask_name(T, window_left(T, window), str(q.device)))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v)) # (B, H, T, D)
    return library.flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped).transpose(1, 2)


def sdpa_kernel(q, k, v, window):
    T, grouped = q.size(1), q.size(2) != k.size(2)
    full = window >= T - 1
    mask = None if full else window_mask(T, window, str(q.device))
    q, k, v = (t.transpose(1, 2) for t in (q, k, v)) # (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=full, enable_gqa=grouped)
    return y.transpose(1, 2)


KERNELS = {"fa3": fa3_kernel, "flash": flash_kernel, "flex": flex_kernel, "sdpa": sdpa_kernel}


# -----------------------------------------------------------------------------
# Masks, each built once. While a model is traced their functions really run and what they return is a constant of
# the graph; outside inference mode, so that a mask first met there can be trained with.

masks = {} # (T, window, device) -> (T, T) bool
block_masks = types.SimpleNamespace() # name -> BlockMask; an attribute, which a trace looks up at the moment of use


def constant(function):
    """Do what torch.compiler.assume_constant_result does, without the seconds that importing the compiler takes."""
    function._dynamo_marked_constant = True
    return function


@constant
def window_mask(T, window, device):
    """Return (T, T), True where query i may look at key j."""
    if (T, window, device) not in masks:
        with torch.inference_mode(False):
            i = torch.arange(T, device=device)
            distance = i[:, None] - i[None, :]
            masks[T, window, device] = (distance >= 0) & (distance <= window)
    return masks[T, window, device]


@constant
def block_mask_name(T, left, device):
    """Return the name in `block_masks` of this mask; left < 0: no window."""
    def visible(b, h, i, j):
        return (i >= j) if left < 0 else (i >= j) & (i - j <= left)
    name = f"{T}/{left}/{device}"
    if not hasattr(block_masks, name):
        with torch.inference_mode(False):
            setattr(block_masks, name, library.create_block_mask(visible, None, None, T, T, device=device))
    return name


# -----------------------------------------------------------------------------
# The choice

def choose(device, wanted="auto"):
    """Pick the kernel of this process, remember it, and return its name; KernelUnavailable if `wanted` cannot run.

    Auto takes the first that can run of fa3, flash, flex, sdpa. `flash` comes before `flex` because it is compiled
    already: a model server, which runs eager in a fresh process, starts at once; a patched model compiles no
    attention kernel anew; and any number of shapes is fine. Both skip the blocks outside the window.
    """
    global chosen
    device = torch.device(device)
    if wanted != "auto" and (reason := obstacle(wanted, device)):
        raise KernelUnavailable(wanted, reason)
    chosen = next(name for name in AUTO_ORDER if not obstacle(name, device)) if wanted == "auto" else wanted
    load(chosen)
    return chosen


def load(name):
    """Import what a kernel needs; ImportError if its package is not there or fits another torch."""
    if name == "fa3":
        from flash_attn_interface import flash_attn_func
        library.flash_attn_func = flash_attn_func
    if name == "flex":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        # Uncompiled it would hold all scores at once; inside a compiled model it is compiled with it. fullgraph: too
        # many shapes are an error then, not a silent return to the uncompiled one.
        library.flex_attention = torch.compile(flex_attention, dynamic=False, fullgraph=True)
        library.create_block_mask = create_block_mask


def obstacle(name, device):
    """Return why a kernel cannot run on this device, or None."""
    if name not in KERNELS:
        return f"there are only {', '.join(AUTO_ORDER)}"
    if name == "sdpa":
        return None
    if device.type != "cuda" or torch.version.cuda is None:
        return f"it needs an NVIDIA GPU and the device is {device.type}"
    return GPU_OBSTACLES[name](torch.cuda.get_device_capability(device))


def fa3_obstacle(capability):
    if capability != FA3_CAPABILITY:
        return f"FlashAttention 3 needs compute capability 9.0 and this GPU has {capability[0]}.{capability[1]}"
    try:
        load("fa3")
    except ImportError as error:
        return f"its package flash_attn_interface cannot be imported ({error})"
    if not hasattr(torch.ops.flash_attn_3, "_flash_attn_forward"):
        return "its package flash_attn_interface is older than its support for torch.compile"
    return None


def flash_obstacle(capability):
    if capability < FLASH_CAPABILITY:
        return f"FlashAttention 2 needs compute capability 8.0 and this GPU has {capability[0]}.{capability[1]}"
    return None if torch.backends.cuda.is_flash_attention_available() else "this PyTorch was built without FlashAttention"


def flex_obstacle(capability):
    return None if importlib.util.find_spec("triton") else "it needs the package triton, which is not installed"


GPU_OBSTACLES = {"fa3": fa3_obstacle, "flash": flash_obstacle, "flex": flex_obstacle}
