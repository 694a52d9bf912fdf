"""The data pipeline: shards of parquet from the server to the token files, and every mistake on the way."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_server import QUICK, serving

from nanochat import dataset, mistakes, shards
from nanochat.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
WORDS = ["the", "quick", "brown", "fox", "jumps", "日本", "naïve", "cafés", "<|bos|>", "12345", "don't", "tokens\n"]


def texts(seed: int, n: int = 150) -> list[str | None]:
    draw = np.random.default_rng(seed)
    made: list[str | None] = [" ".join(draw.choice(WORDS, size=int(draw.integers(1, 60)))) for _ in range(n)]
    made[3:5] = ["", None]
    return made


def parquet(documents: list[str | None], path: Path, column: str = "text", kind: pa.DataType | None = None) -> Path:
    table = pa.table({"id": list(range(len(documents))), column: pa.array(documents, kind or pa.string())})
    pq.write_table(table, path, row_group_size=40)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed, name in enumerate(["a", "b", "c", "d"]):
        parquet(texts(seed), folder / f"{name}.parquet")
    return folder


def decoded(data: Path, split: str) -> list[bytes]:
    file, tokenizer = dataset.TokenFile(data, split), Tokenizer.load(data / "tokenizer.json")
    return [tokenizer.decode(file.tokens[a:b]) for a, b in itertools.pairwise(file.offsets)]


def raw(*seeds: int) -> list[bytes]:
    return [text.encode() for seed in seeds for text in texts(seed) if text]


def prepared(folder: Path, out: Path, **choice: object) -> dict:
    return dataset.prepare_shards(out, str(folder), vocab_size=300, **choice)


def test_documents_of_shards_come_back_from_their_tokens_in_order(folder, tmp_path):
    manifest = prepared(folder, tmp_path / "data")
    data = tmp_path / "data"
    assert decoded(data, "train") == raw(0, 1)
    assert decoded(data, "lockbox") == raw(2)
    assert decoded(data, "val") == raw(3)
    assert manifest["splits"]["train"]["documents"] == len(raw(0, 1))
    assert manifest["splits"]["val"]["tokens"] == len(dataset.TokenFile(data, "val").tokens)
    assert manifest["shards"]["val"] == [
        {
            "name": "d.parquet",
            "sha256": hashlib.sha256((folder / "d.parquet").read_bytes()).hexdigest(),
            "bytes": (folder / "d.parquet").stat().st_size,
        }
    ]
    assert dataset.TokenFile(data, "train").tokens.max() < manifest["bos"]
    lengths = np.load(data / "token_bytes.npy")
    assert lengths[dataset.TokenFile(data, "val").tokens].sum() == sum(map(len, raw(3)))


def test_preparing_shards_twice_gives_the_same_bytes(folder, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert prepared(folder, first) == prepared(folder, second)
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "mine", "second"]


def test_offsets_are_what_numpy_itself_would_have_saved(folder, tmp_path):
    prepared(folder, tmp_path / "data")
    path = tmp_path / "data" / "train.offsets.npy"
    offsets = np.load(path)
    assert offsets.dtype == np.int64
    np.save(tmp_path / "again.npy", offsets)
    assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_files_named_val_and_lockbox_are_held_out(folder, tmp_path):
    (folder / "a.parquet").rename(folder / "val.parquet")
    (folder / "b.parquet").rename(folder / "lockbox.parquet")
    prepared(folder, tmp_path / "data")
    assert [decoded(tmp_path / "data", split) for split in dataset.SPLITS] == [raw(2, 3), raw(0), raw(1)]


def test_flags_name_the_shards_that_are_held_out(folder, tmp_path):
    prepared(folder, tmp_path / "data", val="a.parquet", lockbox="c.parquet", n_train=1)
    assert [decoded(tmp_path / "data", split) for split in dataset.SPLITS] == [raw(1), raw(0), raw(2)]


@pytest.mark.parametrize("n_train", [1, 24, 6541])
@pytest.mark.parametrize(
    ("val", "lockbox"), [(None, None), ("shard_00003.parquet", None), (None, "shard_00000.parquet")]
)
def test_what_is_held_out_of_climbmix_is_never_trained_on(monkeypatch, tmp_path, n_train, val, lockbox):
    asked: dict[str, list[Path]] = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shards, "fetch_all", lambda urls: None)
    monkeypatch.setattr(shards, "Shards", lambda name, paths, *_, **__: asked.update(paths))
    shards.climbmix(None, n_train, val, lockbox, 1)
    names = {split: [path.name for path in paths] for split, paths in asked.items()}
    assert names["val"] == [val or "shard_06542.parquet"]
    assert names["lockbox"] == [lockbox or "shard_06541.parquet"]
    assert len(set(names["train"])) == n_train
    assert not {*names["val"], *names["lockbox"]} & set(names["train"])
    assert asked["val"][0].parent == tmp_path / "nanochat" / "climbmix"


def test_shards_are_downloaded_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving() as site:
        for seed, i in enumerate([0, 1, 6541, 6542]):
            path = parquet(texts(seed), tmp_path / f"{i}.parquet")
            site.files[f"/data/shard_{i:05d}.parquet"] = path.read_bytes()
        choice = {"vocab_size": 300, "n_train": 2, "url": f"{site.url}/data/", **QUICK}
        manifest = dataset.prepare_shards(tmp_path / "one", "climbmix", **choice)
        assert len(site.requests) == 4
        assert manifest["url"] == f"{site.url}/data"
        assert [decoded(tmp_path / "one", split) for split in dataset.SPLITS] == [raw(0, 1), raw(3), raw(2)]
        assert dataset.prepare_shards(tmp_path / "two", "climbmix", **choice) == manifest
        assert len(site.requests) == 4
        with pytest.raises(mistakes.DownloadFailed, match="404"):
            dataset.prepare_shards(tmp_path / "three", "climbmix", **{**choice, "n_train": 3})
    assert not (tmp_path / "three").exists()


def test_the_tokenizer_sees_the_starts_of_training_documents_and_no_more_than_it_may(folder):
    long = "x" * 30_000
    parquet(["short", long, "y" * 9_000], folder / "a.parquet")
    samples = list(shards.local(folder, 1, None, None, 18_000).samples())
    assert [len(text) for text in samples] == [5, 10_000, 7_995]
    assert {text[0] for text in samples} == {"s", "x", "y"}


def test_text_that_a_regular_expression_gives_up_on_is_encoded_all_the_same(folder, tmp_path):
    blanks = "a" + " " * 1_200_000 + "b"
    parquet([blanks, "short"], folder / "d.parquet")
    prepared(folder, tmp_path / "data")
    assert decoded(tmp_path / "data", "val") == [blanks.encode(), b"short"]


def test_one_row_group_of_large_strings_is_read_in_small_pieces(tmp_path):
    path = tmp_path / "one.parquet"
    pq.write_table(pa.table({"text": pa.array([f"document {i}" for i in range(1000)], pa.large_string())}), path)
    read = list(shards.documents(path))
    assert max(map(len, read)) <= shards.BATCH_DOCUMENTS
    assert [text for batch in read for text in batch] == [f"document {i}" for i in range(1000)]


def test_few_batches_are_under_way_at_once_and_they_stay_in_order():
    started: list[int] = []

    class Pool:
        def submit(self, function, item):
            started.append(item)
            future: Future[int] = Future()
            future.set_result(function(item))
            return future

    for seen, result in enumerate(dataset.in_order(Pool(), lambda n: 10 * n, range(100), ahead=5)):
        assert result == 10 * seen
        assert len(started) <= seen + 6
    assert seen == 99


# Mistakes


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:1500] = os.urandom(1496)  # pages; the footer still says all is well
    path.write_bytes(data)


def invalid_utf8(path: Path) -> None:
    raw_text = pa.array([b"\xff\xfe broken"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw_text}), path)


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (corrupt, mistakes.ShardUnreadable, "cannot be read as a parquet file"),
        (invalid_utf8, mistakes.ShardUnreadable, "cannot be read as a parquet file"),
        (lambda path: path.write_bytes(b"<html>not here</html>"), mistakes.ShardUnreadable, "run the command again"),
        (lambda path: path.write_bytes(b""), mistakes.ShardUnreadable, "cannot be read"),
        (lambda path: parquet(texts(9), path, column="body"), mistakes.NoTextColumn, r"body \(string\)"),
        (lambda path: parquet([b"x"], path, kind=pa.binary()), mistakes.NoTextColumn, r"text \(binary\)"),
        (lambda path: parquet([], path), mistakes.EmptyShard, "no document"),
        (lambda path: parquet(["", None], path), mistakes.EmptyShard, "no document"),
    ],
)
@pytest.mark.parametrize("name", ["a.parquet", "d.parquet"])
def test_a_shard_that_cannot_be_used_is_one_sentence_and_leaves_nothing(folder, tmp_path, name, spoil, kind, says):
    spoil(folder / name)
    with pytest.raises(kind, match=says) as mistake:
        prepared(folder, tmp_path / "data")
    assert name in str(mistake.value)
    assert "\n" not in str(mistake.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ({"n_train": 0}, mistakes.TooFewShards),
        ({"n_train": 3}, mistakes.TooFewShards),
        ({"val": "z.parquet"}, mistakes.ShardMissing),
        ({"val": "a.parquet", "lockbox": "a.parquet"}, mistakes.ShardTwice),
    ],
)
def test_a_choice_of_shards_that_cannot_be_is_refused(folder, tmp_path, choice, kind):
    with pytest.raises(kind):
        prepared(folder, tmp_path / "data", **choice)


def test_text_that_is_held_out_under_another_name_is_refused(folder, tmp_path):
    shutil.copy(folder / "d.parquet", folder / "b.parquet")
    with pytest.raises(mistakes.ShardTwice, match=r"b\.parquet .*d\.parquet"):
        prepared(folder, tmp_path / "data")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_folder_with_too_few_files_is_refused(tmp_path, n):
    for seed in range(n):
        parquet(texts(seed), tmp_path / f"{seed}.parquet")
    with pytest.raises(mistakes.TooFewShards):
        prepared(tmp_path, tmp_path / "data")


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path):
    with pytest.raises(mistakes.VocabularyTooSmall, match="257 or more"):
        dataset.prepare(tmp_path / "data", vocab_size=256)


def test_nothing_is_ever_written_over(folder, tmp_path):
    out = tmp_path / "data"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(mistakes.OutTaken):
        prepared(folder, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_nothing(folder, tmp_path):
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(mistakes.DiskFailed, match="free space"):
            prepared(folder, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_second_writer_of_a_folder_is_refused_while_the_first_lives(folder, tmp_path):
    with dataset.beside(tmp_path / "data"), pytest.raises(mistakes.OutBusy):
        prepared(folder, tmp_path / "data")


KILLED = """
import signal, sys
from nanochat import dataset

def half(folder, *_):
    (folder / "train.bin").write_bytes(b"half")
    print("now", flush=True)
    signal.pause()

dataset.write_split = half
dataset.prepare_shards(sys.argv[1], sys.argv[2], 300)
"""


def test_what_a_killed_process_left_behind_does_not_matter(folder, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        child.send_signal(signal.SIGKILL)
    assert (tmp_path / "data.partial" / "train.bin").exists()
    assert not (tmp_path / "data").exists()
    prepared(folder, tmp_path / "data")
    assert decoded(tmp_path / "data", "train") == raw(0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mine"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run the command in this process; return its exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dataset", "--out", str(tmp_path / "data"), *arguments])
        try:
            dataset.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


def test_the_command_prepares_a_folder_of_shards(command, folder, tmp_path, capsys):
    assert (
        command("--out", str(tmp_path / "data"), "--corpus", str(folder), "--vocab-size", "300", "--shards", "2") == 0
    )
    told = capsys.readouterr()
    assert json.loads(told.out) == dataset.read_manifest(tmp_path / "data")
    assert told.err == ""  # no bars where there is no terminal


@pytest.mark.parametrize(
    "arguments",
    [
        ("--corpus", "wikipedia"),
        ("--corpus", "climbmix", "--url", "gopher://x"),
        ("--corpus", "climbmix", "--shards", "6542"),
        ("--corpus", "climbmix", "--limit-files", "3"),
        ("--val-shard", "x.parquet"),
        ("--vocab-size", "0"),
        ("--vocab-size", "100"),
        ("--limit-files", "1"),
    ],
)
def test_a_mistake_ends_the_command_with_one_sentence_and_code_2(command, tmp_path, capsys, arguments):
    assert command(*arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1]) > 30
    assert not (tmp_path / "data").exists()


def test_the_number_of_shards_means_nothing_to_the_embedded_corpus(tmp_path):
    args = dataset.parse_args(["--out", str(tmp_path), "--corpus", "stdlib", "--vocab-size", "1024", "--shards", "8"])
    assert (args.corpus, args.vocab_size) == ("stdlib", 1024)


def test_ctrl_c_ends_a_command_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as ended, mistakes.sentences():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
