"""A corpus without a network: the Python sources that this interpreter can import, as parquet shards."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT_BYTES = range(100, 1 << 20)  # of a source file; longer ones are generated tables
SHARD_CHARACTERS = 1 << 26
SPLIT_OF = {0: "val", 1: "lockbox"}  # of 32nds; all others train


def source_files() -> list[tuple[str, Path]]:
    """Return (name, path) of the Python files that this interpreter can import, outside this repository."""
    roots = sorted({Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()} - {ROOT})
    found = [(path.relative_to(root).as_posix(), path) for root in roots for path in root.rglob("*.py")]
    return sorted((name, path) for name, path in found if not path.is_relative_to(ROOT))


def source_documents(limit: int | None) -> Iterator[tuple[str, str]]:
    """Yield (split, text) of source files, every content once; the split is a hash of the name."""
    seen = set()
    for name, path in source_files()[:limit]:
        if not path.is_file() or path.stat().st_size not in DOCUMENT_BYTES:
            continue
        raw = path.read_bytes()
        digest = hashlib.sha256(raw).digest()
        if digest not in seen:
            seen.add(digest)
            part = hashlib.sha256(name.encode()).digest()[0] % 32
            yield SPLIT_OF.get(part, "train"), raw.decode("utf-8", errors="replace")


def write_shards(folder: Path, limit: int | None) -> dict[str, int]:
    """Write the sources as parquet shards: train-*.parquet of about 64 MB of text, val.parquet, lockbox.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts: dict[str, list[str]] = {"train": [], "val": [], "lockbox": []}
    about = {"documents": 0, "characters": 0, "train_shards": 0}

    def flush(split: str, name: str) -> None:
        pq.write_table(pa.table({"text": texts[split]}), folder / f"{name}.parquet", row_group_size=1024)
        texts[split] = []

    def flush_train() -> None:
        flush("train", f"train-{about['train_shards']:03d}")
        about["train_shards"] += 1

    waiting = 0
    for split, text in source_documents(limit):
        texts[split].append(text)
        about["documents"] += 1
        about["characters"] += len(text)
        waiting += len(text) if split == "train" else 0
        if waiting > SHARD_CHARACTERS:
            waiting = 0
            flush_train()
    flush_train()
    flush("val", "val")
    flush("lockbox", "lockbox")
    return about
