"""The engine's end of the fork server: starts it, asks it for children, and learns how they ended."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGKILL
from weakref import WeakSet

from fitness.child import Spec
from fitness.mistakes import PreloadFailed

PROJECT = Path(__file__).parent.parent
BOOT = """import sys
sys.path[0] = sys.argv[1]
import fitness.forkserver
del sys.path[0]
fitness.forkserver.serve(int(sys.argv[2]), sys.argv[3:])()"""
PASSED_ON = ("LD_LIBRARY_PATH", "CUDA_HOME")  # all that children get of the engine's environment
REPORT_BYTES = 1 << 16
GRACE_S = 10.0  # for a process whose partner has ended
STOP_S = 10.0  # for a fork server to end, its keepers included


@dataclass(frozen=True)
class Ended:
    """How a child ended. `code` is its exit code, -n for signal n, None if it was ended from outside."""

    code: int | None
    timed_out: bool = False
    killed: bool = False  # by us, before its time
    wall_s: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Return whether it ended by itself and without an error."""
        return self.code == 0

    @property
    def was_shot(self) -> bool:
        """Return whether somebody else killed it; where we did not, that is the kernel, short of memory."""
        return self.code in (-SIGKILL, 128 + SIGKILL)


class ServerClosed(Exception):
    """A child was asked for after close(): the engine is ending."""


class KeeperLost(Exception):
    """A child's keeper died, or its fork server did before it had one: nothing is known about the child."""


class Running:
    """A child that runs. Ask for its end exactly once; one that is forgotten is killed."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self._is_killed = False

    def __del__(self) -> None:
        self._report.close()

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when the child has ended."""
        return self._report.fileno()

    def kill(self) -> None:
        """Begin to kill the child and all its descendants."""
        self._is_killed = True
        try:
            self._report.shutdown(socket.SHUT_WR)
        except OSError:  # it has ended already
            return

    def ended(self) -> Ended:
        """Wait for the end; by then no descendant is left.

        Raises OSError if this machine failed, KeeperLost if the keeper did.
        """
        with self._report:
            report = b"".join(iter(lambda: self._report.recv(REPORT_BYTES), b""))
        if not report and not self._is_killed:
            raise KeeperLost
        if not report:
            return Ended(code=None, killed=True)
        values = json.loads(report)
        if "errno" in values:
            raise OSError(values["errno"], values["strerror"], values["filename"])
        return Ended(**values)


class ForkServer:
    """Starts children. Any thread may ask; a server that died is started again."""

    def __init__(self, preload: Sequence[str] = (), threads: int = 1) -> None:
        self._preload = tuple(preload)
        self.env = clean_environment(threads)
        self._lock = threading.Lock()
        self._closed = False
        self._children: WeakSet[Running] = WeakSet()
        self._start()

    def spawn(self, spec: Spec, channel: socket.socket | None = None) -> Running:
        """Start a child; `channel` stays open here until the caller closes it."""
        ours, theirs = socket.socketpair()
        fds = [theirs.fileno(), *([] if channel is None else [channel.fileno()])]
        child = Running(ours)
        with self._lock, theirs:
            if self._closed:
                raise ServerClosed
            self._ask(json.dumps(asdict(spec)).encode(), fds)
            self._children.add(child)
        return child

    def close(self) -> None:
        """Kill every child, and wait until they and the server have ended. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for child in list(self._children):
                child.kill()
            self._stop()

    @property
    def pid(self) -> int:
        """Return the process id of the server."""
        return self._process.pid

    def _ask(self, message: bytes, fds: Sequence[int]) -> None:
        try:
            socket.send_fds(self._control, [message], fds)
        except (BrokenPipeError, ConnectionResetError):
            self._stop()
            self._start()
            socket.send_fds(self._control, [message], fds)

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(PROJECT), str(theirs.fileno()), *self._preload],
                env=self.env,
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        answer = json.loads(self._control.recv(REPORT_BYTES) or b'{"error": "the fork server died"}')
        if "error" in answer:
            self._stop()
            raise PreloadFailed(self._preload, answer["error"])

    def _stop(self) -> None:
        self._control.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def clean_environment(threads: int) -> dict[str, str]:
    """Return the environment of children: fixed values, and nothing of ours but where libraries lie."""
    count = str(threads)
    own_bin = os.path.dirname(sys.executable)
    return {
        "PATH": f"{own_bin}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/nonexistent",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
    }


def child_environment(
    base: Mapping[str, str], workspace: Path, scratch: Path, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return `base` for a child in `workspace`, with `scratch` as its home and for its temporary files."""
    places = {"PYTHONPATH": str(workspace), "HOME": str(scratch), "TMPDIR": str(scratch)}
    return {**base, **places, **extra}


def wait_for(children: Sequence[Running], timeout_s: float | None) -> list[Running]:
    """Return those of `children` that have ended, waiting at most timeout_s for the first."""
    poll = select.poll()
    for child in children:
        poll.register(child.fileno(), select.POLLIN)
    ready = {fd for fd, _ in poll.poll(None if timeout_s is None else 1000 * timeout_s)}
    return [child for child in children if child.fileno() in ready]


def together(
    server: ForkServer, lead: Spec, other: Spec | None, linger_s: float, is_fatal: Callable[[Ended], bool]
) -> tuple[Ended, Ended | None]:
    """Run `lead`, joined by a channel to `other` if there is one, until both have ended.

    When `lead` ends, `other` may linger. When `other` ends first and that is fatal, `lead` gets a grace.
    """
    if other is None:
        return server.spawn(lead).ended(), None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        second, first = server.spawn(other, theirs), server.spawn(lead, ours)
    if first not in wait_for([first, second], None):
        second_end = second.ended()
        if is_fatal(second_end):
            wait_for([first], GRACE_S)
            first.kill()
        return first.ended(), second_end
    first_end = first.ended()
    wait_for([second], linger_s)
    second.kill()
    return first_end, second.ended()
