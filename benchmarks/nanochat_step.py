"""Where a CPU training step's time goes, before and after, and against a plain eager PyTorch loop of the same model.

    python benchmarks/nanochat_step.py [--before 857bd56] [--repeats 5]

Every child runs the CPU preset's full rung on one thread. What is compared runs side by side, at the same moment, so
that the machine's moods hit both alike; parts of a step are measured in CPU time. Medians, and ratios within a pair, go
to benchmarks/results/nanochat_step.json. The plain loop is what one would write first: the same model with the plain
expressions in its head, torch.optim's AdamW and Muon, a random batch from the same token file, and `loss.item()` at
every step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from nanochat_lr_scan import preset_flags
from nanochat_runs import RESULTS, ROOT, prepared, preset

from evolve.target_files import load_target
from fitness.child import Spec
from fitness.launch import ForkServer, child_environment

STEPS = 200

PARTS = """
import json, sys, time
flags, tree = sys.argv[2:], sys.argv[1]
sys.path.insert(0, tree)
from nanochat import base_train, gpt
from nanochat.common import set_up_process
set_up_process()
run = base_train.Trainer(base_train.parse_args(flags))
model, spent = run.raw_model, {"forward": 0.0, "head": 0.0}
forward, lm_head = model.forward, model.lm_head.forward
def head_begins(x):
    spent["head"] -= time.process_time()
    return lm_head(x)
def timed_forward(*batch):
    began = time.process_time()
    loss = forward(*batch)
    now = time.process_time()
    spent["head"] += now
    spent["forward"] += now - began
    return loss
model.lm_head.forward, model.forward = head_begins, timed_forward
gradients = optimiser = 0.0
for step in range(110):
    if step == 10:
        gradients = optimiser = 0.0
        spent.update(forward=0.0, head=0.0)
    began = time.process_time()
    run.gradients()
    middle = time.process_time()
    base_train.set_schedules(run.args, run.optimizer, step, step / 200)
    run.optimizer.step()
    run.optimizer.zero_grad()
    gradients, optimiser = gradients + middle - began, optimiser + time.process_time() - middle
trunk = spent["forward"] - spent["head"]
rest = gradients - spent["forward"]
parts = {"trunk, forward": trunk, "head, forward": spent["head"], "backward": rest, "optimiser": optimiser}
print(json.dumps({name: 10 * seconds for name, seconds in parts.items()}))
"""

PLAIN = """
import json, sys, time
import numpy as np
import torch
sys.path.insert(0, sys.argv[1])
from nanochat import gpt, head
from nanochat.dataset import TokenFile
torch.set_num_threads(1)
head.by_hand = lambda logits: False
torch.manual_seed(0)
data = TokenFile(sys.argv[2], "train")
model = gpt.GPT(gpt.GPTConfig(128, data.manifest["vocab_size"], 2, 2, 2, 64))
model.init_weights(0)
matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
others = [p for p in model.parameters() if p.dim() != 2 or not any(p is q for q in matrices)]
optimizers = [torch.optim.AdamW(others, lr=1e-3), torch.optim.Muon(matrices, lr=1e-3)]
rng = np.random.default_rng(0)
for step in range(200):
    starts = rng.integers(0, len(data.tokens) - 129, 4)
    rows = torch.from_numpy(np.stack([data.tokens[i:i + 129] for i in starts]).astype(np.int64))
    loss = model(rows[:, :-1], rows[:, 1:])
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    loss.item()
    if step == 0:
        print("first", flush=True)
    if step == 9:
        began = time.perf_counter()
print(json.dumps({"tokens_per_s": 190 * 512 / (time.perf_counter() - began)}))
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def parts(tree: Path, flags: list[str]) -> dict[str, float]:
    """Return milliseconds a step, by part."""
    return json.loads(child(PARTS, str(tree), *flags).communicate()[0].splitlines()[-1])


def plain_loop(data: Path) -> dict[str, float]:
    began = time.monotonic()
    running = child(PLAIN, str(ROOT), str(data))
    assert running.stdout
    running.stdout.readline()
    first_s = time.monotonic() - began
    told = json.loads(running.stdout.read().splitlines()[-1])
    running.wait()
    return {"first_step_s": first_s, **told}


def trained(start: object, out: Path) -> dict[str, float]:
    """Return the seconds until events.jsonl tells of the first step, and the speed that its last line tells."""
    began, path = time.monotonic(), out / "events.jsonl"
    wait = start(out)  # type: ignore[operator]
    while not (path.exists() and '"step": 1,' in path.read_text()):
        time.sleep(0.002)
    first_s = time.monotonic() - began
    wait()
    return {"first_step_s": first_s, "tokens_per_s": json.loads(path.read_text().splitlines()[-1])["tokens_per_s"]}


def by_interpreter(flags: list[str]) -> object:
    code = "from nanochat.base_train import main; main()"
    return lambda out: child(code, *flags, "--out", str(out)).wait


def by_fork_server(server: ForkServer, flags: list[str]) -> object:
    def start(out: Path) -> object:
        argv = [sys.executable, "-m", "nanochat.base_train", *flags, "--out", str(out)]
        env = child_environment(server.env, ROOT, out.parent, {})
        return server.spawn(Spec(argv, str(ROOT), str(out.parent / "log"), 300.0, env)).ended

    return start


def all_medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(one[name] for one in found), 3) for name in found[0]}


def ratio(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    """Return the median, lowest and highest of the ratios within a round."""
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    values = {"median": median(ratios), "lowest": ratios[0], "highest": ratios[-1]}
    return {name: round(value, 3) for name, value in values.items()}


def rounds(folder: Path, before: str, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return kind -> what each round found."""
    data = prepared(folder / "data", 1024)
    flags = [*preset_flags(preset()["full"]), "--data", str(data), "--num-iterations", str(STEPS)]
    old = folder / "old"
    old.mkdir()
    archive = subprocess.run(["git", "archive", before, "nanochat"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(old)], input=archive, check=True)
    server = ForkServer(load_target("nanochat", "cpu").preload, 1)
    pairs = [
        {
            "plain loop": lambda i: plain_loop(data),
            "fork server": lambda i: trained(by_fork_server(server, flags), folder / f"f{i}"),
        },
        {
            "plain loop, again": lambda i: plain_loop(data),
            "interpreter": lambda i: trained(by_interpreter(flags), folder / f"i{i}"),
        },
        {"before": lambda i: parts(old, flags), "after": lambda i: parts(ROOT, flags)},
    ]
    found: dict[str, list[dict[str, float]]] = {name: [] for pair in pairs for name in pair}
    with ThreadPoolExecutor(2) as pool:
        for i in range(repeats):
            for pair in pairs:
                running = {name: pool.submit(run, i) for name, run in pair.items()}
                for name, future in running.items():
                    found[name].append(future.result())
    server.close()
    return found


def compared(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    def column(kind: str, name: str) -> list[float]:
        return [one[name] for one in found[kind]]

    before, after = ([sum(one.values()) for one in found[when]] for when in ("before", "after"))
    result = {"CPU time of a step, before / after": ratio(before, after)}
    for part in found["after"][0]:
        result[f"{part}, before / after"] = ratio(column("before", part), column("after", part))
    for kind, plain in (("fork server", "plain loop"), ("interpreter", "plain loop, again")):
        speeds = column(kind, "tokens_per_s"), column(plain, "tokens_per_s")
        starts = column(plain, "first_step_s"), column(kind, "first_step_s")
        result[f"tokens per second, base_train from the {kind} / plain loop"] = ratio(*speeds)
        result[f"start to first step, plain loop / base_train from the {kind}"] = ratio(*starts)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="857bd56", help="the commit to compare the parts of a step with")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result: dict[str, object] = {
        "before": args.before,
        "repeats": args.repeats,
        "load_average_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        found = rounds(Path(folder), args.before, args.repeats)
    result["load_average_after"] = os.getloadavg()[0]
    result["medians"] = {kind: all_medians(values) for kind, values in found.items()}
    result["ratios within a round"] = compared(found)
    (RESULTS / "nanochat_step.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
