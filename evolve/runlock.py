"""One writer: a lock on the run directory, held as long as a process works on the run and freed by its death."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from population.mistakes import Mistake

LOCK = "lock"  # the file in a run directory
PATIENCE_S = 0.5  # a look at the lock (is_live) takes it for a moment


class RunIsLive(Mistake):
    """Another process works on this run."""

    def __init__(self, run_dir: Path, pid: str) -> None:
        super().__init__(f"{run_dir} is in use by process {pid}, and a run has one writer; stop it or wait for its end")


class RunLock:
    """Holds the lock of a run directory from construction to close(); also a context manager."""

    def __init__(self, run_dir: Path) -> None:
        self._descriptor = os.open(_path(run_dir), os.O_RDWR | os.O_CREAT, 0o644)
        patient_until = time.monotonic() + PATIENCE_S
        while not _locked(self._descriptor, fcntl.LOCK_EX):
            if time.monotonic() > patient_until:
                pid = os.pread(self._descriptor, 32, 0).decode().strip()
                os.close(self._descriptor)
                raise RunIsLive(run_dir, pid)
            time.sleep(PATIENCE_S / 20)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Free the lock."""
        os.close(self._descriptor)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_live(run_dir: Path) -> bool:
    """Return whether a process holds the lock of this run directory."""
    if not _path(run_dir).is_file():
        return False
    descriptor = os.open(_path(run_dir), os.O_RDONLY)
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _path(run_dir: Path) -> Path:
    return run_dir / LOCK


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
