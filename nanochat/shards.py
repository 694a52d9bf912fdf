"""Parquet shards with a column `text`: which there are, which is held out, and their documents in order.

The training shards never hold the validation and the lockbox shard, however many are asked for.
"""

import concurrent.futures
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.common import cache_dir
from nanochat.download import fetch_all, sha256_of
from nanochat.mistakes import (
    CorpusUnknown, EmptyShard, NoTextColumn, ShardMissing, ShardTwice, ShardUnreadable, TooFewShards,
)

CLIMBMIX_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_NAMES = [f"shard_{i:05d}.parquet" for i in range(6543)]
CLIMBMIX_TRAIN_SHARDS = 24 # about 1.2e9 tokens: depth 12 at 10.5 tokens per scaling parameter

TEXT = "text"
BATCH_DOCUMENTS = 64
BUFFER_BYTES = 1 << 20 # of a column that is being read, however large its row group
SAMPLE_CHARS = 10_000 # of one document, for the tokenizer


class Shards:
    """A corpus of shards: `paths` by split; `facts` is what the manifest says of it."""

    def __init__(self, name, paths, tokenizer_chars, **facts):
        self.paths, self.tokenizer_chars = paths, tokenizer_chars
        self.rows = {split: sum(check(path) for path in paths[split]) for split in paths}
        self.facts = {"corpus": name, **facts, "tokenizer_chars": tokenizer_chars, "shards": describe(paths)}

    def batches(self, split):
        """Yield every document of a split in order, in small lists."""
        for path in self.paths[split]:
            yield from documents(path)

    def samples(self):
        """Yield the starts of training documents, as many characters as the tokenizer is to see."""
        left = self.tokenizer_chars
        for texts in self.batches("train"):
            for text in texts:
                if left <= 0:
                    return
                yield text[:min(SAMPLE_CHARS, left)]
                left -= min(SAMPLE_CHARS, len(text))


# -----------------------------------------------------------------------------
# Which shards there are

def climbmix(url, n_train, val, lockbox, tokenizer_chars, **patience):
    """Return the corpus at url, downloaded into the user's cache folder where it is not there yet."""
    url = (url or CLIMBMIX_URL).rstrip("/")
    n_train = CLIMBMIX_TRAIN_SHARDS if n_train is None else n_train
    names = divide(CLIMBMIX_NAMES, n_train, val or CLIMBMIX_NAMES[-1], lockbox or CLIMBMIX_NAMES[-2], url)
    folder = cache_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    fetch_all({folder / name: f"{url}/{name}" for split in names.values() for name in split}, **patience)
    return Shards("climbmix", in_folder(folder, names), tokenizer_chars, url=url)


def local(folder, n_train, val, lockbox, tokenizer_chars):
    """Return the corpus of the parquet files in a folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CorpusUnknown(str(folder))
    there = sorted(path.name for path in folder.glob("*.parquet"))
    named = {"val.parquet", "lockbox.parquet"} <= set(there)
    val, lockbox = val or (named and "val.parquet"), lockbox or (named and "lockbox.parquet")
    return Shards("parquet", in_folder(folder, divide(there, n_train, val, lockbox, folder)), tokenizer_chars)


def divide(there, n_train, val, lockbox, where):
    """Return split -> names: held out are those named, else the last and the one before; train on the first n (None: all)."""
    free = [name for name in there if name not in (val, lockbox)]
    val = val or (free.pop() if free else None)
    lockbox = lockbox or (free.pop() if free else None)
    for name in (val, lockbox):
        if name and name not in there:
            raise ShardMissing(name, where)
    if val and val == lockbox:
        raise ShardTwice(val, lockbox)
    n_train = max(len(free), 1) if n_train is None else n_train
    if not 1 <= n_train <= len(free):
        raise TooFewShards(n_train, len(free), where)
    return {"train": free[:n_train], "val": [val], "lockbox": [lockbox]}


def cache_folder(url):
    """Return the folder of shards from this address."""
    name = "climbmix" if url == CLIMBMIX_URL else f"shards-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    return cache_dir() / name


def in_folder(folder, names):
    return {split: [folder / name for name in names[split]] for split in names}


def describe(paths):
    """Return split -> name, sha256 and size of every shard; refuse one that is in two splits."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = {split: list(pool.map(sha256_of, paths[split])) for split in paths}
    seen = {}
    for split in paths:
        for path, digest in zip(paths[split], digests[split]):
            other, other_split = seen.setdefault(digest, (path, split))
            if other_split != split:
                raise ShardTwice(other, path)
    def entry(path, digest):
        return {"name": path.name, "sha256": digest, "bytes": path.stat().st_size}
    return {split: [entry(*pair) for pair in zip(paths[split], digests[split])] for split in paths}


# -----------------------------------------------------------------------------
# Reading one

def check(path):
    """Return the rows of a shard; raise a Mistake if it cannot give documents."""
    with opened(path) as file:
        return file.metadata.num_rows


def opened(path):
    """Open a shard that has rows and a column of text."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ShardUnreadable(path, reason(error)) from error
    schema = file.schema_arrow
    found = [field.type for field in schema if field.name == TEXT]
    if len(found) != 1 or not (pa.types.is_string(found[0]) or pa.types.is_large_string(found[0])):
        file.close()
        raise NoTextColumn(path, ", ".join(f"{field.name} ({field.type})" for field in schema))
    if file.metadata.num_rows == 0:
        file.close()
        raise EmptyShard(path)
    return file


def documents(path):
    """Yield the documents of a shard in order, in lists of at most BATCH_DOCUMENTS; empty ones are left out."""
    empty = True
    with opened(path) as file:
        batches = file.iter_batches(BATCH_DOCUMENTS, columns=[TEXT])
        while (batch := next_batch(path, batches)) is not None:
            if texts := [text for text in batch if text]:
                empty = False
                yield texts
    if empty:
        raise EmptyShard(path)


def next_batch(path, batches):
    """Return the next texts, None at the end."""
    try:
        batch = next(batches, None)
        return None if batch is None else batch.column(0).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ShardUnreadable(path, reason(error)) from error


def reason(error):
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
