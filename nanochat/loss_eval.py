"""The judge: bits per byte of a model it only ever asks for logits.

    python -m nanochat.loss_eval --data DIR --split val --tokens N [--checkpoint FILE]

Over the channel it hands a model server windows of tokens and a shared buffer for logits; targets and byte lengths never
leave this process. The last line of its output is a JSON object: {val_bpb, eval_tokens, n_params}, or {status, reason}
with status `diverged` (a logit is not finite), `cheated` (a logit depends on a later token) or `crashed`.
"""

import argparse
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nanochat.common import channel, receive, send, set_up_process
from nanochat.dataset import TokenFile

CHUNK_LOGITS = 1 << 21 # logits of one request
AUDIT_TOLERANCE_NATS = 1e-3
MAX_HEADER_BYTES = 1 << 24


class Rejected(Exception):
    """A model cannot be scored; the status says why."""

    def __init__(self, status, reason):
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


# -----------------------------------------------------------------------------
# Windows

@dataclass(frozen=True)
class Windows:
    inputs: np.ndarray # (N, T), each starts with BOS
    targets: np.ndarray # (N, T), -1 where there is none


def window_starts(offsets, tokens, length):
    """Return (start, end) of windows of up to `length` tokens, about `tokens` in all, spread over every document.

    Each document is cut into consecutive windows; it gives its share of them, at least one, evenly spaced.
    """
    counts = -(-np.diff(offsets) // length)
    shares = np.clip(np.round(counts * (tokens / length / counts.sum())).astype(int), 1, counts)
    spans = []
    for start, end, count, share in zip(offsets[:-1], offsets[1:], counts, shares):
        picked = (2 * np.arange(share) + 1) * count // (2 * share)
        spans += [(start + i * length, min(start + (i + 1) * length, end)) for i in picked]
    return spans


def read_windows(data, split, tokens, length):
    """Return the windows of a split that hold about this many tokens."""
    file = TokenFile(data, split)
    spans = window_starts(file.offsets, tokens, length)
    targets = np.full((len(spans), length), -1, dtype=np.int64)
    for row, (start, end) in zip(targets, spans):
        row[:end - start] = file.tokens[start:end]
    bos = np.full((len(spans), 1), file.manifest["bos"], dtype=np.int64)
    inputs = np.concatenate([bos, np.maximum(targets[:, :-1], 0)], axis=1)
    return Windows(inputs, targets)


# -----------------------------------------------------------------------------
# Scoring

def target_nats(logits, targets):
    """Return (B, T) fp32 nats of each target, 0 where there is none; raise Rejected if a logit is not finite."""
    if not torch.isfinite(logits).all():
        raise Rejected("diverged", "a logit is not finite")
    flat = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    return flat.view(targets.shape)


def bits_per_byte(nats, targets, byte_lengths):
    """Return bits per byte over targets that stand for bytes; all shapes (N, T), byte_lengths (V,)."""
    n_bytes = np.where(targets >= 0, byte_lengths[np.maximum(targets, 0)], 0)
    return float(nats[n_bytes > 0].sum(dtype=np.float64) / (math.log(2) * n_bytes.sum()))


def ask(logits_of, inputs, targets):
    """Return (B, T) nats of one chunk."""
    logits = logits_of(inputs)
    return target_nats(logits, torch.from_numpy(targets).to(logits.device)).cpu().numpy()


def audit_causality(logits_of, windows, nats, rows):
    """Ask again with the second halves of the first rows replaced by other text; raise Rejected if the first halves change."""
    half = windows.inputs.shape[1] // 2
    elsewhere = np.roll(windows.inputs, len(windows.inputs) // 2, axis=0)
    mixed = np.concatenate([windows.inputs[:rows, :half], elsewhere[:rows, half:]], axis=1)
    change = float(np.abs(ask(logits_of, mixed, windows.targets[:rows]) - nats[:rows])[:, :half].max())
    if change > AUDIT_TOLERANCE_NATS:
        raise Rejected("cheated", f"later tokens change the loss of earlier ones by {change:.2g} nats")


def rows_per_chunk(length, vocab_size):
    return max(1, CHUNK_LOGITS // (length * vocab_size))


def evaluate(logits_of, windows, byte_lengths):
    """Return bits per byte; logits_of takes (B, T) int64 token ids and returns (B, T, V) logits."""
    rows = rows_per_chunk(windows.inputs.shape[1], len(byte_lengths))
    nats = np.zeros(windows.targets.shape, dtype=np.float32)
    for i in range(0, len(nats), rows):
        nats[i:i + rows] = ask(logits_of, windows.inputs[i:i + rows], windows.targets[i:i + rows])
    audit_causality(logits_of, windows, nats, rows)
    return bits_per_byte(nats, windows.targets, byte_lengths)


def load_windows(data, split, tokens, length):
    """Return windows and byte lengths of a prepared data set."""
    return read_windows(data, split, tokens, length), np.load(Path(data) / "token_bytes.npy")


# -----------------------------------------------------------------------------
# The judge as a process

class ServerLogits:
    """Asks a model server for logits; it writes them to a buffer that this process copies before looking."""

    def __init__(self, sock, vocab_size):
        self.sock, self.vocab_size = sock, vocab_size
        self.buffer = os.memfd_create("logits")

    def open(self, rows, length):
        """Hand the server a buffer large enough for any request of this shape."""
        n_bytes = 4 * rows * length * self.vocab_size
        os.ftruncate(self.buffer, n_bytes)
        send(self.sock, {"buffer_bytes": n_bytes}, fds=[self.buffer])

    def __call__(self, inputs):
        """Return (B, T, V) fp32 logits for (B, T) token ids."""
        shape = [*inputs.shape, self.vocab_size]
        try:
            send(self.sock, {"rows": inputs.shape[0], "length": inputs.shape[1]}, inputs.astype(np.int32).tobytes())
            answer = receive(self.sock)
        except (ConnectionError, ValueError) as error:
            raise Rejected("crashed", f"the model server broke off: {error}") from error
        if answer is None or answer[0] != {"done": True, "shape": shape}:
            raise Rejected("crashed", f"the model server gave no logits of shape {shape}")
        logits = np.empty(shape, dtype=np.float32)
        if os.preadv(self.buffer, [memoryview(logits).cast("B")], 0) != logits.nbytes:
            raise Rejected("crashed", "the model server cut the buffer of logits short")
        return torch.from_numpy(logits)


def count_parameters(checkpoint):
    """Return the number of values in a safetensors file, from its header alone."""
    try:
        with open(checkpoint, "rb") as file:
            (n_header,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(n_header, MAX_HEADER_BYTES)))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Rejected("crashed", f"the checkpoint is no safetensors file: {error}") from error


def judge(args, sock):
    """Return the verdict on the model at the other end of the channel."""
    windows, byte_lengths = load_windows(args.data, args.split, args.tokens, args.length)
    logits_of = ServerLogits(sock, len(byte_lengths))
    logits_of.open(rows_per_chunk(args.length, len(byte_lengths)), args.length)
    bpb = evaluate(logits_of, windows, byte_lengths)
    verdict = {"val_bpb": bpb, "eval_tokens": int((windows.targets >= 0).sum())}
    return verdict | ({"n_params": count_parameters(args.checkpoint)} if args.checkpoint else {})


def main():
    parser = argparse.ArgumentParser(prog="python -m nanochat.loss_eval", description="Judge the model at EVOLVE_CHANNEL.")
    parser.add_argument("--data", required=True, help="folder written by nanochat.dataset")
    parser.add_argument("--split", choices=("val", "lockbox"), default="val", help="which windows to score")
    parser.add_argument("--tokens", type=int, required=True, help="about how many tokens to score")
    parser.add_argument("--length", type=int, default=128, help="tokens of a window")
    parser.add_argument("--checkpoint", help="safetensors file to count parameters in")
    args = parser.parse_args()
    set_up_process()
    try:
        verdict = judge(args, channel())
    except Rejected as rejected:
        verdict = {"status": rejected.status, "reason": rejected.reason}
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
