"""The data of a run: text split into train, validation and lockbox, tokenised once into memory-mapped files.

    python -m nanochat.dataset --out DIR [--corpus stdlib|climbmix|FOLDER] [--shards N] [--vocab-size V]

DIR then holds, for each split, `SPLIT.bin` (the tokens of all documents, without BOS) and `SPLIT.offsets.npy` (where each
document starts, and the end), and `tokenizer.json`, `token_bytes.npy`, `manifest.json`. DIR is whole or not there.

    stdlib      the Python standard library's sources on this machine, one document a file, split by a hash of its name
    climbmix    parquet shards, downloaded into the user's cache folder; two named shards are validation and lockbox
    FOLDER      your own parquet files with a column `text`: val.parquet and lockbox.parquet are held out, or those that
                --val-shard and --lockbox-shard name, or else the last by name and the one before
"""

import argparse
import collections
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sysconfig
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nanochat.common import cache_dir, positive
from nanochat.mistakes import DataMissing, DiskFailed, EmptySplit, OutBusy, OutTaken, VocabularyTooSmall, sentences
from nanochat.tokenizer import LEAST_VOCAB_SIZE, Tokenizer

DEFAULT_VOCAB_SIZE = 4096
DEFAULT_SHARDS_VOCAB_SIZE = 32768
DEFAULT_TOKENIZER_CHARS = 2_000_000_000
SPLITS = ("train", "val", "lockbox")
SPLIT_OF_TENTH = ("train",) * 8 + ("val", "lockbox")
LEFT_OUT = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "site-packages", "test", "tests", "turtledemo"}
BATCH_FILES = 16
BATCHES_AHEAD = 4 # of each thread


# -----------------------------------------------------------------------------
# Reading what was prepared

class TokenFile:
    """One split: `tokens` (n,) and `offsets` (documents + 1,), both mapped from disk."""

    def __init__(self, data, split):
        data = Path(data)
        self.manifest = read_manifest(data)
        self.tokens = np.asarray(np.memmap(data / f"{split}.bin", dtype=self.manifest["dtype"], mode="r"))
        self.offsets = np.asarray(np.load(data / f"{split}.offsets.npy", mmap_mode="r"))


def read_manifest(data):
    path = Path(data) / "manifest.json"
    if not path.exists():
        raise DataMissing(data)
    return json.loads(path.read_text())


def default_data_dir():
    """Return the folder of the embedded corpus in the user's cache; prepare it on first use."""
    data = cache_dir() / f"python-{platform.python_version()}-{DEFAULT_VOCAB_SIZE}"
    if not data.exists():
        prepare(data, DEFAULT_VOCAB_SIZE)
    return data


# -----------------------------------------------------------------------------
# The embedded corpus. Every corpus has `facts`, `rows` by split (None: nobody knows), batches(split) and samples().

def source_files(root):
    """Return the paths of the corpus in sorted order, relative to the standard library's folder."""
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - LEFT_OUT
        paths += [(Path(folder) / name).relative_to(root) for name in names if name.endswith(".py")]
    return sorted(paths)


def split_of(path):
    """Return the split of a file: a hash of its name, the same on every machine."""
    digest = hashlib.sha256(path.as_posix().encode()).digest()
    return SPLIT_OF_TENTH[int.from_bytes(digest[:4], "big") % 10]


def read_corpus(limit_files=None):
    """Return split -> texts, and a hash of every name and content."""
    root = Path(sysconfig.get_path("stdlib"))
    texts, digest = {split: [] for split in SPLITS}, hashlib.sha256()
    for path in source_files(root)[:limit_files]:
        raw = (root / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(raw)}\0".encode() + raw)
        texts[split_of(path)].append(raw.decode("utf-8", errors="replace"))
    return {split: [text for text in texts[split] if text] for split in SPLITS}, digest.hexdigest()


class StandardLibrary:
    """The sources of the Python standard library on this machine."""

    def __init__(self, limit_files=None):
        self.texts, digest = read_corpus(limit_files)
        self.rows = {split: len(self.texts[split]) for split in SPLITS}
        self.facts = {"corpus": "python standard library", "python": platform.python_version(), "corpus_sha256": digest}

    def batches(self, split):
        texts = self.texts[split]
        return (texts[i:i + BATCH_FILES] for i in range(0, len(texts), BATCH_FILES))

    def samples(self):
        return self.texts["train"]


# -----------------------------------------------------------------------------
# Tokenising: batches of documents go through threads and onto disk, a bounded number of them in memory

def in_order(pool, function, items, ahead):
    """Yield function(item) of every item in order, with so many under way at once."""
    waiting = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def tokenise(tokenizer, dtype, batches):
    """Yield the tokens of each batch of texts, one after another (n,), and their lengths (documents,)."""
    n_threads = len(os.sched_getaffinity(0))
    def encode(texts):
        ids = tokenizer.encode(texts)
        return np.concatenate(ids).astype(dtype), [len(one) for one in ids]
    with concurrent.futures.ThreadPoolExecutor(n_threads) as pool:
        yield from in_order(pool, encode, batches, BATCHES_AHEAD * n_threads)


def write_header(file, n):
    """Write the start of an .npy file of n int64: as long for every n, so that it can be written again at the end."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (n,)})
    return file.tell()


def write_split(folder, split, encoded, rows):
    """Write the token file and offsets of one split as its documents come; return how many there were."""
    n_documents, n_tokens = 0, 0
    with (open(folder / f"{split}.bin", "wb") as tokens, open(folder / f"{split}.offsets.npy", "wb") as offsets,
          tqdm(desc=split, total=rows, unit="doc", unit_scale=True, disable=None) as bar):
        n_header = write_header(offsets, 0)
        offsets.write(bytes(8))
        for ids, lengths in encoded:
            tokens.write(ids)
            offsets.write(n_tokens + np.cumsum(lengths, dtype="<i8"))
            n_documents, n_tokens = n_documents + len(lengths), n_tokens + len(ids)
            bar.update(len(lengths))
        offsets.seek(0)
        assert write_header(offsets, n_documents + 1) == n_header
    if n_tokens == 0:
        raise EmptySplit(split)
    return {"documents": n_documents, "tokens": n_tokens}


def write_data(folder, corpus, vocab_size):
    tokenizer = Tokenizer.train(corpus.samples(), vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    np.save(folder / "token_bytes.npy", tokenizer.byte_lengths())
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "int32"
    splits = {split: write_split(folder, split, tokenise(tokenizer, dtype, corpus.batches(split)), corpus.rows[split])
              for split in SPLITS}
    manifest = {**corpus.facts, "vocab_size": tokenizer.vocab_size, "bos": tokenizer.bos, "dtype": dtype, "splits": splits}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


# -----------------------------------------------------------------------------
# Whole or not there

@contextlib.contextmanager
def beside(out):
    """Yield an empty folder beside `out` that is renamed to it if all goes well, and is gone if not.

    A lock of the kernel says that its writer lives; what a killed one left behind is removed.
    """
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        take(lock, partial, out)
        try:
            for path in partial.iterdir():
                path.unlink()
            yield partial
            sync(partial)
            rename(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def take(lock, partial, out):
    """Lock the folder for this process; raise OutBusy if another has it, or had it until just now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(lock), partial.stat())
    except (BlockingIOError, FileNotFoundError):
        same = False
    if not same:
        raise OutBusy(out)


def sync(folder):
    """Have the disk hold every file of a folder."""
    for path in [*folder.iterdir(), folder]:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def rename(partial, out):
    check_free(out)
    os.rename(partial, out) # replaces an empty folder


def check_free(out):
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutTaken(out)


def write_whole(out, vocab_size, make_corpus):
    """Prepare the corpus that make_corpus() returns in folder `out`; return the manifest."""
    out = Path(out).absolute()
    if vocab_size < LEAST_VOCAB_SIZE:
        raise VocabularyTooSmall(vocab_size, LEAST_VOCAB_SIZE)
    try:
        check_free(out)
        with beside(out) as partial:
            write_data(partial, make_corpus(), vocab_size)
        return read_manifest(out)
    except OSError as error:
        raise DiskFailed(error) from error


def prepare(out, vocab_size, limit_files=None):
    """Prepare the embedded corpus in folder `out`."""
    return write_whole(out, vocab_size, lambda: StandardLibrary(limit_files))


def prepare_shards(out, corpus, vocab_size=DEFAULT_SHARDS_VOCAB_SIZE, n_train=None, val=None, lockbox=None,
                   url=None, tokenizer_chars=DEFAULT_TOKENIZER_CHARS, **patience):
    """Prepare parquet shards in folder `out`: "climbmix" or a folder. The feeder's processes never import what reads them."""
    from nanochat import shards
    def make():
        if corpus == "climbmix":
            return shards.climbmix(url, n_train, val, lockbox, tokenizer_chars, **patience)
        return shards.local(corpus, n_train, val, lockbox, tokenizer_chars)
    return write_whole(out, vocab_size, make)


# -----------------------------------------------------------------------------
# The command

def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="python -m nanochat.dataset", description="Prepare the data of a run.")
    add = parser.add_argument
    add("--out", required=True, help="folder to write; must be absent or empty")
    add("--corpus", default="stdlib", help="stdlib, climbmix, or a folder of parquet files with a column `text` (default: stdlib)")
    add("--vocab-size", type=positive, help=f"tokens of the BPE vocabulary (default: {DEFAULT_VOCAB_SIZE} for stdlib, else {DEFAULT_SHARDS_VOCAB_SIZE})")
    add("--shards", type=int, help="training shards (default: 24 of climbmix, all of a folder; stdlib has none)")
    add("--val-shard", help="file name of the validation shard (climbmix: shard_06542.parquet)")
    add("--lockbox-shard", help="file name of the lockbox shard (climbmix: shard_06541.parquet)")
    add("--url", help="where climbmix's shards lie, for a mirror")
    add("--tokenizer-chars", type=positive, help=f"characters of training text that the tokenizer learns from (default: {DEFAULT_TOKENIZER_CHARS})")
    add("--limit-files", type=positive, help="use the first N files of stdlib only")
    args = parser.parse_args(argv)
    refuse_strangers(parser, args)
    return args


def refuse_strangers(parser, args):
    """End on a flag that means nothing to the corpus; --shards may always be given."""
    strangers = {"stdlib": ("val_shard", "lockbox_shard", "url", "tokenizer_chars"), "climbmix": ("limit_files",)}
    for name in strangers.get(args.corpus, ("limit_files", "url")):
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} means nothing with --corpus {args.corpus}; leave it out")


def main():
    args = parse_args()
    with sentences():
        if args.corpus == "stdlib":
            manifest = prepare(args.out, args.vocab_size or DEFAULT_VOCAB_SIZE, args.limit_files)
        else:
            manifest = prepare_shards(
                args.out, args.corpus, args.vocab_size or DEFAULT_SHARDS_VOCAB_SIZE, args.shards, args.val_shard,
                args.lockbox_shard, args.url, args.tokenizer_chars or DEFAULT_TOKENIZER_CHARS,
            )
    print(json.dumps(manifest))


if __name__ == "__main__":
    main()
