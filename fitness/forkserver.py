"""The fork server: imports the target's preload modules once, then forks a keeper for every child. Single-threaded.

Importing torch costs seconds, a fork milliseconds. It must do nothing else: a process forked after a threaded matmul
hangs. It starts with an empty environment, so no secret of the engine is in its memory or its /proc/<pid>/environ.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import sys
import time
import weakref
from collections.abc import Callable, Sequence

from fitness.child import Spec, prctl
from fitness.keeper import PR_SET_CHILD_SUBREAPER, Usage, end_all_children, keep

MESSAGE_BYTES = 1 << 20
LAST_WAIT_S = 5.0


def serve(control_fd: int, preload: Sequence[str]) -> Callable[[], object]:
    """Fork keepers on request until the engine hangs up. Only children return: with the code they are to run."""
    control = socket.socket(fileno=control_fd)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    _answer(control, preload)
    _forget_finalizers()
    gc.collect()
    gc.freeze()  # children must not touch, and so copy, what is shared
    keepers: set[int] = set()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        if not poll.poll(1000):
            keepers = _tidy(keepers)
            continue
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            _leave(keepers)
        pid = os.fork()
        if pid == 0:
            control.close()
            return keep(Spec(**json.loads(message)), fds)
        keepers.add(pid)
        for fd in fds:
            os.close(fd)
        keepers = _tidy(keepers)


def _answer(control: socket.socket, preload: Sequence[str]) -> None:
    """Import the preload modules and say how it went: an empty object, or the reason why not."""
    try:
        for name in preload:
            importlib.import_module(name)
    except ImportError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        sys.exit(1)
    control.send(b"{}")


def _forget_finalizers() -> None:
    """Keep children from taking apart at their exit what they did not make: for torch that is 50 ms a child."""
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False


def _tidy(keepers: set[int]) -> set[int]:
    """Reap keepers that ended, and kill the orphans of any that was killed; return the keepers that live."""
    usage = Usage()
    end_all_children(usage, spare=frozenset(keepers))
    return keepers - usage.reaped


def _leave(keepers: set[int]) -> None:
    """Wait a little for keepers to end their children, then end."""
    limit = time.monotonic() + LAST_WAIT_S
    while keepers and time.monotonic() < limit:
        time.sleep(0.01)
        keepers = _tidy(keepers)
    os._exit(0)
