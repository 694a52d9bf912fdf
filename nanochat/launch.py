"""Start one training on several GPUs of this machine, or on several processes of its CPU.

    python -m nanochat.launch --processes 8 nanochat.base_train --depth 24

Each process learns from RANK, LOCAL_RANK and WORLD_SIZE who it is, as under torchrun; rank 0 keeps the channel to a feeder.
With one process the module runs in this one. The exit code is that of a process that failed; the rest are then ended, as they
are when this one is.
"""

import argparse
import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

from nanochat.mistakes import sentences

POLL_S = 0.05
PR_SET_PDEATHSIG = 1
GRACE_S = 10.0


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def die_with_parent():
    """Have the kernel end this rank when its launcher is gone, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(rank, processes, port, command):
    """Start one rank; only rank 0 gets the channel."""
    who = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **{name: str(value) for name, value in who.items()}}
    channel = environment.pop("EVOLVE_CHANNEL", None)
    if channel and rank == 0:
        environment["EVOLVE_CHANNEL"] = channel
        return subprocess.Popen(command, env=environment, pass_fds=[int(channel)], preexec_fn=die_with_parent)
    return subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)


def end(children):
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(children):
    """Return 0 when all have ended well, or the exit code of one that has not."""
    while True:
        codes = [child.poll() for child in children]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(POLL_S)


def launch(processes, arguments):
    """Run `python -m MODULE ARGS...` as so many processes that know of each other; return the exit code."""
    port, command = free_port(), [sys.executable, "-m", *arguments]
    children = [start(rank, processes, port, command) for rank in range(processes)]
    try:
        code = wait_for(children)
    finally:
        end(children)
    return 128 - code if code < 0 else code


def main():
    parser = argparse.ArgumentParser(prog="python -m nanochat.launch", description="Start one training as several processes.")
    parser.add_argument("--processes", type=int, default=1, help="one for each GPU")
    parser.add_argument("module", help="nanochat.base_train")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f"--processes is {args.processes}; it must be 1 or more")
    if args.processes == 1:
        sys.argv = [args.module, *args.arguments]
        runpy.run_module(args.module, run_name="__main__", alter_sys=True)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        with sentences():
            sys.exit(launch(args.processes, [args.module, *args.arguments]))


if __name__ == "__main__":
    main()
