"""The feeder: training tokens in rows packed "BOS-aligned best fit", in this process or handed through a socket.

    python -m nanochat.dataloader --data DIR --tokens N --seed S [--epochs E]

Every row starts with BOS. The largest buffered document that fits goes in; when none fits, one is cropped, and its rest
goes back to the buffer, so that every token is used. Row i depends on (seed, T, i), not on how many rows a batch has.

Over the channel: first a hello, {vocab_size, bos, dtype, tokens}. Then, for each request {rows, length}, either
{rows, length} with rows x (length + 1) tokens, or {end: true} when that would exceed the N tokens to be handed out.
"""

import argparse
import bisect
import contextlib
import hashlib
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from nanochat.common import channel, receive, send
from nanochat.dataset import TokenFile, default_data_dir
from nanochat.distributed import Herald, rank, world_size
from nanochat.mistakes import OutOfData, sentences

BUFFER_DOCUMENTS = 256
MAX_BATCH_TOKENS = 1 << 24


class Rows:
    """A stream of packed rows (length + 1,) for one seed and one row length; OutOfData when its epochs are over."""

    def __init__(self, tokens, offsets, bos, seed, length, epochs):
        self.tokens, self.offsets, self.bos, self.capacity = tokens, offsets, bos, length + 1
        key = hashlib.sha256(f"{seed}/{length}".encode()).digest()
        self.random = random.Random(int.from_bytes(key[:8], "big"))
        self.shuffle = np.random.default_rng(int.from_bytes(key[8:16], "big"))
        self.epochs, self.epoch = epochs, 0
        self.upcoming = iter(()) # documents of this epoch still to come
        self.buffer = [] # (length, -arrival, start) of documents or of their rests, sorted
        self.arrivals = 0
        self.ready = [] # rows packed ahead of their request
        self.size = min(BUFFER_DOCUMENTS, len(offsets) - 1)

    def add(self, length, start):
        self.arrivals += 1
        bisect.insort(self.buffer, (length, -self.arrivals, start))

    def next_document(self):
        """Return (length, start) of one more document, None when the last epoch is over."""
        i = next(self.upcoming, None)
        if i is None:
            if self.epoch == self.epochs:
                return None
            self.epoch += 1
            self.upcoming = iter(self.shuffle.permutation(len(self.offsets) - 1))
            i = next(self.upcoming)
        start, end = int(self.offsets[i]), int(self.offsets[i + 1])
        return end - start, start

    def take(self, space):
        """Remove up to `space` tokens of one document from the buffer; return (length, start)."""
        while len(self.buffer) < self.size and (document := self.next_document()):
            self.add(*document)
        if not self.buffer:
            raise OutOfData(int(self.offsets[-1]), self.epochs, (self.epochs + 1) * int(self.offsets[-1]))
        fitting = bisect.bisect_right(self.buffer, (space, 1))
        if fitting: # the largest, and of equals the oldest
            length, _, start = self.buffer.pop(fitting - 1)
            return length, start
        length, _, start = self.buffer.pop(self.random.randrange(len(self.buffer)))
        self.add(length - space, start + space)
        return space, start

    def fill(self, row):
        """Write the next row into `row` (length + 1,)."""
        position = 0
        while position < self.capacity:
            row[position] = self.bos
            position += 1
            if position < self.capacity:
                length, start = self.take(self.capacity - position)
                row[position:position + length] = self.tokens[start:start + length]
                position += length

    def prefetch(self, n):
        """Have n rows ready."""
        while len(self.ready) < n:
            row = np.empty(self.capacity, dtype=self.tokens.dtype)
            self.fill(row)
            self.ready.append(row)

    def pack(self, n):
        """Return the next n rows, (n, length + 1)."""
        self.prefetch(n)
        batch, self.ready = np.stack(self.ready[:n]), self.ready[n:]
        return batch


class LocalFeed:
    """Batches of one split, packed in this process. `tokens` bounds what is handed out; None: until the epochs are over."""

    def __init__(self, data, seed, tokens=None, split="train", epochs=1):
        self.data, self.file = data, TokenFile(data, split)
        manifest = self.file.manifest
        self.hello = {name: manifest[name] for name in ("vocab_size", "bos", "dtype")} | {"tokens": tokens}
        self.seed, self.budget, self.epochs, self.handed_out = seed, tokens, epochs, 0
        self.streams = {} # row length -> Rows
        self.check(tokens or 0)

    def check(self, tokens):
        """Refuse now what would run out of data later."""
        n_tokens, n_documents = int(self.file.offsets[-1]), len(self.file.offsets) - 1
        if tokens > self.epochs * (n_tokens + n_documents): # each document has its BOS
            raise OutOfData(n_tokens, self.epochs, tokens)

    def stream(self, length):
        if length not in self.streams:
            offsets, bos = self.file.offsets, self.hello["bos"]
            self.streams[length] = Rows(self.file.tokens, offsets, bos, self.seed, length, self.epochs)
        return self.streams[length]

    def covers(self, rows, length):
        """Say whether the budget covers one more batch of this shape."""
        return self.budget is None or self.handed_out + rows * length <= self.budget

    def next(self, rows, length):
        """Return (rows, length + 1) tokens, or None when the budget does not cover them."""
        if not self.covers(rows, length):
            return None
        self.handed_out += rows * length
        return self.stream(length).pack(rows)

    def skip(self, rows, length):
        """Pass over rows that were trained on before; it costs their packing."""
        self.handed_out += rows * length
        for _ in range(rows):
            self.stream(length).pack(1)

    def prefetch(self, rows, length):
        """Pack a batch of this shape ahead of the request for it."""
        if self.covers(rows, length):
            self.stream(length).prefetch(rows)


class RemoteFeed:
    """Batches from a feeder process at the other end of the channel."""

    def __init__(self, sock):
        self.sock = sock
        self.hello, _ = receive(sock)

    def check(self, tokens):
        """The feeder has looked at its own budget."""

    def skip(self, rows, length):
        assert rows == 0, "a feeder starts from the first row"

    def next(self, rows, length):
        send(self.sock, {"rows": rows, "length": length})
        message = receive(self.sock)
        assert message is not None, f"the feeder closed the channel on a request for {rows} rows of {length} tokens"
        header, payload = message
        if header.get("end"):
            return None
        return np.frombuffer(payload, dtype=self.hello["dtype"]).reshape(rows, length + 1)


class DealtFeed:
    """The batches of rank 0's feed, dealt to all ranks in equal runs of rows: what one process would take one after another."""

    def __init__(self, feed):
        self.feed, self.herald = feed, Herald()
        self.hello = json.loads(self.herald.tell(json.dumps(feed.hello).encode() if feed else b""))

    def next(self, rows, length):
        """Return this rank's (rows, length + 1) of a batch that is larger by the world size."""
        batch = self.feed.next(rows * world_size(), length) if self.feed else None
        told = self.herald.tell(b"" if batch is None else batch.tobytes())
        return np.frombuffer(told, dtype=self.hello["dtype"]).reshape(-1, rows, length + 1)[rank()] if told else None

    def check(self, tokens):
        if self.feed:
            self.feed.check(tokens)

    def skip(self, rows, length):
        if self.feed:
            self.feed.skip(rows * world_size(), length)


def open_feed(data, seed, epochs=1):
    """Return the feed of this process: the channel's if it has one, else one over `data` (default: embedded corpus)."""
    sock = channel()
    feed = None
    if rank() == 0:
        feed = RemoteFeed(sock) if sock else LocalFeed(data or default_data_dir(), seed, epochs=epochs)
    return feed if world_size() == 1 else DealtFeed(feed)


class Loader:
    """Batches on the device, `total` at most. A thread has the next one ready, in pinned memory, while a step runs."""

    def __init__(self, feed, rows, length, device, total=None):
        self.feed, self.rows, self.length, self.device = feed, rows, length, device
        self.left = total
        self.thread = ThreadPoolExecutor(1)
        self.upcoming = self.ask()

    def ask(self):
        """Begin to fetch a batch, if one is left to be asked for: no more than is trained on is ever handed out."""
        if self.left == 0:
            return None
        self.left = self.left and self.left - 1
        return self.thread.submit(self.fetch)

    def fetch(self):
        """Return (rows, length + 1) int64 in host memory, or None when the feed has ended."""
        batch = self.feed.next(self.rows, self.length)
        if batch is None:
            return None
        ids = torch.from_numpy(batch.astype(np.int64))
        return ids.pin_memory() if self.device.type == "cuda" else ids

    def next(self):
        """Return inputs, targets, each (rows, length) int64 on the device, or None when there are no more."""
        ids = self.upcoming.result() if self.upcoming else None
        if ids is None:
            return None
        self.upcoming = self.ask()
        ids = ids.to(self.device, non_blocking=True)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


# -----------------------------------------------------------------------------
# The feeder as a process

def next_request(sock):
    """Return (rows, length), or None when the other end closes or asks for what nobody may; it is not trusted."""
    try:
        header, _ = receive(sock) or (None, b"")
    except ValueError:
        return None
    sizes = (header.get("rows"), header.get("length")) if isinstance(header, dict) else (0, 0)
    allowed = all(type(n) is int and n > 0 for n in sizes) and sizes[0] * sizes[1] <= MAX_BATCH_TOKENS
    return sizes if allowed else None


def serve(feed, sock):
    """Answer requests until the other end closes; return seconds since the first one."""
    started = None
    with contextlib.suppress(ConnectionError): # the trainer died: what it was given still counts
        send(sock, feed.hello)
        while (request := next_request(sock)) is not None:
            started = started or time.monotonic()
            batch = feed.next(*request)
            if batch is None:
                send(sock, {"end": True})
            else:
                send(sock, {"rows": request[0], "length": request[1]}, batch.tobytes())
                feed.prefetch(*request)
    return time.monotonic() - started if started else 0.0


def main():
    parser = argparse.ArgumentParser(prog="python -m nanochat.dataloader", description="Feed a trainer over EVOLVE_CHANNEL.")
    parser.add_argument("--data", required=True, help="folder written by nanochat.dataset")
    parser.add_argument("--tokens", type=int, required=True, help="training tokens to hand out at most")
    parser.add_argument("--seed", type=int, default=0, help="moves the order of the data")
    parser.add_argument("--epochs", type=int, default=1, help="how often each document may be used")
    args = parser.parse_args()
    with sentences():
        feed = LocalFeed(args.data, args.seed, args.tokens, epochs=args.epochs)
        seconds = serve(feed, channel())
    print(json.dumps({"tokens": feed.handed_out, "train_seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
