"""Downloads from a server that misbehaves: every case ends with the whole file or with one sentence."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_server import CONTENT, QUICK, Handler, Site, cut_after, honest, linked, serving, stall, status, tag

from nanochat import download, mistakes

SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as site:
        yield site


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
