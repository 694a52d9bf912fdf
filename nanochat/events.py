"""What a training run tells: a line of events.jsonl now and then, the same on the terminal, and how it ended."""

import json
import os
import resource
import sys
from pathlib import Path

import torch

CURVE_POINTS = 190 # lines of events.jsonl, about
EXIT_DIVERGED = 3


class Events:
    """Lines of events.jsonl, thinned to a few hundred, and the same on the terminal."""

    def __init__(self, folder):
        self.path = folder / "events.jsonl" if folder else None
        self.slot = -1
        if self.path:
            self.path.write_text("")

    def step(self, progress, step, tokens, seconds, train_loss):
        slot = int(progress * CURVE_POINTS)
        if slot > self.slot:
            self.slot = slot
            print(f"step {step:6d} | {100 * progress:5.1f} % | {seconds:8.2f} s | loss {train_loss:.4f}", flush=True)
            self.write({"step": step, "tokens": tokens, "seconds": round(seconds, 4), "train_loss": train_loss})

    def write(self, event):
        if self.path:
            with open(self.path, "a") as file:
                file.write(json.dumps(event) + "\n")


def output_folder(out):
    """Return the folder to write to, or None: `out`, else the working directory of a candidate under evaluation."""
    folder = Path(out) if out else Path.cwd() if "EVOLVE_CHANNEL" in os.environ else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def peak_memory_bytes(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
