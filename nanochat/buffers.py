"""The memory through which logits pass from a model server to the judge: of the host, or of the GPU that both use.

The judge owns it and marks the first logit of each row before it asks; a row that comes back marked was not written. It
copies before it looks, as the server could write at any time. A handle of GPU memory travels as JSON, never as a pickle.
"""

import base64
import math
import mmap
import os
import struct
import sys

import numpy as np
import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

MARK = 0x7FC0DEAD # the bits of a NaN that no arithmetic gives
CUDA_BLOCK_BYTES = 1 << 21 # what the GPU's memory is allocated in; a whole number shares no block with other tensors
HANDLE_FIELDS = slice(6, None) # of reduce_tensor's arguments: memory, reference counter, event; before them sizes and types
REQUIRES_GRAD = 4 # of these fields


class HostBuffer:
    """Memory of the host behind a file descriptor."""

    where = "host"

    def __init__(self, n_bytes):
        self.file = os.memfd_create("logits")
        os.ftruncate(self.file, n_bytes) # takes memory when it is written to, not before

    def mark(self, shape):
        for row in range(shape[0]):
            os.pwrite(self.file, struct.pack("=I", MARK), 4 * row * math.prod(shape[1:]))

    def copy(self, shape):
        """Return the logits, or None if the server cut the file short."""
        logits = np.empty(shape, dtype=np.float32)
        n_read = os.preadv(self.file, [memoryview(logits).cast("B")], 0)
        return torch.from_numpy(logits) if n_read == logits.nbytes else None


class DeviceBuffer:
    """Memory of a GPU; `handle` opens it in another process. RuntimeError where that is refused."""

    where = "device"

    def __init__(self, n_bytes, device):
        blocks = -(-n_bytes // CUDA_BLOCK_BYTES)
        self.logits = torch.empty(blocks * CUDA_BLOCK_BYTES // 4, dtype=torch.float32, device=device)
        self.handle = to_json(reduce_tensor(self.logits)[1])

    def view(self, shape):
        return self.logits[:math.prod(shape)].view(shape)

    def mark(self, shape):
        self.view(shape).view(torch.int32)[:, 0, 0] = MARK
        synchronise(self.logits.device)

    def copy(self, shape):
        return self.view(shape).clone()


def unwritten(logits):
    """Say whether a row of (B, T, V) still carries its mark."""
    return bool((logits.view(torch.int32)[:, 0, 0] == MARK).any())


def can_share(device):
    return device.type == "cuda"


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def share_on_device(n_bytes, device):
    """Return a buffer of the device, or None where there is none or the driver or the container refuses to share it."""
    if not can_share(device):
        return None
    try:
        return DeviceBuffer(n_bytes, device)
    except (RuntimeError, OSError) as error:
        return refused(error)


def refused(error):
    print(f"memory of the GPU cannot be shared between processes, so logits pass through the host: {error}", file=sys.stderr)


# -----------------------------------------------------------------------------
# The server's side

def open_buffer(offer, file, device):
    """Return a flat fp32 tensor that the judge reads, and where it is: {buffer_bytes, device_buffer} was offered."""
    shared = open_on_device(offer["device_buffer"]) if offer["device_buffer"] and can_share(device) else None
    if shared is not None:
        return shared, DeviceBuffer.where
    return torch.frombuffer(mmap.mmap(file, offer["buffer_bytes"]), dtype=torch.float32), HostBuffer.where


def open_on_device(handle):
    """Return the judge's tensor, or None where that is refused."""
    try:
        return rebuild_cuda_tensor(*from_json(handle))
    except (RuntimeError, OSError) as error:
        return refused(error)


# -----------------------------------------------------------------------------
# A handle as JSON: what PyTorch would pickle, less the types, which are always the same

def to_json(arguments):
    """Return reduce_tensor's arguments for a flat fp32 tensor as plain values; bytes become {"base64": ...}."""
    n_logits, offset, fields = arguments[1][0], arguments[3], arguments[HANDLE_FIELDS]
    assert not fields[REQUIRES_GRAD]
    return [n_logits, offset, *({"base64": base64.b64encode(f).decode()} if isinstance(f, bytes) else f for f in fields)]


def from_json(handle):
    """Return the arguments of rebuild_cuda_tensor."""
    n_logits, offset, *fields = handle
    fields = [base64.b64decode(f["base64"]) if isinstance(f, dict) else f for f in fields]
    types = (torch.Tensor, torch.Size([n_logits]), (1,), offset, torch.storage.TypedStorage, torch.float32)
    return (*types, *fields)
