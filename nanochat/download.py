"""Downloads over HTTP(S): resumed, checked and retried, several at once; a file is whole or not there.

`NAME.partial` beside the target holds what has arrived, `NAME.partial.json` what the server said of the file when it began:
only bytes of that same file are ever appended. A kernel lock on the partial file keeps a second process waiting.

The checksum is the X-Linked-Etag of a redirect (as Hugging Face answers), or an ETag of 64 hex digits where there was no
redirect: storage behind one has tags of 64 hex digits that are hashes of something else.

What is not covered: servers that want a login, and bytes that change where the server names no checksum.
"""

import concurrent.futures
import contextlib
import datetime
import email.utils
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, astuple, dataclass

from tqdm import tqdm

from nanochat.mistakes import DownloadFailed

ATTEMPTS = 7
TIMEOUT_S = 30.0 # without a byte, or with fewer than STALL_BYTES
STALL_BYTES = 1 << 14
BACKOFF_S = 1.0 # doubles with every attempt
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 600.0
CHUNK_BYTES = 1 << 20
PARALLEL = 4
RETRIED_STATUS = {408, 429} # and 5xx; every other 4xx is final


class BrokenOff(Exception):
    """An attempt failed in a way that the next may not."""

    def __init__(self, reason, wait_s=0.0):
        super().__init__(reason)
        self.wait_s = wait_s


class Stopped(Exception):
    """Another download failed, or the user stopped them all."""


# -----------------------------------------------------------------------------
# What a server says of a file

@dataclass(frozen=True)
class Facts:
    """Of one file; None where the server does not say."""

    size: int | None
    sha256: str | None
    etag: str | None # a strong one: the same tag means the same bytes

    def agree(self, other):
        """Say whether both are about the same bytes: nothing differs that both know."""
        return all(a == b for a, b in zip(astuple(self), astuple(other)) if a is not None and b is not None)

    def identifies(self):
        """Say whether another answer can be told to be about the same file."""
        return bool(self.sha256 or self.etag)


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps what they say of the file they lead to."""

    def __init__(self):
        self.followed, self.sha256, self.size = False, None, None

    def redirect_request(self, request, response, code, message, headers, url):
        self.followed = True
        self.sha256 = checksum(headers.get("X-Linked-Etag")) or self.sha256
        self.size = number(headers.get("X-Linked-Size")) or self.size
        return super().redirect_request(request, response, code, message, headers, url)


def checksum(tag):
    """Return the sha256 that an entity tag is, or None."""
    found = re.fullmatch(r'(?:W/)?"?([0-9a-fA-F]{64})"?', (tag or "").strip())
    return found[1].lower() if found else None


def number(text):
    return int(text) if text and text.strip().isdigit() else None


def content_range(headers):
    """Return the first byte and the size of the whole file, None where they are not told."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", (headers.get("Content-Range") or "").strip())
    return (int(found[1]), number(found[2])) if found else (None, None)


def read_facts(response, redirects):
    headers = response.headers
    etag = headers.get("ETag")
    sha256 = redirects.sha256 or checksum(headers.get("X-Linked-Etag")) or (None if redirects.followed else checksum(etag))
    size = content_range(headers)[1] if response.status == 206 else number(headers.get("Content-Length"))
    if None not in (size, redirects.size) and size != redirects.size:
        raise BrokenOff(f"the server announces {redirects.size} bytes and then {size}")
    return Facts(redirects.size if size is None else size, sha256, None if not etag or etag.startswith("W/") else etag)


def retry_after_s(headers):
    """Return the seconds that a server asks to wait: a number or a date."""
    text = (headers.get("Retry-After") or "").strip()
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError):
        then = email.utils.parsedate_to_datetime(text)
        return max(0.0, (then - datetime.datetime.now(then.tzinfo)).total_seconds())
    return 0.0


def check_url(url):
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and re.fullmatch(r"[!-~]+", url)
    except ValueError:
        good = False
    if not good:
        raise DownloadFailed(url, "it is no http or https address")


# -----------------------------------------------------------------------------
# One file

class Download:
    """One file on its way: `file` is the open partial file, `facts` what the server said when it began."""

    def __init__(self, url, target, file, timeout_s, progress, stop):
        self.url, self.target, self.file = url, target, file
        self.timeout_s, self.progress, self.stop = timeout_s, progress, stop
        self.memory = partial_of(target).with_suffix(".partial.json")
        self.facts = self.remember()
        self.arrived = os.fstat(file.fileno()).st_size
        if self.arrived and not (self.facts and self.facts.identifies()):
            self.discard()

    def remember(self):
        """Return what was written down of the partial file, None if it cannot be read."""
        try:
            return Facts(**json.loads(self.memory.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def discard(self):
        self.progress.add(-self.arrived)
        self.file.seek(0)
        self.file.truncate()
        self.arrived, self.facts = 0, None

    def whole(self):
        return self.facts is not None and self.facts.size == self.arrived

    def attempt(self):
        """Fetch what is missing and check it; raise BrokenOff if another attempt may do better."""
        if not self.whole(): # else a process was killed before it could rename
            redirects = Redirects()
            with self.open(redirects) as response:
                self.begin(response, read_facts(response, redirects))
                self.copy(response)
        self.verify()

    def open(self, redirects):
        headers = {"User-Agent": "nanochat-dataset"}
        if self.arrived:
            headers["Range"] = f"bytes={self.arrived}-"
            headers |= {"If-Range": self.facts.etag} if self.facts.etag else {}
        try:
            opener = urllib.request.build_opener(redirects)
            return opener.open(urllib.request.Request(self.url, headers=headers), timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self.refusal(error) from None
        except http.client.InvalidURL as error:
            raise DownloadFailed(self.url, str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(error) from None

    def refusal(self, error):
        """Return the exception for an HTTP status that is an error."""
        answer = f"the server answers {error.code} {error.reason}"
        if error.code == 416: # there is no such rest: it is another file
            self.discard()
            return BrokenOff(answer)
        if error.code in RETRIED_STATUS or error.code >= 500:
            return BrokenOff(answer, retry_after_s(error.headers))
        return DownloadFailed(self.url, answer)

    def failure(self, error):
        """Return the exception for a connection that did not come about, or broke."""
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return DownloadFailed(self.url, f"its certificate is not trusted ({reason.verify_message})")
        if isinstance(reason, TimeoutError):
            return BrokenOff(f"no answer within {self.timeout_s:g} s")
        told = " ".join(str(getattr(reason, "strerror", None) or reason).split())
        return BrokenOff(f"the network fails ({told or type(reason).__name__})")

    def begin(self, response, facts):
        """Have the partial file stand where this answer begins."""
        if response.status == 206:
            first, _ = content_range(response.headers)
            if first != self.arrived or not (self.facts and self.facts.agree(facts)):
                self.discard()
                raise BrokenOff("the file on the server has changed")
        elif response.status == 200: # from its start: the first time, or the server knows no ranges, or has another file
            self.discard()
            self.facts = facts
            self.memory.write_text(json.dumps(asdict(facts)))
        else:
            raise DownloadFailed(self.url, f"the server answers {response.status}")
        if facts.size is None and facts.sha256 is None:
            raise DownloadFailed(self.url, "the server names neither size nor checksum, so that a part looks like the whole")
        self.progress.announce(self.target, self.facts.size)

    def copy(self, response):
        """Append what comes until the file is whole."""
        mark_s, marked = time.monotonic(), self.arrived
        while not self.whole() and (block := self.read(response)):
            self.file.write(block)
            self.arrived += len(block)
            self.progress.add(len(block))
            if self.stop.is_set():
                raise Stopped
            if time.monotonic() - mark_s > self.timeout_s:
                if self.arrived - marked < STALL_BYTES:
                    raise BrokenOff(f"only {self.arrived - marked} bytes came in {self.timeout_s:g} s")
                mark_s, marked = time.monotonic(), self.arrived
        if self.facts.size is not None and not self.whole():
            raise BrokenOff(f"the connection was closed after {self.arrived} of {self.facts.size} bytes")

    def read(self, response):
        """Return the next bytes as soon as there are any, none at the end; never more than are missing."""
        missing = CHUNK_BYTES if self.facts.size is None else self.facts.size - self.arrived
        try:
            return response.read1(min(CHUNK_BYTES, missing))
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(error) from None

    def verify(self):
        self.file.flush()
        os.fsync(self.file.fileno())
        if self.facts.sha256 and sha256_of(partial_of(self.target)) != self.facts.sha256:
            self.discard()
            raise BrokenOff("what arrived does not have the checksum that the server names")

    def finish(self):
        """Give the file its name."""
        os.replace(partial_of(self.target), self.target)
        self.memory.unlink()
        folder = os.open(self.target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def partial_of(target):
    return target.with_name(target.name + ".partial")


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url, target, progress, stop, timeout_s=TIMEOUT_S, backoff_s=BACKOFF_S, attempts=ATTEMPTS):
    """Download url to the path `target`, unless it is there; raise DownloadFailed after so many attempts."""
    check_url(url)
    partial = partial_of(target)
    if target.exists():
        return
    with open(partial, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if target.exists(): # another process had the lock
            partial.unlink(missing_ok=True)
            return
        download = Download(url, target, file, timeout_s, progress, stop)
        keep_trying(download, backoff_s, attempts)
        download.finish()


def keep_trying(download, backoff_s, attempts):
    for i in range(attempts):
        try:
            return download.attempt()
        except BrokenOff as broken:
            reason, asked_s = str(broken), broken.wait_s
        if asked_s > MAX_RETRY_AFTER_S:
            raise DownloadFailed(download.url, f"{reason} and asks to wait {asked_s:.0f} s")
        if i + 1 < attempts:
            wait_s = max(asked_s, random.uniform(0.5, 1.0) * min(MAX_BACKOFF_S, backoff_s * 2**i))
            download.progress.tell(f"{download.target.name}: {reason}; trying again in {wait_s:.1f} s")
            if download.stop.wait(wait_s):
                raise Stopped
    raise DownloadFailed(download.url, f"{reason} (attempt {attempts} of {attempts})")


# -----------------------------------------------------------------------------
# Several files

class Progress:
    """A bar over the bytes of several files; sizes that are not known yet are guessed from the others."""

    def __init__(self, n_files):
        self.n_files, self.sizes, self.lock = n_files, {}, threading.Lock()
        self.bar = tqdm(desc="download", unit="B", unit_scale=True, disable=None)

    def add(self, n_bytes):
        with self.lock:
            self.bar.update(n_bytes)

    def announce(self, target, size):
        with self.lock:
            self.sizes[target] = size or 0
            self.bar.total = round(sum(self.sizes.values()) / len(self.sizes) * self.n_files)

    def tell(self, line):
        with self.lock:
            self.bar.clear()
            print(line, file=sys.stderr, flush=True)


def fetch_all(urls, parallel=PARALLEL, **patience):
    """Download {target: url}, several at once; the first failure stops the others. Return how many were not there yet."""
    missing = {target: url for target, url in urls.items() if not target.exists()}
    if not missing:
        return 0
    stop, progress = threading.Event(), Progress(len(missing))
    with contextlib.closing(progress.bar), concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        futures = [pool.submit(fetch, url, target, progress, stop, **patience) for target, url in missing.items()]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally: # nothing is left to stop if all went well
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return len(missing)
