"""The data pipeline: downloads from a server that misbehaves, and shards of parquet end to end."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import dataset, download, mistakes, shards
from nanochat.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
CONTENT = bytes(range(256)) * 400  # 102400 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = {"timeout_s": 0.2, "backoff_s": 0.001, "attempts": 4}

Answer = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    """Plays the next scripted answer of its site, else serves the file honestly, with ranges."""

    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, dict(self.headers)))
        answer = next(self.site.script, honest)
        answer(self)

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", send: int | None = None, **headers: str) -> None:
        """Announce the body and send its first `send` bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:send])


class Site(http.server.ThreadingHTTPServer):
    """A loopback server: what it holds, what it will do next, what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), type("Bound", (Handler,), {"site": self}))
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.script: Iterator[Answer] = iter(())
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()

    def will(self, *answers: Answer) -> None:
        self.script = iter(answers)

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def honest(handler: Handler) -> None:
    body = handler.site.files.get(handler.path)
    if body is None:
        return handler.reply(404)
    wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
    if wanted is None or condition not in (None, tag(body)):
        return handler.reply(200, body, ETag=tag(body))
    first = int(wanted.removeprefix("bytes=").removesuffix("-"))
    span = f"bytes {first}-{len(body) - 1}/{len(body)}"
    return handler.reply(206, body[first:], ETag=tag(body), Content_Range=span)


def cut_after(n: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(200, CONTENT, send=n, **{"ETag": tag(CONTENT), **headers})


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(code, b"no", **headers)


def stall(handler: Handler) -> None:
    handler.reply(200, CONTENT, send=1000, ETag=tag(CONTENT))
    handler.site.over.wait(5)


def linked(location: str, body: bytes = CONTENT, sha256: str | None = None) -> Answer:
    """Redirect as Hugging Face does: the headers are about the file, not about the answer."""
    digest = sha256 or hashlib.sha256(body).hexdigest()
    return status(302, Location=location, X_Linked_Etag=f'"{digest}"', X_Linked_Size=str(len(body)))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def get(site: Site, folder: Path, name: str = "file", **patience: float) -> Path:
    """Download one file; check that nothing but the whole file is there afterwards."""
    target = folder / "file"
    download.fetch_all({target: f"{site.url}/{name}"}, **{**QUICK, **patience})
    assert [path.name for path in folder.iterdir()] == ["file"]
    return target


def refused(site: Site, folder: Path, name: str = "file", **patience: float) -> str:
    """Try to download one file; return the sentence and check that the file is not there."""
    with pytest.raises(mistakes.DownloadFailed) as failed:
        get(site, folder, name, **patience)
    assert not (folder / "file").exists()
    assert "\n" not in str(failed.value)
    return str(failed.value)


# Downloads


def test_a_file_arrives_whole_and_is_not_asked_for_again(site, tmp_path):
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None]


def test_an_early_close_is_resumed_where_it_broke(site, tmp_path):
    site.will(cut_after(40_000))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=40000-"]
    assert site.requests[1][1]["If-Range"] == tag(CONTENT)


def test_a_later_process_resumes_what_an_earlier_one_left(site, tmp_path):
    site.will(cut_after(40_000))
    refused(site, tmp_path, attempts=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.partial", "file.partial.json"]
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=40000-"]


def test_a_whole_file_that_was_not_renamed_is_not_downloaded_again(site, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT)
    (tmp_path / "file.partial.json").write_text(json.dumps({"size": len(CONTENT), "sha256": SHA256, "etag": None}))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert not site.requests


@pytest.mark.parametrize("memory", [None, "{", '{"size": 102400, "sha256": null, "etag": null}', "[]"])
def test_bytes_that_nobody_knows_the_origin_of_are_not_appended_to(site, tmp_path, memory):
    (tmp_path / "file.partial").write_bytes(b"x" * 500)
    if memory:
        (tmp_path / "file.partial.json").write_text(memory)
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None]


def test_a_stall_is_noticed_and_resumed(site, tmp_path):
    site.will(stall)
    began = time.monotonic()
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - began < 3
    assert site.ranges() == [None, "bytes=1000-"]


def test_a_trickle_that_never_pauses_for_long_is_a_stall_too(site, tmp_path):
    def trickle(handler: Handler) -> None:
        handler.reply(200, CONTENT, send=0, ETag=tag(CONTENT))
        for i in range(200):
            handler.wfile.write(CONTENT[i : i + 1])
            if handler.site.over.wait(0.02):
                return

    site.will(trickle)
    assert "only" in refused(site, tmp_path, attempts=1)


def test_a_server_error_is_tried_again(site, tmp_path):
    site.will(status(500), status(503))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 3


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(site, tmp_path, code):
    site.will(status(code, Retry_After="0.3"))
    began = time.monotonic()
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert 0.3 <= time.monotonic() - began < 2


def test_a_server_that_asks_to_wait_for_hours_is_an_end(site, tmp_path):
    site.will(status(429, Retry_After="7200"))
    assert "asks to wait 7200 s" in refused(site, tmp_path)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("120", 120, 120),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2115 07:28:00 GMT", 2e9, 4e9),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, least, most):
    assert least <= download.retry_after_s({"Retry-After": text}) <= most


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_other_refusals_are_final(site, tmp_path, code):
    site.will(status(code))
    assert f"the server answers {code}" in refused(site, tmp_path)
    assert len(site.requests) == 1


def test_attempts_are_bounded_and_the_sentence_says_why(site, tmp_path):
    site.will(*[status(502)] * 9)
    assert "the server answers 502" in refused(site, tmp_path)
    assert len(site.requests) == 4


def test_a_server_that_ignores_ranges_sends_the_file_from_its_start(site, tmp_path):
    site.will(cut_after(40_000), cut_after(len(CONTENT)))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=40000-"]


def test_a_file_that_changes_under_us_is_never_mixed(site, tmp_path):
    site.will(cut_after(40_000))
    site.files["/file"] = CONTENT[::-1]
    assert get(site, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_that_ignores_the_condition_of_a_range_is_caught_by_its_tag(site, tmp_path):
    other = CONTENT[::-1]

    def careless(handler: Handler) -> None:
        span = f"bytes 40000-{len(other) - 1}/{len(other)}"
        handler.reply(206, other[40_000:], ETag=tag(other), Content_Range=span)

    site.files["/file"] = other
    site.will(cut_after(40_000), careless)
    assert get(site, tmp_path).read_bytes() == other


def test_a_range_that_starts_elsewhere_is_not_appended(site, tmp_path):
    def elsewhere(handler: Handler) -> None:
        span = f"bytes 39000-{len(CONTENT) - 1}/{len(CONTENT)}"
        handler.reply(206, CONTENT[39_000:], ETag=tag(CONTENT), Content_Range=span)

    site.will(cut_after(40_000), elsewhere)
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=40000-", None]


def test_a_rest_that_does_not_exist_restarts_the_file(site, tmp_path):
    site.will(cut_after(40_000), status(416))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=40000-", None]


def test_the_checksum_of_a_redirect_counts_and_the_tag_of_the_storage_behind_it_does_not(site, tmp_path):
    storage_tag = f'"{"ab" * 32}"'  # 64 hex digits of something else, as some storage has
    site.will(linked("/storage"), lambda handler: handler.reply(200, CONTENT, ETag=storage_tag))
    assert get(site, tmp_path).read_bytes() == CONTENT
    site.will(status(302, Location="/storage"), lambda handler: handler.reply(200, CONTENT, ETag=storage_tag))
    (tmp_path / "file").unlink()
    assert get(site, tmp_path).read_bytes() == CONTENT


def test_a_range_and_its_condition_travel_through_a_redirect(site, tmp_path):
    site.files["/storage"] = CONTENT
    site.will(linked("/storage"), cut_after(40_000), linked("/storage"))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == ["/file", "/storage"] * 2
    assert site.ranges() == [None, None, "bytes=40000-", "bytes=40000-"]


def test_a_redirect_to_a_new_version_restarts_the_file(site, tmp_path):
    new = CONTENT[::-1]
    site.files["/new"] = new
    site.will(linked("/old"), cut_after(40_000), linked("/new", new), honest, linked("/new", new))
    assert get(site, tmp_path).read_bytes() == new


def test_wrong_bytes_are_thrown_away_and_tried_again(site, tmp_path):
    wrong = bytes(len(CONTENT))
    site.files["/storage"] = CONTENT
    site.will(linked("/storage"), lambda handler: handler.reply(200, wrong), linked("/storage"))
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None] * 4


def test_bytes_that_stay_wrong_are_an_end(site, tmp_path):
    site.will(*[lambda handler: handler.reply(200, CONTENT, ETag=f'"{"0" * 64}"')] * 9)
    assert "checksum" in refused(site, tmp_path)
    assert len(site.requests) == 4


def test_sizes_that_contradict_each_other_are_not_believed(site, tmp_path):
    site.will(*[linked("/storage"), lambda handler: handler.reply(200, CONTENT[:-1])] * 4)
    assert "announces 102400 bytes and then 102399" in refused(site, tmp_path)


def test_an_answer_whose_end_nobody_could_tell_is_refused(site, tmp_path):
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(CONTENT)

    site.will(endless)
    assert "neither size nor checksum" in refused(site, tmp_path)


def test_an_empty_file_is_a_file(site, tmp_path):
    site.files["/file"] = b""
    assert get(site, tmp_path).read_bytes() == b""


def test_a_dead_network_is_one_sentence(tmp_path, site):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "the network fails (Connection refused)" in refused(site, tmp_path)


def test_what_speaks_no_http_is_one_sentence(site, tmp_path):
    site.will(*[lambda handler: handler.wfile.write(b"hello\r\n\r\n")] * 4)
    assert "the network fails" in refused(site, tmp_path)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x", "host/x", "http://", "http://a b/", "http://[::1"]
)
def test_only_addresses_of_the_web_are_opened(tmp_path, url):
    with pytest.raises(mistakes.DownloadFailed, match="no http or https address"):
        download.fetch_all({tmp_path / "file": url}, **QUICK)


def test_a_proxy_of_the_environment_is_used(site, tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", site.url)
    site.files["http://shards.invalid/file"] = CONTENT
    download.fetch_all({tmp_path / "file": "http://shards.invalid/file"}, **QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_several_files_arrive_at_once(site, tmp_path):
    together = threading.Barrier(3)

    def meet(handler: Handler) -> None:
        together.wait(5)  # breaks unless three are asked for at the same time
        honest(handler)

    site.files |= {f"/{i}": bytes([i]) * 1000 for i in range(3)}
    site.will(meet, meet, meet)
    urls = {tmp_path / str(i): f"{site.url}/{i}" for i in range(3)}
    assert download.fetch_all(urls, parallel=3, **{**QUICK, "timeout_s": 5}) == 3
    assert [(tmp_path / str(i)).read_bytes() for i in range(3)] == [site.files[f"/{i}"] for i in range(3)]
    assert download.fetch_all(urls) == 0


def test_the_first_failure_stops_the_others_and_is_the_one_that_is_told(site, tmp_path):
    urls = {tmp_path / f"{i}": f"{site.url}/{i}" for i in range(40)}
    site.files |= {f"/{i}": CONTENT for i in range(1, 40)}
    site.will(honest)
    site.files.pop("/1")
    with pytest.raises(mistakes.DownloadFailed, match="404"):
        download.fetch_all(urls, parallel=1, **QUICK)
    assert len(site.requests) < 40


def test_two_that_want_the_same_file_download_it_once(site, tmp_path):
    target, stop = tmp_path / "file", threading.Event()
    progress = download.Progress(2)

    def fetch() -> None:
        download.fetch(f"{site.url}/file", target, progress, stop, **QUICK)

    def slow(handler: Handler) -> None:
        time.sleep(0.1)
        honest(handler)

    site.will(slow)
    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(site.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Shards


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


def test_shards_are_downloaded_once_and_kept(site, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
            future: dataset.concurrent.futures.Future[int] = dataset.concurrent.futures.Future()
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
