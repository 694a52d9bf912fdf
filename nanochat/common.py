"""What every process here shares: device, threads, seeds, and framed messages over a socket."""

import argparse
import ctypes
import hashlib
import json
import os
import re
import socket
import struct
import sys
from pathlib import Path

import torch

from nanochat.mistakes import NoGpu

FRAME = struct.Struct(">II")  # bytes of the JSON header, bytes of the payload
MAX_HEADER_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 28
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3 # of glibc's mallopt


# Where the rules of scale have factor 1; the horizon is a budget, no part of the recipe
REFERENCE_DEPTH = 12
REFERENCE_BATCH_TOKENS = 2**19
REFERENCE_DIM = 768
BATCH_EXPONENT = 0.383 # arXiv 2505.13738
TOKENS_PER_PARAMETER = 10.5
VOCAB_MULTIPLE = 64

# Dense bf16 FLOPs per second; the first name that is a word of the device's counts
PEAK_FLOPS = {
    "GB200": 2.5e15, "B200": 2.25e15, "H200 NVL": 8.35e14, "H200": 9.89e14, "H100 NVL": 8.35e14, "H100 PCIe": 7.56e14, "H100": 9.89e14,
    "GH200": 9.89e14, "A100": 3.12e14, "A800": 3.12e14, "L40S": 3.62e14, "L40": 1.81e14, "L4": 1.21e14, "A10G": 7.0e13, "A10": 1.25e14,
    "RTX 5090": 2.09e14, "RTX 4090": 1.65e14, "RTX 3090": 7.1e13,
}


def padded_vocab_size(vocab_size):
    """Return the rows of an embedding: a multiple that the hardware likes."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def training_flops_per_token(n_scaling, n_embd, attended):
    """Return FLOPs forward and backward: 6 per matrix weight, 12 per channel and position attended to in all layers."""
    return 6 * n_scaling + 12 * n_embd * attended


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_flops(device):
    """Return the device's peak in bf16, or None where we know of none."""
    name = device_name(device)
    return next((peak for model, peak in PEAK_FLOPS.items() if re.search(rf"\b{model}\b", name)), None)


def cache_dir():
    """Return the user's cache folder for data sets."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanochat"


def set_up_process():
    """Set threads and allocator; a process forked from a warm one has not read its environment yet."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"): # keep freed memory: else 5000 page faults a step
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)


def positive(text):
    """Return a flag's value that counts something."""
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError(f"{n} is less than 1")
    return n


def pick_device(device_type="auto"):
    """Return the torch device of this type; "auto" is the best one there is."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if device_type == "cuda" != best:
        raise NoGpu()
    return torch.device(best if device_type == "auto" else device_type)


def keyed_generator(seed, name, device):
    """Return a generator that depends on (seed, name) alone, so that no draw depends on what was drawn before."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# -----------------------------------------------------------------------------
# Messages: a JSON header and raw bytes, both length-prefixed and bounded. Nothing is ever unpickled.

def channel():
    """Return the socket that this process was born with, or None."""
    fd = os.environ.get("EVOLVE_CHANNEL")
    return socket.socket(fileno=int(fd)) if fd else None


def send(sock, header, payload=b"", fds=()):
    """Send one message; file descriptors travel with its first byte."""
    head = json.dumps(header).encode()
    prefix = FRAME.pack(len(head), len(payload)) + head
    sent = socket.send_fds(sock, [prefix], list(fds)) if fds else 0
    sock.sendall(prefix[sent:])
    if payload:
        sock.sendall(payload)


def receive(sock):
    """Return (header, payload) of the next message, None when the other end is closed; ValueError if it is garbled."""
    prefix = _read(sock, FRAME.size)
    return None if prefix is None else _rest(sock, prefix)


def receive_with_fds(sock, n_fds):
    """Return (header, payload, fds) of the next message, which carries file descriptors."""
    prefix, fds, _, _ = socket.recv_fds(sock, FRAME.size, n_fds)
    assert len(prefix) == FRAME.size and len(fds) == n_fds, "expected a message with file descriptors"
    return *_rest(sock, prefix), fds


def _rest(sock, prefix):
    n_head, n_payload = FRAME.unpack(prefix)
    if n_head > MAX_HEADER_BYTES or n_payload > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {n_head} + {n_payload} bytes is larger than allowed")
    header, payload = _read(sock, n_head), _read(sock, n_payload)
    if header is None or payload is None:
        raise ValueError("the channel was closed inside a message")
    return json.loads(header), payload


def _read(sock, n):
    """Return exactly n bytes, or None if the other end closes first."""
    buffer = bytearray(n)
    view = memoryview(buffer)
    while view:
        try:
            got = sock.recv_into(view)
        except ConnectionResetError:
            return None
        if got == 0:
            return None
        view = view[got:]
    return buffer
