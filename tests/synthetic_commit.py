"""A synthetic commit: thirty known changes in four files, several to a line, definitions with distant uses."""

from __future__ import annotations

BEFORE = {
    "model.py": '''"""A small transformer."""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    depth: int = 4
    width: int = 256
    heads: int = 4
    dropout: float = 0.0


def norm(x):
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dropout = config.dropout
        self.up = nn.Linear(config.width, 4 * config.width, bias=False)
        self.down = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x):
        hidden = F.relu(self.up(norm(x))).square()
        hidden = F.dropout(hidden, self.dropout, self.training)
        return x + 1.0 * self.down(hidden)


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = nn.Embedding(512, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.head = nn.Linear(config.width, 512, bias=False)
        nn.init.normal_(self.wte.weight, mean=0.0, std=1.0)
        nn.init.uniform_(self.head.weight, -0.02, 0.02)

    def forward(self, ids):
        x = norm(self.wte(ids))
        for block in self.blocks:
            x = block(x)
        logits = self.head(norm(x))
        return 15 * torch.tanh(logits / 15)
''',
    "optim.py": '''"""Optimisers and schedules."""

import math

import torch

MOMENTUM = 0.95
NS_STEPS = 5


def orthogonalise(update, steps=NS_STEPS, eps=1e-7):
    update = update / (update.norm() + eps)
    a, b, c = 3.4445, -4.775, 2.0315
    for _ in range(steps):
        gram = update @ update.T
        update = a * update + (b * gram + c * gram @ gram) @ update
    return update


def warmup(step, total):
    ratio = 0.05
    return min(1.0, (step + 1) / (ratio * total))


def cooldown(step, total):
    left = 1 - step / total
    return min(1.0, left / 0.4)


def make(params, lr, weight_decay):
    return torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)


def clip(params):
    return torch.nn.utils.clip_grad_norm_(params, 1.0, norm_type=2.0)
''',
    "data.py": '''"""Batches of tokens."""

import random

LENGTH = 128
BATCH = 16


def shuffled(windows, seed):
    order = list(range(len(windows)))
    random.Random(seed).shuffle(order)
    return [windows[k] for k in order]


def batches(tokens, seed, drop_last=True):
    # windows do not overlap
    windows = [tokens[k : k + LENGTH + 1] for k in range(0, len(tokens) - LENGTH, LENGTH)]
    windows = shuffled(windows, seed)
    for k in range(0, len(windows), BATCH):
        batch = windows[k : k + BATCH]
        if len(batch) == BATCH or not drop_last:
            yield batch
''',
    "train.py": '''"""Train the model."""

import argparse

import torch
from data import batches
from model import Config, Model
from optim import clip, cooldown, make, warmup

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.003)
parser.add_argument("--weight-decay", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--log-every", type=int, default=10)
args = parser.parse_args()

torch.manual_seed(1)
model = Model(Config())
optimiser = make(model.parameters(), args.lr, args.weight_decay)
tokens = [k * k % 512 for k in range(100_000)]

step = 0
while step < args.steps:
    for batch in batches(tokens, seed=step):
        ids = torch.tensor(batch)
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        clip(model.parameters())
        scale = warmup(step, args.steps) * cooldown(step, args.steps)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * scale
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        if step % args.log_every == 0:
            print(f"step {step} loss {loss.item():.4f}")
        if step == args.steps:
            break
''',
}

# Each change is a list of (file, text before, text after); the text before occurs once in its file.
Change = list[tuple[str, str, str]]
CHANGES: dict[str, Change] = {
    "depth": [("model.py", "depth: int = 4", "depth: int = 6")],
    "heads": [("model.py", "heads: int = 4", "heads: int = 8")],
    "norm eps": [("model.py", "eps=1e-6", "eps=1e-5")],
    "activation": [("model.py", "F.relu(", "F.silu(")],
    "square": [("model.py", ".square()", ".mul(2)")],
    "residual": [("model.py", "1.0 * self.down", "0.7 * self.down")],
    "wte mean": [("model.py", "mean=0.0", "mean=0.01")],
    "wte std": [("model.py", "std=1.0", "std=0.8")],
    "head init": [("model.py", "-0.02, 0.02)", "-0.01, 0.01)")],
    "softcap": [("model.py", "15 * torch.tanh(logits / 15)", "30 * torch.tanh(logits / 30)")],
    "dropout removed": [
        ("model.py", "    dropout: float = 0.0\n", ""),
        ("model.py", "        self.dropout = config.dropout\n", ""),
        ("model.py", "        hidden = F.dropout(hidden, self.dropout, self.training)\n", ""),
    ],
    "momentum": [("optim.py", "MOMENTUM = 0.95", "MOMENTUM = 0.9")],
    "steps": [("optim.py", "NS_STEPS = 5", "NS_STEPS = 6")],
    "first coefficient": [("optim.py", "3.4445", "3.5")],
    "third coefficient": [("optim.py", "2.0315", "2.1")],
    "cooldown": [("optim.py", "left / 0.4", "left / 0.5")],
    "beta1": [("optim.py", "(0.9,", "(0.85,")],
    "beta2": [("optim.py", " 0.95)", " 0.98)")],
    "adam eps": [("optim.py", "eps=1e-8", "eps=1e-10")],
    "clip": [("optim.py", "params, 1.0", "params, 0.5")],
    "foreach": [("optim.py", "norm_type=2.0", "norm_type=2.0, foreach=False")],
    "warmup ratio": [
        ("optim.py", "def warmup(step, total):\n    ratio = 0.05\n", "def warmup(step, total, ratio):\n"),
        ("train.py", "warmup(step, args.steps)", "warmup(step, args.steps, args.ratio)"),
        (
            "train.py",
            'parser.add_argument("--log-every"',
            'parser.add_argument("--ratio", type=float, default=0.02)\nparser.add_argument("--log-every"',
        ),
    ],
    "length": [("data.py", "LENGTH = 128", "LENGTH = 64")],
    "batch": [("data.py", "BATCH = 16", "BATCH = 8")],
    "drop last": [
        ("data.py", ", drop_last=True", ""),
        ("data.py", " or not drop_last", ""),
    ],
    "learning rate": [("train.py", "default=0.003", "default=0.004")],
    "decay": [("train.py", "default=0.1)", "default=0.2)")],
    "text": [("train.py", "k * k % 512", "k * k % 509")],
    "seed": [("train.py", "manual_seed(1)", "manual_seed(7)")],
    "rename": [
        ("train.py", "optimiser = make(", "adam = make("),
        ("train.py", "in optimiser.param_groups", "in adam.param_groups"),
        ("train.py", "optimiser.step()", "adam.step()"),
        ("train.py", "optimiser.zero_grad()", "adam.zero_grad()"),
    ],
}
COMMENT: Change = [("data.py", "# windows do not overlap", "# windows share no token but the ends")]


def changed(files: dict[str, str], change: Change) -> dict[str, str]:
    """Return the files after a change."""
    files = dict(files)
    for path, old, new in change:
        assert files[path].count(old) == 1, (path, old)
        files[path] = files[path].replace(old, new)
    return files


def after(before: dict[str, str] = BEFORE) -> dict[str, str]:
    """Return the files after all changes."""
    files = before
    for change in (*CHANGES.values(), COMMENT):
        files = changed(files, change)
    return files
