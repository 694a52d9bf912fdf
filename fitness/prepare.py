"""The target's data: its `prepare` command, run once per base into a folder that all runs share."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from fitness.child import Spec
from fitness.commands import PLACEHOLDER, fill
from fitness.launch import Ended, ForkServer, child_environment
from fitness.mistakes import PrepareFailed
from fitness.reports import read_start, tail
from fitness.target import Target
from fitness.workspace import frozen_hash, read_base

TIMEOUT_S = 24 * 3600.0
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def prepare(target: Target, base: Path, folder: Path, say: Callable[[str], None] = lambda line: None) -> Path | None:
    """Return the target's data directory under `folder`, made now if it is not there; None if the target needs none.

    It is named by a hash of the frozen files and the command. Callers in other processes wait for the first. `say` is
    told where to watch a command that is about to run.
    """
    if not target.prepare:
        return None
    data = folder.resolve() / _name(target, base)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(data.with_suffix(".lock")):
        if not data.is_dir():
            say(f"data          preparing it, once for this base; watch {data.with_suffix('.log')}")
            _make(target, base.resolve(), data)
    return data


def _name(target: Target, base: Path) -> str:
    frozen = frozen_hash(base, read_base(base, target.editable).files)
    named = {name for word in target.prepare for name in PLACEHOLDER.findall(word)}
    used = sorted((name, value) for name, value in target.variables.items() if name in named)
    recipe = json.dumps([frozen, target.prepare, used])
    return hashlib.sha256(recipe.encode()).hexdigest()[:16]


def _make(target: Target, base: Path, data: Path) -> None:
    beside, scratch = data.with_suffix(".tmp"), data.with_suffix(".scratch")
    for directory in (beside, scratch):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    log = data.with_suffix(".log")
    ended = _run(target, base, beside, scratch, log)
    shutil.rmtree(scratch, ignore_errors=True)
    if not ended.ok:
        how = "was ended" if ended.code is None else f"failed with exit code {ended.code}"
        raise PrepareFailed(how, tail(read_start(log)))
    beside.rename(data)


def _run(target: Target, base: Path, beside: Path, scratch: Path, log: Path) -> Ended:
    values = {**target.variables, "python": sys.executable, "data": beside, "workspace": base}
    passed_on = {name: os.environ[name] for name in PROXIES if name in os.environ}
    passed_on["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # downloads stay
    server = ForkServer(target.preload, target.threads)
    try:
        env = child_environment(server.env, base, scratch, passed_on)
        argv = fill(target.prepare, values)
        return server.spawn(Spec(argv, str(base), str(log), TIMEOUT_S, env)).ended()
    finally:
        server.close()


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock on a file; the kernel frees it however this process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
