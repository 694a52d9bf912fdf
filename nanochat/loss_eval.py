"""The judge: bits per byte of a model it only ever asks for logits.

    python -m nanochat.loss_eval --data DIR --split val --tokens N [--checkpoint FILE]

Over the channel it hands a model server windows of tokens and a shared buffer for logits, on a GPU one of the GPU's own
memory; targets and byte lengths never leave this process. The last line of its output is a JSON object: {val_bpb,
eval_tokens, n_params, logits: where they passed, "host" or "device"}, or {status, reason} with status `diverged` (a logit
is not finite), `cheated` (a logit depends on a later token) or `crashed`.
"""

import argparse
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from nanochat.buffers import HostBuffer, share_on_device, unwritten
from nanochat.common import channel, pick_device, receive, send, set_up_process
from nanochat.dataset import TokenFile

CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 28} # logits of one request; 1 GB, of which judge and server hold a few copies each
AUDIT_TOLERANCE_NATS = 1e-3
MAX_HEADER_BYTES = 1 << 24
CPU = torch.device("cpu")


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
    """Return (start, end) of windows of up to `length` tokens, about `tokens` in all, spread over the whole split.

    Each document is cut into consecutive windows, and gives its share of them, evenly spaced: at least one where there
    are enough for all documents; where there are not, windows are taken evenly from all that there are.
    """
    counts = -(-np.diff(offsets) // length) # windows of each document
    if tokens < length * len(counts):
        return spread_windows(offsets, counts, tokens, length)
    shares = np.clip(np.round(counts * (tokens / length / counts.sum())).astype(int), 1, counts)
    spans = []
    for start, end, count, share in zip(offsets[:-1], offsets[1:], counts, shares):
        picked = (2 * np.arange(share) + 1) * count // (2 * share)
        spans += [(start + i * length, min(start + (i + 1) * length, end)) for i in picked]
    return spans


def spread_windows(offsets, counts, tokens, length):
    """Return every n-th of the windows of all documents, which hold about this many tokens."""
    n = max(1, round(counts.sum() * tokens / offsets[-1]))
    picked = (2 * np.arange(n) + 1) * counts.sum() // (2 * n)
    ends = np.cumsum(counts)
    documents = np.searchsorted(ends, picked, side="right")
    starts = offsets[documents] + (picked - (ends - counts)[documents]) * length
    return list(zip(starts, np.minimum(starts + length, offsets[documents + 1])))


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
    if not torch.isfinite(torch.stack(torch.aminmax(logits))).all(): # one pass, nothing allocated; NaN comes through
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


def rows_per_chunk(length, vocab_size, device):
    return max(1, CHUNK_LOGITS[device.type] // (length * vocab_size))


def evaluate(logits_of, windows, byte_lengths, device=CPU):
    """Return bits per byte; logits_of takes (B, T) int64 token ids and returns (B, T, V) logits, best on this device."""
    rows = rows_per_chunk(windows.inputs.shape[1], len(byte_lengths), device)
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

    def __init__(self, sock, vocab_size, device=CPU):
        self.sock, self.vocab_size, self.device = sock, vocab_size, device

    def open(self, rows, length):
        """Offer the server buffers large enough for any request of this shape, of the host and of the device; it takes one."""
        n_bytes = 4 * rows * length * self.vocab_size
        host, shared = HostBuffer(n_bytes), share_on_device(n_bytes, self.device)
        offer = {"buffer_bytes": n_bytes, "device_buffer": shared and shared.handle}
        answer = self.exchange(offer, fds=[host.file])
        self.buffer = next((buffer for buffer in (shared, host) if buffer and answer == {"logits": buffer.where}), None)
        if self.buffer is None:
            raise Rejected("crashed", "the model server took none of the buffers for logits")

    def exchange(self, header, payload=b"", fds=()):
        """Return the header of the server's answer, None if it closed the channel."""
        try:
            send(self.sock, header, payload, fds)
            answer = receive(self.sock)
        except (ConnectionError, ValueError) as error:
            raise Rejected("crashed", f"the model server broke off: {error}") from error
        return answer and answer[0]

    def __call__(self, inputs):
        """Return (B, T, V) fp32 logits on the device for (B, T) token ids."""
        shape = [*inputs.shape, self.vocab_size]
        self.buffer.mark(shape)
        request = {"rows": inputs.shape[0], "length": inputs.shape[1]}
        if self.exchange(request, inputs.astype(np.int32).tobytes()) != {"done": True, "shape": shape}:
            raise Rejected("crashed", f"the model server gave no logits of shape {shape}")
        logits = self.buffer.copy(shape)
        if logits is None:
            raise Rejected("crashed", "the model server cut the buffer of logits short")
        if unwritten(logits):
            raise Rejected("crashed", "the model server left logits unwritten")
        return logits.to(self.device)


def count_parameters(checkpoint):
    """Return the number of values in a safetensors file, from its header alone."""
    try:
        with open(checkpoint, "rb") as file:
            (n_header,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(n_header, MAX_HEADER_BYTES)))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Rejected("crashed", f"the checkpoint is no safetensors file: {error}") from error


def judge(args, sock, device):
    """Return the verdict on the model at the other end of the channel."""
    windows, byte_lengths = load_windows(args.data, args.split, args.tokens, args.length)
    logits_of = ServerLogits(sock, len(byte_lengths), device)
    logits_of.open(rows_per_chunk(args.length, len(byte_lengths), device), args.length)
    bpb = evaluate(logits_of, windows, byte_lengths, device)
    verdict = {"val_bpb": bpb, "eval_tokens": int((windows.targets >= 0).sum()), "logits": logits_of.buffer.where}
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
        verdict = judge(args, channel(), pick_device())
    except Rejected as rejected:
        verdict = {"status": rejected.status, "reason": rejected.reason}
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
