"""The corpus: text that is already on this machine, split by file name, tokenised once into memory-mapped files.

    python -m nanochat.dataset --out DIR [--vocab-size 4096] [--limit-files N]

DIR then holds, for each split, `SPLIT.bin` (the tokens of all documents, without BOS) and `SPLIT.offsets.npy` (where each
document starts, and the end), and `tokenizer.json`, `token_bytes.npy`, `manifest.json`. One document is one source file of
the Python standard library.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sysconfig
from pathlib import Path

import numpy as np

from nanochat.common import cache_dir
from nanochat.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 4096
SPLITS = ("train", "val", "lockbox")
SPLIT_OF_TENTH = ("train",) * 8 + ("val", "lockbox")
LEFT_OUT = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "site-packages", "test", "tests", "turtledemo"}


class DataMissing(Exception):
    """A data directory does not hold a prepared data set."""

    def __init__(self, path):
        super().__init__(f"{path} holds no prepared data: run `python -m nanochat.dataset --out {path}` first.")


# -----------------------------------------------------------------------------
# Reading what was prepared

class TokenFile:
    """One split: `tokens` (n,) on disk, `offsets` (documents + 1,)."""

    def __init__(self, data, split):
        data = Path(data)
        self.manifest = read_manifest(data)
        self.tokens = np.memmap(data / f"{split}.bin", dtype=self.manifest["dtype"], mode="r")
        self.offsets = np.load(data / f"{split}.offsets.npy")


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
# Preparing

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


def write_split(folder, split, documents, dtype):
    """Write the token file and offsets of one split; documents are lists of token ids."""
    offsets = np.cumsum([0] + [len(ids) for ids in documents]).astype(np.int64)
    np.concatenate([np.array(ids, dtype=dtype) for ids in documents]).tofile(folder / f"{split}.bin")
    np.save(folder / f"{split}.offsets.npy", offsets)
    return {"documents": len(documents), "tokens": int(offsets[-1])}


def write_data(folder, vocab_size, limit_files):
    texts, corpus_hash = read_corpus(limit_files)
    assert all(texts.values()), "a split has no files: allow more"
    tokenizer = Tokenizer.train(texts["train"], vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    np.save(folder / "token_bytes.npy", tokenizer.byte_lengths())
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "int32"
    splits = {split: write_split(folder, split, tokenizer.encode(texts[split]), dtype) for split in SPLITS}
    manifest = {
        "corpus": "python standard library", "python": platform.python_version(), "corpus_sha256": corpus_hash,
        "vocab_size": tokenizer.vocab_size, "bos": tokenizer.bos, "dtype": dtype, "splits": splits,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def prepare(out, vocab_size, limit_files=None):
    """Prepare the data set in folder `out`: written beside it and renamed, so that it is whole or not there."""
    out = Path(out)
    partial = out.parent / f"{out.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        write_data(partial, vocab_size, limit_files)
        os.rename(partial, out) # replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return read_manifest(out)


def main():
    parser = argparse.ArgumentParser(prog="python -m nanochat.dataset", description="Prepare the embedded corpus.")
    parser.add_argument("--out", required=True, help="folder to write; must be absent or empty")
    parser.add_argument("--vocab-size", type=int, default=DEFAULT_VOCAB_SIZE, help="tokens of the BPE vocabulary")
    parser.add_argument("--limit-files", type=int, help="use the first N files only")
    args = parser.parse_args()
    print(json.dumps(prepare(args.out, args.vocab_size, args.limit_files)))


if __name__ == "__main__":
    main()
