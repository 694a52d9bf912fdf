"""Score the bundled target as fitness does, without a sandbox: four processes, forked from one that has torch."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch._dynamo  # noqa: F401  (imported once, shared by every child; an optimiser imports it)

from evolve.target_files import load_target

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
FORK = multiprocessing.get_context("fork")


def preset(name: str = "cpu") -> dict[str, dict]:
    """Return rung name -> its fields, of a preset of the bundled target; variables are filled into its command."""
    target = load_target("nanochat", name)
    filled = {rung.name: [with_variables(word, target.variables) for word in rung.command] for rung in target.rungs}
    return {rung.name: asdict(rung) | {"command": filled[rung.name]} for rung in target.rungs}


def with_variables(word: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def module_child(arguments: list[str], ends: tuple[socket.socket, ...], cwd: Path, answer: object) -> None:
    """Run `python -m MODULE ...` in this forked process, on the first end; send what its last line of output says."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("EVOLVE_CHANNEL", None)
    if ends:
        os.environ["EVOLVE_CHANNEL"] = str(ends[0].fileno())
    for end in ends[1:]:
        end.close()  # or nobody would ever see the channel close
    os.chdir(cwd)
    sys.path[0], sys.argv = str(ROOT), arguments
    output = io.StringIO()
    with redirect_stdout(output):
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    answer.send(output.getvalue().strip().splitlines()[-1:])  # type: ignore[attr-defined]


def start(arguments: list[str], ends: tuple[socket.socket, ...], cwd: Path) -> Callable[[], dict]:
    """Start a child; return a function that waits for it and returns its last line, decoded if it is JSON."""
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=module_child, args=(arguments, ends, cwd, sender))
    child.start()
    sender.close()

    def join() -> dict:
        try:
            lines = receiver.recv()
        except EOFError:
            lines = []
        child.join()
        return json.loads(lines[0]) if lines and lines[0].startswith("{") else {"exit_code": child.exitcode}

    return join


def pair(left: list[str], right: list[str], cwd: Path) -> tuple[dict, dict, float]:
    """Run two modules joined by a channel; return what both said and the seconds it took."""
    began = time.monotonic()
    a, b = socket.socketpair()
    join_left = start(left, (a, b), cwd)
    a.close()
    join_right = start(right, (b,), cwd)
    b.close()
    return join_left(), join_right(), time.monotonic() - began


def score(flags: list[str], data: Path, seed: int, tokens: int, eval_tokens: int, split: str = "val") -> dict:
    """Train with these flags and judge: the verdict, what the feeder said, and seconds of both phases."""
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        trainer = ["nanochat.base_train", *flags, "--seed", str(seed)]
        feeder = ["nanochat.dataloader", "--data", str(data), "--tokens", str(tokens), "--seed", str(seed)]
        judge = ["nanochat.loss_eval", "--data", str(data), "--split", split, "--tokens", str(eval_tokens)]
        _, fed, train_s = pair(trainer, feeder, cwd)
        checkpoint = cwd / "checkpoint.safetensors"
        if not checkpoint.exists():
            return {"status": "no checkpoint"}
        server = ["nanochat.serve", str(checkpoint)]
        _, verdict, judge_s = pair(server, [*judge, "--checkpoint", str(checkpoint)], cwd)
        events = [json.loads(line) for line in (cwd / "events.jsonl").read_text().splitlines()]
    return verdict | {"fed": fed, "train_s": train_s, "judge_s": judge_s, "events": events}


def prepared(folder: Path, vocab_size: int) -> Path:
    """Prepare the data set of the preset, unless it is there."""
    if not folder.exists():
        start(["nanochat.dataset", "--out", str(folder), "--vocab-size", str(vocab_size)], (), ROOT)()
    return folder
