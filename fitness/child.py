"""What a child is, and the last steps of a forked process before it becomes one. Standard library only."""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import importlib.util
import os
import resource
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn

CHANNEL = 3  # the file descriptor of a child's channel, also told in EVOLVE_CHANNEL
FILE_BYTES = 64 << 30  # largest file a child may write
OPEN_FILES = 4096
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Spec:
    """Everything that makes a child. Its environment is `env` and nothing else."""

    argv: Sequence[str]
    cwd: str
    log: str  # file that gets what it prints, capped
    timeout_s: float
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    out: str | None = None  # file for standard output, if it is to be kept apart from the log
    memory_bytes: int | None = None
    log_bytes: int = 1 << 20


def become(spec: Spec, stdout: int, stderr: int, channel: int | None) -> Callable[[], object]:
    """Turn this freshly forked process into the child, up to its first line of code; the caller runs the result."""
    die_with_parent()
    os.setsid()
    _place_files(stdout, stderr, channel)
    _limit(spec)
    os.chdir(spec.cwd)
    os.environ.clear()
    os.environ.update(spec.env)
    if spec.argv[0] == sys.executable and len(spec.argv) > 1:
        if spec.argv[1] == "-m" and len(spec.argv) > 2:
            return lambda: _run_python(spec, spec.argv[2:], is_module=True)
        if not spec.argv[1].startswith("-"):
            return lambda: _run_python(spec, spec.argv[1:], is_module=False)
    return lambda: _execute(spec.argv)


def die_with_parent() -> None:
    """Have the kernel kill this process when the process that forked it dies."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """Call prctl(2); OSError if it fails."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _place_files(stdout: int, stderr: int, channel: int | None) -> None:
    """Leave only: empty standard input, the two outputs, and the channel."""
    wanted = [os.open(os.devnull, os.O_RDONLY), stdout, stderr, *([] if channel is None else [channel])]
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in wanted]  # out of the way of 0 to 3
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=True)
    os.closerange(len(moved), OPEN_FILES)


def _limit(spec: Spec) -> None:
    """Set resource limits. RLIMIT_DATA for memory: RLIMIT_AS would break CUDA's address reservations."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: FILE_BYTES, resource.RLIMIT_NOFILE: OPEN_FILES}
    if spec.memory_bytes is not None:
        limits[resource.RLIMIT_DATA] = spec.memory_bytes
    for which, value in limits.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


def _execute(argv: Sequence[str]) -> None:
    """Replace this process by any other program."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(argv[0], list(argv))
    except OSError as error:
        sys.exit(f"cannot run {argv[0]!r}: {error.strerror or errno.errorcode[error.errno or 0]}")


def _run_python(spec: Spec, argv: Sequence[str], is_module: bool) -> NoReturn:
    """Run a module or script here, as `python` would, in the interpreter that has the preloaded modules.

    It then ends without taking the interpreter apart, which with torch in it costs 0.3 s; a traceback is worth that.
    """
    sys.excepthook = _print_traceback
    code = 0
    try:
        _run_main(spec, argv, is_module)
    except SystemExit as ending:
        code = _exit_code(ending.code)
    threading._shutdown()  # type: ignore[attr-defined]  # wait for its threads
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _run_main(spec: Spec, argv: Sequence[str], is_module: bool) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed child keeps its last lines
    _reseed()
    _prefer(Path(spec.cwd))
    sys.argv = list(argv)
    if is_module:
        sys.path.insert(0, spec.cwd)
        _refuse_foreign(argv[0].partition(".")[0], Path(spec.cwd))
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = list(dict.fromkeys([str((Path(spec.cwd) / argv[0]).parent), spec.cwd]))
        runpy.run_path(argv[0], run_name="__main__")


def _exit_code(code: object) -> int:
    """Return the exit code that sys.exit(code) means; print what is no number."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _reseed() -> None:
    """Give a preloaded numpy a fresh global seed, else all children would draw the same 'random' numbers."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _prefer(workspace: Path) -> None:
    """Forget imported modules that the workspace has its own of: an installed copy would hide every patch."""
    own = {entry.stem for entry in workspace.glob("*.py")} | {
        entry.parent.name for entry in workspace.glob("*/__init__.py")
    }
    for name in [name for name in sys.modules if name.partition(".")[0] in own - set(sys.stdlib_module_names)]:
        del sys.modules[name]


def _refuse_foreign(name: str, workspace: Path) -> None:
    """Exit if `name` would be imported from elsewhere although the workspace has it."""
    if not (workspace / name).is_dir() and not (workspace / f"{name}.py").is_file():
        return
    found = importlib.util.find_spec(name)
    places = [] if found is None else [found.origin or "", *(found.submodule_search_locations or [])]
    if not any(Path(place).resolve().is_relative_to(workspace.resolve()) for place in places if place):
        sys.exit(f"refused: {name!r} would be imported from {places}, not from the workspace; add {name}/__init__.py")


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback that begins where the child's own code does."""
    while trace is not None and trace.tb_frame.f_code.co_filename in ("<string>", __file__, "<frozen runpy>"):
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)
