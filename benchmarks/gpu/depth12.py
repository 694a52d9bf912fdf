"""What only a GPU can show, on one H100-class GPU without a network: depth 12 and everything it stands on.

    python benchmarks/gpu/depth12.py corpus train judge     # parts, in one call or one by one, each under ten minutes
    python benchmarks/gpu/depth12.py kernels compile
    python benchmarks/gpu/depth12.py noise
    python benchmarks/gpu/depth12.py all --smoke            # the same, tiny, on any machine in two minutes

corpus    makes a data folder of the Python sources that this interpreter can import; other parts do so if there is none
train     trains for five minutes and writes the loss curve
kernels   times the attention kernels and measures their errors
compile   times a trainer's first step with an empty and with a copied compiler cache
noise     trains briefly with two seeds, and with the first of them again
judge     scores the checkpoint of `train` through a model server

Nothing needs to be installed but the packages in NEEDED. Each part adds its figures to
benchmarks/results/gpu_depth12.json, with --smoke to gpu_depth12.json in the working folder.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import python_sources

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NEEDED = ("torch", "numpy", "tiktoken", "rustbpe", "safetensors", "pyarrow", "tqdm")
PARTS = ("corpus", "train", "kernels", "compile", "noise", "judge")
SEEDS = (0, 1, 0)
FULL_WINDOW = 1 << 20

sys.path.insert(0, str(ROOT))  # nanochat need not be installed


@dataclass(frozen=True)
class Scale:
    """Sizes of every part."""

    source_files: int | None
    vocab_size: int
    length: int
    model: tuple[str, ...]
    train: tuple[str, ...]
    short: tuple[str, ...]
    eval_tokens: int
    shape: tuple[int, int, int, int]  # B, T, H, D of one attention call
    windows: tuple[int, ...]
    repeats: int


FULL = Scale(
    source_files=None,
    vocab_size=32768,
    length=2048,
    model=("--depth", "12"),
    train=("--time-budget", "300"),
    short=("--num-iterations", "80"),
    eval_tokens=2**21,
    shape=(32, 2048, 6, 128),
    windows=(1024, FULL_WINDOW),
    repeats=20,
)
SMOKE = Scale(
    source_files=300,
    vocab_size=512,
    length=64,
    model=(
        "--depth=2",
        "--aspect-ratio=32",
        "--head-dim=32",
        "--max-seq-len=64",
        "--device-batch-size=4",
        "--total-batch-size=256",
        "--lr-scale=1",
        "--decay-scale=1",
    ),
    train=("--time-budget", "2"),
    short=("--num-iterations", "15"),
    eval_tokens=4000,
    shape=(2, 64, 2, 32),
    windows=(32, FULL_WINDOW),
    repeats=3,
)


@dataclass(frozen=True)
class Bench:
    """Where the parts work, and at which scale."""

    scale: Scale
    work: Path
    results: Path

    @property
    def data(self) -> Path:
        return self.work / "data"

    def record(self, part: str, figures: dict[str, object]) -> None:
        """Add a part's figures to the result file."""
        path = self.results / "gpu_depth12.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        told |= {"machine": machine(), part: figures}
        path.write_text(json.dumps(told, indent=2) + "\n")
        print(json.dumps({part: figures}, indent=2), flush=True)


def machine() -> dict[str, object]:
    import torch

    about = {"torch": torch.__version__, "python": platform.python_version(), "cpus": os.cpu_count()}
    if not torch.cuda.is_available():
        return about | {"gpu": None}
    properties = torch.cuda.get_device_properties(0)
    return about | {
        "gpu": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
    }


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Run Python with our packages on its path, print its output as it comes and return it; exit if it fails."""
    print("$ python", *arguments, flush=True)
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | environment
    child = subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in child.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if child.wait() != 0:
        sys.exit(f"python {' '.join(arguments)} ended with code {child.returncode}.")
    return "".join(lines)


# The corpus and the training


def corpus(bench: Bench) -> None:
    """Prepare the data folder, if it is not there yet."""
    if (bench.data / "manifest.json").exists():
        return
    shards = bench.work / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    began = time.monotonic()
    sources = python_sources.write_shards(shards, bench.scale.source_files)
    read = time.monotonic()
    flags = ["--out", str(bench.data), "--corpus", str(shards), "--vocab-size", str(bench.scale.vocab_size)]
    python("-m", "nanochat.dataset", *flags)
    seconds = {"sources_s": round(read - began, 1), "prepare_s": round(time.monotonic() - read, 1)}
    splits = json.loads((bench.data / "manifest.json").read_text())["splits"]
    bench.record("corpus", sources | seconds | {"splits": splits})


def training_flags(bench: Bench, *flags: str) -> list[str]:
    """Return the arguments of a training; the corpus is small, so its documents may come again."""
    evaluation = ("--eval-tokens", str(bench.scale.eval_tokens))
    return ["--data", str(bench.data), "--epochs", "1000", *evaluation, *bench.scale.model, *flags]


def events_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def trained(bench: Bench, name: str, *flags: str) -> dict[str, object]:
    """Train into a folder of this name; return what the run told of itself and its wall-clock seconds."""
    out = bench.work / name
    began = time.monotonic()
    printed = python("-m", "nanochat.base_train", *training_flags(bench, "--out", str(out), *flags))
    wall_s = round(time.monotonic() - began, 1)
    scores = [line.split("val_bpb")[1] for line in printed.splitlines() if "val_bpb" in line]
    first, *points, last = events_of(out)
    return {**first, **last, "steps": points[-1]["step"], "wall_s": wall_s, "val_bpb": float(scores[-1])}


def train(bench: Bench) -> None:
    """Train for five minutes; write the loss curve beside the figures."""
    corpus(bench)
    figures = trained(bench, "train", *bench.scale.train)
    points = [event for event in events_of(bench.work / "train") if "train_loss" in event]
    with open(bench.results / "gpu_depth12_curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, points[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(points)
    bench.record("train", figures)


def noise(bench: Bench) -> None:
    """Train briefly with two seeds and the first of them again: what a seed moves, and what mere repetition does."""
    corpus(bench)
    kept = ("seed", "val_bpb", "tokens_per_s", "wall_s")
    runs = []
    for i, seed in enumerate(SEEDS):
        figures = trained(bench, f"noise-{i}", *bench.scale.short, "--seed", str(seed)) | {"seed": seed}
        runs.append({name: figures[name] for name in kept})
        first = runs[0]["val_bpb"]
        shifts = {"from_run_0": [run["val_bpb"] - first for run in runs]}
        bench.record("noise", {"runs": runs, **shifts})


# Attention kernels


def kernel(name: str, bench: Bench, device: object) -> dict[str, object]:
    """Return times and errors of one kernel at every window, or why it cannot run."""
    import attention_kernels
    import torch

    from nanochat import attention

    if reason := attention.obstacle(name, device):
        return {"cannot_run": reason}
    attention.choose(device, name)
    figures = {}
    for window in bench.scale.windows:
        torch.compiler.reset()  # flex compiles every shape, up to a limit
        times = attention_kernels.times(bench.scale.shape, window, device, bench.scale.repeats)
        errors = attention_kernels.errors(bench.scale.shape, window, device)
        figures["full" if window == FULL_WINDOW else f"window_{window}"] = times | {"largest_error": errors}
    return figures


def kernels(bench: Bench) -> None:
    """Compare the attention kernels on this device, and name the one that `auto` takes."""
    from nanochat import attention
    from nanochat.common import pick_device

    device = pick_device()
    figures = {name: kernel(name, bench, device) for name in attention.AUTO_ORDER}
    shape = dict(zip("BTHD", bench.scale.shape, strict=True))
    bench.record("kernels", {"auto": attention.choose(device), "shape": shape, **figures})


# Compiling


def first_steps(bench: Bench, softcap: float) -> None:
    """Print the seconds of a trainer's first and second step in this process, as JSON."""
    from nanochat import base_train, gpt

    gpt.LOGIT_SOFTCAP = softcap
    trainer = base_train.Trainer(
        base_train.parse_args(training_flags(bench, "--num-iterations", "2", "--compile", "on"))
    )
    seconds = []
    for step in range(2):
        began = time.monotonic()
        trainer.train_step(step).item()
        seconds.append(round(time.monotonic() - began, 2))
    print(json.dumps({"first_step_s": seconds[0], "second_step_s": seconds[1]}))


def compile_(bench: Bench) -> None:
    """Time the first step with an empty compiler cache, with a copy of it, and with a copy and a patched constant."""
    corpus(bench)
    cache, figures = bench.work / "compiler-cache", {}
    cases = {"cold": 20.0, "warm_copy": 20.0, "warm_copy_patched_constant": 21.0}
    shutil.rmtree(cache, ignore_errors=True)
    for name, softcap in cases.items():
        folder = cache if name == "cold" else cache.with_name(f"compiler-cache-{name}")
        if folder != cache:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(cache, folder)
        folders = {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
        script = [str(Path(__file__).resolve()), "first-steps", "--work", str(bench.work), "--softcap", str(softcap)]
        printed = python(*script, *(["--smoke"] if bench.scale == SMOKE else []), **folders)
        figures[name] = json.loads(printed.splitlines()[-1])
    figures["cache_bytes"] = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    bench.record("compile", figures)


# The judge


def joined(left: list[str], right: list[str], cwd: Path) -> str:
    """Run two modules joined by a channel; return what the right one printed."""
    ends = socket.socketpair()
    children = []
    for end, arguments in zip(ends, (left, right), strict=True):
        env = os.environ | {"PYTHONPATH": str(ROOT), "EVOLVE_CHANNEL": str(end.fileno())}
        command = [sys.executable, "-m", *arguments]
        children.append(
            subprocess.Popen(command, cwd=cwd, env=env, pass_fds=[end.fileno()], stdout=subprocess.PIPE, text=True)
        )
    for end in ends:
        end.close()
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        sys.exit(f"{left[0]} and {right[0]} ended with codes {[child.returncode for child in children]}.")
    return outputs[1]


def judge(bench: Bench) -> None:
    """Score the checkpoint of `train` as an evaluation does, and time it."""
    checkpoint = bench.work / "train" / "checkpoint.safetensors"
    if not checkpoint.exists():
        sys.exit(
            f"{checkpoint} is not there: run the part `train` first, in the same call if the machine is given back."
        )
    flags = ["--data", str(bench.data), "--tokens", str(bench.scale.eval_tokens), "--length", str(bench.scale.length)]
    began = time.monotonic()
    printed = joined(
        ["nanochat.serve", str(checkpoint)],
        ["nanochat.loss_eval", *flags, "--checkpoint", str(checkpoint)],
        bench.work,
    )
    verdict = json.loads(printed.splitlines()[-1])
    bench.record("judge", verdict | {"wall_s": round(time.monotonic() - began, 1)})


# The command

RUN = {"corpus": corpus, "train": train, "kernels": kernels, "compile": compile_, "noise": noise, "judge": judge}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="+", choices=(*PARTS, "all", "first-steps"), help="first-steps: what compile times"
    )
    parser.add_argument("--smoke", action="store_true", help="everything tiny; results go to the working folder")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "gpu-depth12", help="folder for data and checkpoints"
    )
    parser.add_argument("--softcap", type=float, default=20.0, help="of first-steps: the patched constant")
    return parser.parse_args()


def main() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"This needs {', '.join(missing)}, which {sys.executable} does not have: install them, then run it again."
        )
    args = parse_args()
    parts = PARTS if "all" in args.parts else args.parts
    if len(parts) > 1:  # each in a process of its own, which gives the GPU's memory back
        flags = ["--work", str(args.work), *(["--smoke"] if args.smoke else [])]
        for part in parts:
            python(str(Path(__file__).resolve()), part, *flags)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(SMOKE if args.smoke else FULL, args.work.resolve(), args.work.resolve() if args.smoke else RESULTS)
    if args.smoke:
        os.environ["OMP_NUM_THREADS"] = "1"
    RUN[parts[0]](bench) if parts[0] in RUN else first_steps(bench, args.softcap)


if __name__ == "__main__":
    main()
