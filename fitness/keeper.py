"""The keeper of one child: forks it, writes its log, ends it in time, and leaves no descendant of it alive.

It is the subreaper of the child: a descendant that called setsid or forked twice becomes the keeper's own child when
its parent dies, so killing and reaping until no child is left reaches all of them. It reports by one JSON object on a
socket; when the other end of that socket closes, the engine is gone, and the child goes too.

What is not covered: a descendant that kills the keeper itself. The fork server then kills what is orphaned.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from fitness.child import Spec, become, prctl

PR_SET_CHILD_SUBREAPER = 36
CHUNK = 1 << 16


@dataclass
class Usage:
    """What a child and its descendants used, as far as they were reaped."""

    status: int | None = None  # the wait status of the child itself
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    reaped: set[int] = field(default_factory=set[int])


class CappedLog:
    """A file that keeps the first and the last half of `limit` bytes: the head at once, the tail at the end."""

    def __init__(self, path: str, limit: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._head_left = self._tail_limit = limit // 2
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Take some output."""
        head, rest = data[: self._head_left], data[self._head_left :]
        _write_all(self._file, head)
        self._head_left -= len(head)
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_limit:
            self._lose(len(self._tail.popleft()))

    def close(self) -> None:
        """Write the tail, and how much is missing between it and the head."""
        tail = b"".join(self._tail)
        surplus = max(0, len(tail) - self._tail_limit)
        self._lose(surplus)
        if self._lost:
            _write_all(self._file, b"\n[... %d bytes left out ...]\n" % self._lost)
        _write_all(self._file, tail[surplus:])
        os.close(self._file)

    def _lose(self, count: int) -> None:
        self._lost += count
        self._tail_bytes -= count


def keep(spec: Spec, fds: list[int]) -> Callable[[], object]:
    """Be the keeper of a new child. Only the child returns from here: with the code it is to run."""
    report = socket.socket(fileno=fds[0])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    started = time.monotonic()
    try:
        pipes = {os.pipe(): log for log in _open_logs(spec)}
        pid = os.fork()
    except OSError as error:
        _finish(report, _failure(error))
    if pid:
        for fd in [writer for _, writer in pipes] + fds[1:]:
            os.close(fd)
        _look_after(spec, pid, {reader: log for (reader, _), log in pipes.items()}, report, started)
    report.close()  # now, not when it is collected: its number may be the channel's by then
    writers = [writer for _, writer in pipes]
    return become(spec, writers[-1], writers[0], fds[1] if len(fds) > 1 else None)


def _look_after(spec: Spec, pid: int, logs: dict[int, CappedLog], report: socket.socket, started: float) -> NoReturn:
    try:
        ending = _watch(spec, pid, logs, report, started)
    except OSError as error:
        end_all_children(Usage(), pid)
        ending = _failure(error)
    _finish(report, ending)


def end_all_children(usage: Usage, main: int | None = None, spare: frozenset[int] = frozenset()) -> None:
    """Kill and reap children, and their orphans as they arrive, until only those in `spare` are left."""
    while True:
        if not _reap(usage, main):
            return
        doomed = [pid for pid in _children() if pid not in spare]
        if not doomed:
            return
        for pid in doomed:
            os.kill(pid, signal.SIGKILL)  # cannot fail: an unreaped child of ours keeps its number
        time.sleep(0.001)


def _open_logs(spec: Spec) -> list[CappedLog]:
    paths = [spec.log] if spec.out is None else [spec.log, spec.out]
    return [CappedLog(path, spec.log_bytes) for path in paths]


def _watch(
    spec: Spec, pid: int, logs: dict[int, CappedLog], report: socket.socket, started: float
) -> dict[str, object]:
    """Pump output until the child ends, its time is up, or the engine hangs up; then end everything."""
    for reader in logs:
        os.set_blocking(reader, False)
    why = _pump(pid, logs, report, started + spec.timeout_s)
    wall_s = time.monotonic() - started
    usage = Usage()
    end_all_children(usage, pid)
    for reader, log in logs.items():
        for chunk in _available(reader):
            log.write(chunk)
        log.close()
    status = usage.status
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return {
        "code": code if why == "ended" else None,
        "timed_out": why == "timed_out",
        "killed": why == "killed",
        "wall_s": wall_s,
        "cpu_s": usage.cpu_s,
        "max_rss_bytes": usage.max_rss_bytes,
    }


def _pump(pid: int, logs: dict[int, CappedLog], report: socket.socket, deadline: float) -> str:
    """Copy output into the logs; return `ended`, `timed_out` or `killed`."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    for fd in (ended, report.fileno(), *logs):
        poll.register(fd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(1000 * min(left, 3600)):
            if fd == ended:
                return "ended"
            if fd == report.fileno():
                return "killed"
            if not _copy_once(fd, logs[fd]):
                poll.unregister(fd)
    return "timed_out"


def _copy_once(reader: int, log: CappedLog) -> bool:
    chunk = os.read(reader, CHUNK)
    log.write(chunk)
    return bool(chunk)


def _available(reader: int) -> Iterator[bytes]:
    """Yield what is still in a pipe; every writer is dead."""
    try:
        while chunk := os.read(reader, CHUNK):
            yield chunk
    except BlockingIOError:
        return


def _reap(usage: Usage, main: int | None) -> bool:
    """Collect every child that has ended; return whether any child is left."""
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        usage.reaped.add(pid)
        usage.cpu_s += used.ru_utime + used.ru_stime
        usage.max_rss_bytes = max(usage.max_rss_bytes, used.ru_maxrss * 1024)
        if pid == main:
            usage.status = status


def _children() -> list[int]:
    """Return the ids of this process's children. By scanning /proc: not every kernel lists them."""
    me, found = os.getpid(), list[int]()
    for name in os.listdir("/proc"):
        if name.isdigit() and _parent(name) == me:
            found.append(int(name))
    return found


def _parent(name: str) -> int | None:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:  # it ended meanwhile
        return None


def _failure(error: OSError) -> dict[str, object]:
    return {"errno": error.errno, "strerror": error.strerror, "filename": error.filename}


def _finish(report: socket.socket, ending: dict[str, object]) -> NoReturn:
    """Report and end this process, without the interpreter's own ending: it is a fork of the server."""
    try:
        report.sendall(json.dumps(ending).encode())
    except OSError:  # the engine is gone
        os._exit(1)
    os._exit(0)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
