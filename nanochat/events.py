"""What a training run tells: lines of events.jsonl, the same on the terminal, its pace, and how it ended."""

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections import deque
from pathlib import Path

import torch

from nanochat.common import peak_flops
from nanochat.distributed import mean, rank, world_size
from nanochat.mistakes import SaveFailed

CURVE_POINTS = 190 # lines of events.jsonl, about
EXIT_DIVERGED = 3
UNTIMED_STEPS = 10 # compiling, warming up: customary
DIVERGED_FACTOR = 2.0 # a loss this many times that of guessing has diverged


def is_before(event, step):
    return event.get("step", 0) <= step and not event.keys() & {"checkpoint", "status"}


class Events:
    """Lines of events.jsonl, thinned to a few hundred, and the same on the terminal; rank 0 alone tells.

    A training that goes on after some step keeps the lines of the steps up to it.
    """

    def __init__(self, folder, after_step=0):
        self.path = folder / "events.jsonl" if folder and rank() == 0 else None
        self.slot = -1
        if self.path:
            lines = self.path.read_text().splitlines(keepends=True) if after_step and self.path.exists() else []
            self.path.write_text("".join(line for line in lines if is_before(json.loads(line), after_step)))

    def step(self, progress, step, tokens, seconds, train_loss):
        slot = int(progress * CURVE_POINTS)
        if slot > self.slot:
            self.slot = slot
            self.say(f"step {step:6d} | {100 * progress:5.1f} % | {seconds:8.2f} s | loss {train_loss:.4f}")
            self.write({"step": step, "tokens": tokens, "seconds": round(seconds, 4), "train_loss": train_loss})

    def write(self, event):
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(event) + "\n")

    def say(self, text):
        if rank() == 0:
            print(text, flush=True)


class Meter:
    """Losses and seconds of steps that are over; on a GPU they are known one step late, so that nobody waits for it.

    Seconds count from the end of the 10th step of a process. `agreed_seconds` are the same on every rank, as of the step's
    launch: what decides when a budget of time is over.
    """

    def __init__(self, device, vocab_size, seconds=0.0):
        self.device, self.bound = device, DIVERGED_FACTOR * math.log(vocab_size)
        self.lag = 1 if device.type == "cuda" else 0
        self.pending = deque() # (step, values in host memory, event)
        self.done, self.earlier, self.seconds, self.agreed_seconds = 0, seconds, seconds, seconds
        self.started = None
        self.diverged = None # what to tell about it

    def push(self, step, loss):
        """Note the mean loss of a step, a tensor on the device that may still be computing."""
        loss = loss.detach().double()
        values, event = mean(torch.stack((loss, torch.full_like(loss, self.clock())))), None
        if self.device.type == "cuda":
            values = torch.empty(2, dtype=torch.double, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((step, values, event))

    def clock(self):
        return self.earlier + (time.monotonic() - self.started if self.started else 0.0)

    @contextlib.contextmanager
    def paused(self):
        """Count no seconds while something else than training is done; every step must be over."""
        began = time.monotonic()
        yield
        if self.started:
            self.started += time.monotonic() - began

    def finished(self, everything=False):
        """Yield (step, loss) of steps that are known to be over, oldest first."""
        while len(self.pending) > (0 if everything else self.lag):
            step, values, event = self.pending.popleft()
            if event:
                event.synchronize()
            loss, self.agreed_seconds = values.tolist()
            self.seconds = self.clock()
            self.done += 1
            if self.done == UNTIMED_STEPS:
                self.started = time.monotonic()
            self.judge(step, loss)
            yield step, loss

    def judge(self, step, loss):
        if not self.diverged and not loss <= self.bound: # NaN is not
            reason = f"a loss over {self.bound:.2f} nats" if math.isfinite(loss) else "a loss that is not finite"
            self.diverged = {"status": "diverged", "step": step, "train_loss": str(loss), "reason": reason}


def output_folder(out):
    """Return the folder to write to, or None: `out`, else the working directory of a candidate under evaluation."""
    folder = Path(out) if out else Path.cwd() if "EVOLVE_CHANNEL" in os.environ else None
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveFailed(folder, error.strerror) from error
    return folder


def speed(tokens, seconds, flops_per_token, device):
    """Return tokens per second and the part of the devices' peak in use (MFU); None where it is not known."""
    if seconds <= 0:
        return {"tokens_per_s": None, "mfu": None}
    peak = peak_flops(device)
    mfu = tokens / seconds * flops_per_token / (peak * world_size()) if peak else None
    return {"tokens_per_s": round(tokens / seconds, 1), "mfu": mfu and round(mfu, 4)}


def peak_memory_bytes(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
