"""Measure the data pipeline: tokenise and write, train a tokenizer, read parquet, download from loopback.

    python benchmarks/nanochat_data.py [--megachars 60]

The text is the Python standard library's, repeated with a mark on every document, in parquet shards with row groups of
1024 documents: code, not prose, so figures of the real corpus will differ. The result goes to
benchmarks/results/nanochat_data.json.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import dataset, download, shards
from nanochat.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "nanochat_data.json"
VOCAB_SIZE = 32768
TOKENIZER_CHARS = 20_000_000
DOCUMENT_CHARS = 4600  # about the mean of the real corpus
DOWNLOAD_BYTES = 100_000_000
DOWNLOADS = 4
MANY_DOCUMENTS = 20_000_000


def passages() -> Iterator[str]:
    """Yield documents without end, no two alike."""
    source, _ = dataset.read_corpus()
    text = "".join(itertools.chain.from_iterable(source.values()))
    for i in itertools.count():
        start = (i * DOCUMENT_CHARS) % (len(text) - DOCUMENT_CHARS)
        yield f"{i}\n{text[start : start + DOCUMENT_CHARS]}"


def write_shards(folder: Path, chars: int) -> None:
    """Write one training shard of so many characters, and two small ones."""
    documents = passages()
    for name, n in (("a", chars // DOCUMENT_CHARS), ("b", 200), ("c", 200)):
        table = pa.table({"text": list(itertools.islice(documents, n))})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=1024, compression="zstd")


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def prepare_in_child(folder: Path, out: Path) -> int:
    """Prepare in a fresh process; return its peak memory."""
    dataset.prepare_shards(out, str(folder), VOCAB_SIZE, tokenizer_chars=TOKENIZER_CHARS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tokenising(folder: Path, chars: int) -> dict[str, float]:
    write_shards(folder, chars)
    path, out = folder / "a.parquet", folder / "out"
    out.mkdir()
    n_chars = sum(len(text) for batch in shards.documents(path) for text in batch)
    sample = list(itertools.islice(passages(), TOKENIZER_CHARS // DOCUMENT_CHARS))
    train_s = seconds(lambda: Tokenizer.train(sample, VOCAB_SIZE))
    tokenizer = Tokenizer.train(sample, VOCAB_SIZE)

    def whole() -> dict[str, int]:
        return dataset.write_split(out, "a", dataset.tokenise(tokenizer, "uint16", shards.documents(path)), None)

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(prepare_in_child, (folder, folder / "prepared"))
    return {
        "characters": n_chars,
        "characters_per_token": round(n_chars / whole()["tokens"], 2),
        "tokenise_and_write_chars_per_s": round(n_chars / median(seconds(whole) for _ in range(3))),
        "read_parquet_chars_per_s": round(n_chars / seconds(lambda: [len(b) for b in shards.documents(path)])),
        "train_tokenizer_chars_per_s": round(sum(map(len, sample)) / train_s),
        "peak_memory_of_a_whole_prepare_mb": round(peak / 2**20),
    }


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("X-Linked-Etag", (Path(self.directory) / "sha256").read_text())
        super().end_headers()


def serve(folder: Path, port: object) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    port.send(server.server_port)  # type: ignore[attr-defined]
    server.serve_forever()


def downloading(folder: Path) -> dict[str, float]:
    """Return bytes a second with one and with several at once, each file checked against its checksum."""
    body = os.urandom(DOWNLOAD_BYTES)
    (folder / "file").write_bytes(body)
    (folder / "sha256").write_text(hashlib.sha256(body).hexdigest())
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(folder, sender), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiver.recv()}/file"

    def fetch(name: str, parallel: int) -> float:
        urls = {folder / f"{name}{i}": url for i in range(DOWNLOADS)}
        return seconds(lambda: download.fetch_all(urls, parallel=parallel))

    rates = {
        f"download_{n}_at_once_bytes_per_s": round(DOWNLOADS * DOWNLOAD_BYTES / fetch(f"x{n}-", n)) for n in (1, 4)
    }
    server.terminate()
    server.join()
    return rates


def opening(folder: Path) -> dict[str, float]:
    """Return how long it takes to open a split of very many documents."""
    np.save(folder / "train.offsets.npy", np.arange(MANY_DOCUMENTS + 1))
    np.zeros(MANY_DOCUMENTS, dtype="uint16").tofile(folder / "train.bin")
    (folder / "manifest.json").write_text('{"dtype": "uint16"}')
    durations = [seconds(lambda: dataset.TokenFile(folder, "train")) for _ in range(9)]
    return {"documents": MANY_DOCUMENTS, "open_ms": round(1000 * median(durations), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megachars", type=int, default=60)
    args = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    result: dict[str, object] = {
        "load_average_before": round(os.getloadavg()[0], 2),
        "cpus": len(os.sched_getaffinity(0)),
        "vocab_size": VOCAB_SIZE,
    }
    for name, measure in (
        ("stdlib_prepare", lambda folder: {"s": round(seconds(lambda: dataset.prepare(folder / "data", 4096)), 2)}),
        ("tokenising", lambda folder: tokenising(folder, args.megachars * 1_000_000)),
        ("downloading", downloading),
        ("opening", opening),
    ):
        with tempfile.TemporaryDirectory() as folder:
            result[name] = measure(Path(folder))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
