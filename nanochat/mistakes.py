"""What a user can get wrong here: one class each, whose constructor writes the whole sentence.

Mistake
|-- DataMissing         a folder holds no prepared data
|-- OutTaken            the folder to write is not empty
|-- OutBusy             another process is writing it
|-- DiskFailed          the disk is full, or a file cannot be read or written
|-- VocabularyTooSmall  fewer tokens than there are bytes
|-- EmptySplit          a split has no documents
|-- CorpusUnknown       neither a known name nor a folder
|-- TooFewShards        more training shards wanted than there are
|-- ShardMissing        a named shard is not in the folder
|-- ShardTwice          held-out text is training text as well
|-- ShardUnreadable     no parquet file, or a damaged one
|-- NoTextColumn        a parquet file without a column of text
|-- EmptyShard          a parquet file without a document
|-- DownloadFailed      the server refuses, or the network is gone
|-- OutOfData           training needs more than the epochs of the data
|-- KernelUnavailable   an attention kernel that was asked for by name cannot run here
|-- BatchIndivisible    a step is no whole number of forward passes
|-- NotResumable        a checkpoint that does not fit, or none
|-- NoGpu               a GPU was asked for by name
|-- HorizonTooShort     less than one step
|-- TrainingThere       the folder of a new training holds an old one
`-- SaveFailed          the folder of a training cannot be written
"""

import contextlib
import sys

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


class Mistake(Exception):
    """Something that a user can set right; the command line prints its sentence."""


@contextlib.contextmanager
def sentences():
    """End the process with one sentence, not with a traceback, on a mistake or Ctrl-C."""
    try:
        yield
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


class DataMissing(Mistake):
    def __init__(self, path):
        super().__init__(f"{path} holds no prepared data: run `python -m nanochat.dataset --out {path}` first.")


class OutTaken(Mistake):
    def __init__(self, out):
        super().__init__(f"{out} is not an empty folder, and nothing is ever written over: name another one, or remove it first.")


class OutBusy(Mistake):
    def __init__(self, out):
        super().__init__(f"Another process is preparing {out}: wait for it, or name another folder.")


class DiskFailed(Mistake):
    def __init__(self, error):
        where = f" ({error.filename})" if error.filename else ""
        super().__init__(f"The data cannot be read or written: {error.strerror or error}{where}; "
                         "free space, mend the permissions or name another folder; shards that were downloaded are kept.")


class VocabularyTooSmall(Mistake):
    def __init__(self, vocab_size, least):
        super().__init__(f"A vocabulary of {vocab_size} tokens is too small: every byte and <|bos|> need one, "
                         f"so --vocab-size must be {least} or more.")


class EmptySplit(Mistake):
    def __init__(self, split):
        super().__init__(f"The split {split} has no documents: allow more files or shards.")


class CorpusUnknown(Mistake):
    def __init__(self, corpus):
        super().__init__(f"The corpus {corpus!r} is neither stdlib nor climbmix nor a folder: "
                         "name one of them, or a folder of parquet files with a column `text`.")


class TooFewShards(Mistake):
    def __init__(self, wanted, there, where):
        super().__init__(f"{wanted} training shards are wanted, and {where} has {there} beside validation and lockbox: "
                         "--shards must lie between 1 and what is there.")


class ShardMissing(Mistake):
    def __init__(self, name, folder):
        super().__init__(f"{folder} has no shard {name}: --val-shard and --lockbox-shard name files in that folder.")


class ShardTwice(Mistake):
    def __init__(self, first, second):
        super().__init__(f"The shards {first} and {second} hold the same bytes, and what is held out must not be trained on: "
                         "take one away, or name others with --val-shard and --lockbox-shard.")


class ShardUnreadable(Mistake):
    def __init__(self, path, reason):
        super().__init__(f"{path} cannot be read as a parquet file: {reason}; "
                         "remove it, and if it was downloaded, run the command again.")


class NoTextColumn(Mistake):
    def __init__(self, path, columns):
        super().__init__(f"{path} has no column `text` of strings but {columns or 'none at all'}: "
                         "write the documents as strings into a column of that name.")


class EmptyShard(Mistake):
    def __init__(self, path):
        super().__init__(f"{path} holds no document that is not empty: take it away.")


class DownloadFailed(Mistake):
    def __init__(self, url, reason):
        super().__init__(f"{url} cannot be downloaded: {reason}; set the address or the network right and run the command "
                         "again: it goes on where it stopped.")


class OutOfData(Mistake):
    def __init__(self, n_tokens, epochs, wanted):
        enough = max(epochs + 1, -(-wanted // n_tokens))
        super().__init__(f"The training split holds {n_tokens:,} tokens, and {epochs} epoch(s) of it do not last for {wanted:,}: prepare "
                         f"more shards, train on fewer tokens, or allow more with --epochs {enough}.")


class BatchIndivisible(Mistake):
    def __init__(self, batch_tokens, rows, length, processes):
        super().__init__(f"A step of {batch_tokens} tokens is no multiple of {rows} rows x {length} tokens x {processes} "
                         "process(es): choose --device-batch-size and --total-batch-size so that it is.")


class NotResumable(Mistake):
    def __init__(self, folder, reason):
        super().__init__(f"{folder} holds no training to resume: {reason}.")


class NoGpu(Mistake):
    def __init__(self):
        super().__init__("--device-type cuda needs a GPU that this PyTorch can use, and there is none: "
                         "leave the flag out, or install a CUDA build of torch.")


class SaveFailed(Mistake):
    def __init__(self, folder, error):
        super().__init__(f"{folder} cannot be written ({error}): free space, mend the permissions or name another folder with --out; "
                         "a checkpoint that was whole before is still there.")


class HorizonTooShort(Mistake):
    def __init__(self, batch_tokens):
        super().__init__(f"The horizon is less than one step of {batch_tokens:,} tokens: give a larger one of --num-iterations, "
                         "--target-flops, --time-budget, --target-param-data-ratio, or a smaller --total-batch-size.")


class TrainingThere(Mistake):
    def __init__(self, folder):
        super().__init__(f"{folder} holds the checkpoints of another training: go on with it by --resume, or name another folder with --out.")


class KernelUnavailable(Mistake):
    def __init__(self, name, reason):
        super().__init__(f"The attention kernel {name!r} cannot run here: {reason}. "
                         "Ask for `auto`, or for `sdpa`, which runs everywhere.")
