"""Pretraining: how long, how fast, in which order of magnitude, and the loop itself.

    python -m nanochat.base_train --depth 4 --aspect-ratio 32 --head-dim 32 --max-seq-len 128 --num-iterations 200 --out DIR

Without `--data` it prepares a small corpus in the user's cache folder. With the environment variable EVOLVE_CHANNEL the
tokens come from a feeder through that socket, and the working directory receives what `--out` would: `events.jsonl`
and `checkpoint.safetensors`. On several GPUs: `python -m nanochat.launch --processes 8 nanochat.base_train ...`, or torchrun.
Exit code 3: the loss diverged, and the last event says at which step.
"""

import argparse
import math
import os
import sys
from dataclasses import dataclass

import torch

from nanochat import attention, checkpoint, distributed, gpt
from nanochat.common import (
    BATCH_EXPONENT, REFERENCE_BATCH_TOKENS, REFERENCE_DEPTH, REFERENCE_DIM, TOKENS_PER_PARAMETER,
    device_name, pick_device, positive, set_up_process,
)
from nanochat.dataloader import Loader, open_feed
from nanochat.dataset import default_data_dir
from nanochat.events import EXIT_DIVERGED, UNTIMED_STEPS, Events, Meter, output_folder, peak_memory_bytes, speed
from nanochat.loss_eval import Rejected, evaluate, load_windows
from nanochat.mistakes import BatchIndivisible, HorizonTooShort, sentences
from nanochat.optim import MuonAdamW

RESID_LR_FACTOR = 0.01
X0_BETA1 = 0.96
X0_BETA2 = 0.95
ADAM_EPS = 1e-10
ADAM_WEIGHT_DECAY = 0.0
MUON_BETA2 = 0.95
MUON_MOMENTUM_START = 0.85
MUON_MOMENTUM_END = 0.95
MUON_MOMENTUM_STEPS = 300


def parse_args(argv=None):
    parser = argparse.ArgumentParser(prog="python -m nanochat.base_train", description="Pretrain a model.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    # Scale
    add("--depth", type=positive, default=12, help="layers; the one dial of model size")
    add("--aspect-ratio", type=positive, default=64, help="model_dim = depth * aspect ratio, rounded up to whole heads")
    add("--head-dim", type=positive, default=128, help="channels of one head")
    add("--max-seq-len", type=positive, default=2048, help="tokens of one row")
    add("--device-batch-size", type=positive, default=32, help="rows of one forward pass")
    add("--total-batch-size", type=int, default=-1, help="tokens of one step; -1: the rule")
    add("--num-iterations", type=int, default=-1, help="steps; comes before every other horizon")
    add("--target-flops", type=float, default=-1.0, help="horizon in training FLOPs")
    add("--time-budget", type=float, default=-1.0, help="horizon in seconds, from the end of the 10th step")
    add("--device-type", choices=("auto", "cuda", "cpu"), default="auto", help="auto: what there is")
    add("--attention", default="auto", help="fa3, flash, flex or sdpa; auto: the fastest here")
    add("--compile", choices=("auto", "on", "off"), default="auto", help="torch.compile; auto: on a GPU")
    add("--seed", type=int, default=0, help="moves initialisation and order of data")
    add("--lr-scale", type=float, default=-1.0, help="learning rates times this; -1: the rule sqrt(batch / 2**19)")
    add("--matrix-lr-scale", type=float, default=1.0, help="Muon's learning rate times this, on top of --lr-scale")
    add("--decay-scale", type=float, default=-1.0, help="Muon's weight decay times this; -1: the rule")
    # Recipe
    add("--window-pattern", type=letters, default="SSSL", help="tiled over the layers: L sees all, S half the row")
    add("--target-param-data-ratio", type=float, default=TOKENS_PER_PARAMETER, help="horizon in tokens per scaling parameter")
    add("--embedding-lr", type=float, default=0.3, help="of token and value embeddings")
    add("--unembedding-lr", type=float, default=0.004, help="of lm_head")
    add("--matrix-lr", type=float, default=0.02, help="of Muon")
    add("--scalar-lr", type=float, default=0.5, help="of x0 lambdas; a hundredth of it for resid lambdas")
    add("--weight-decay", type=float, default=0.2, help="of Muon")
    add("--adam-beta1", type=float, default=0.8, help="decay of AdamW's first moment")
    add("--adam-beta2", type=float, default=0.95, help="decay of AdamW's second moment")
    add("--warmup-ratio", type=float, default=0.0, help="part of the run in which the learning rate rises")
    add("--warmdown-ratio", type=float, default=0.5, help="part of the run in which the learning rate falls")
    add("--final-lr-frac", type=float, default=0.0, help="where it falls to")
    # Data, evaluation, output
    add("--data", help="folder written by nanochat.dataset; default: prepare one in the user's cache folder")
    add("--epochs", type=positive, default=1, help="how often each document may be used")
    add("--out", help="folder for events.jsonl, checkpoint.safetensors and what --save-every keeps")
    add("--save-every", type=int, default=-1, help="steps between checkpoints to resume from; -1: none")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add("--eval-every", type=int, default=-1, help="steps between evaluations; -1: only at the end")
    add("--eval-tokens", type=positive, default=10485760, help="validation tokens of one evaluation, at most")
    args = parser.parse_args(argv)
    if (args.save_every > 0 or args.resume) and not args.out:
        parser.error("--save-every and --resume need a folder: --out")
    return args


def letters(text):
    if not text or set(text) - set("SL"):
        raise argparse.ArgumentTypeError(f"{text!r} holds more than S and L, or nothing")
    return text


# -----------------------------------------------------------------------------
# Sizes and rules. At depth 12 every factor is exactly 1.

def model_config(args, depth, vocab_size):
    n_head = math.ceil(args.aspect_ratio * depth / args.head_dim)
    dim = n_head * args.head_dim
    return gpt.GPTConfig(args.max_seq_len, vocab_size, depth, n_head, n_head, dim, args.window_pattern)


def scaling_parameters(config):
    """Count the parameters that scaling laws count, without allocating any."""
    with torch.device("meta"):
        return gpt.GPT(config).parameter_counts()["scaling"]


def batch_rule(horizon_ratio):
    """Return tokens of a step for a horizon that is this many times depth 12's: a power of two."""
    return 2 ** round(math.log2(REFERENCE_BATCH_TOKENS * horizon_ratio**BATCH_EXPONENT))


@dataclass(frozen=True)
class Plan:
    batch_tokens: int
    num_iterations: int # 0: until the time is over
    lr_scale: float
    decay_scale: float


def horizon(args, model, batch_tokens, budget):
    """Return the number of steps: iterations, FLOPs, seconds (0), the feeder's tokens, the parameter-data ratio."""
    if args.num_iterations > 0:
        return args.num_iterations
    if args.target_flops <= 0 and args.time_budget > 0:
        return 0
    tokens = budget or args.target_param_data_ratio * model.parameter_counts()["scaling"]
    steps = round(args.target_flops / (model.flops_per_token() * batch_tokens)) if args.target_flops > 0 else int(tokens // batch_tokens)
    if steps < 1 or args.num_iterations == 0:
        raise HorizonTooShort(batch_tokens)
    return steps


def make_plan(args, model, budget=None):
    """Return batch, horizon and the factors on learning rate and decay; `budget`: tokens that the feeder will give."""
    def ratio(): # of horizons D / D_d12; a model of depth 12 is built for it, so only where a rule asks
        reference = model_config(args, REFERENCE_DEPTH, model.config.vocab_size)
        return model.parameter_counts()["scaling"] / scaling_parameters(reference)
    batch_tokens = args.total_batch_size if args.total_batch_size > 0 else batch_rule(ratio())
    batch_factor = (batch_tokens / REFERENCE_BATCH_TOKENS) ** 0.5
    return Plan(
        batch_tokens,
        horizon(args, model, batch_tokens, budget),
        args.lr_scale if args.lr_scale > 0 else batch_factor,
        args.decay_scale if args.decay_scale > 0 else batch_factor / ratio(),
    )


# -----------------------------------------------------------------------------
# Optimiser and schedules

def make_optimizer(args, model, plan):
    kinds = model.parameter_kinds()
    width_scale = (model.config.n_embd / REFERENCE_DIM) ** -0.5
    betas = (args.adam_beta1, args.adam_beta2)
    def adamw(kind, lr, betas=betas):
        return {"kind": "adamw", "params": kinds[kind], "lr": lr * plan.lr_scale, "betas": betas,
                "eps": ADAM_EPS, "weight_decay": ADAM_WEIGHT_DECAY}
    def muon(shape):
        return {"kind": "muon", "params": [p for p in kinds["matrices"] if p.shape == shape],
                "lr": args.matrix_lr * args.matrix_lr_scale * plan.lr_scale, "momentum": MUON_MOMENTUM_START,
                "beta2": MUON_BETA2, "weight_decay": args.weight_decay * plan.decay_scale}
    groups = [
        adamw("lm_head", args.unembedding_lr * width_scale),
        adamw("wte", args.embedding_lr * width_scale),
        adamw("value_embeds", args.embedding_lr * width_scale),
        adamw("resid_lambdas", args.scalar_lr * RESID_LR_FACTOR),
        adamw("x0_lambdas", args.scalar_lr, (X0_BETA1, X0_BETA2)),
    ] + [muon(shape) for shape in sorted({p.shape for p in kinds["matrices"]})]
    for group in groups:
        group["initial_lr"], group["initial_weight_decay"] = group["lr"], group["weight_decay"]
    return MuonAdamW(groups)


def lr_multiplier(args, progress):
    """Return the schedule's factor at this part of the run, 0 to 1: linear warmup, constant, linear warmdown."""
    if progress < args.warmup_ratio:
        return progress / args.warmup_ratio
    if progress <= 1.0 - args.warmdown_ratio:
        return 1.0
    left = (1.0 - progress) / args.warmdown_ratio
    return left + (1.0 - left) * args.final_lr_frac


def muon_momentum(step):
    part = min(step / MUON_MOMENTUM_STEPS, 1.0)
    return (1.0 - part) * MUON_MOMENTUM_START + part * MUON_MOMENTUM_END


def decay_multiplier(progress):
    return 1.0 - progress


def set_schedules(args, optimizer, step, progress):
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * lr_multiplier(args, progress)
        if group["kind"] == "muon":
            group["momentum"] = muon_momentum(step)
            group["weight_decay"] = group["initial_weight_decay"] * decay_multiplier(progress)


# -----------------------------------------------------------------------------
# The loop

class FeedEnded(Exception):
    """The feeder has handed out its budget."""


class Trainer:
    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.args, self.device = args, distributed.start(pick_device(args.device_type))
        self.kernel = attention.choose(self.device, args.attention)
        self.feed = open_feed(args.data, args.seed, args.epochs)
        self.build_model()
        self.plan = make_plan(args, self.raw_model, self.feed.hello["tokens"])
        self.optimizer = make_optimizer(args, self.raw_model, self.plan)
        self.accumulation = self.passes_of_one_step()
        self.folder = output_folder(args.out)
        self.position = {"step": 0, "seconds": 0.0}
        if args.resume:
            self.position = checkpoint.load(self.folder, self.raw_model, self.optimizer, self.recipe())
        else:
            checkpoint.check_free(self.folder)
        self.meter = Meter(self.device, self.raw_model.config.vocab_size, self.position["seconds"])
        self.loader = self.open_loader()
        self.events = Events(self.folder, self.position["step"])

    def build_model(self):
        with self.device:
            self.raw_model = gpt.GPT(model_config(self.args, self.args.depth, self.feed.hello["vocab_size"]))
        self.raw_model.init_weights(self.args.seed)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
            self.raw_model.set_compute_dtype(torch.bfloat16)
        compiles = self.args.compile == "on" or self.args.compile == "auto" and self.device.type == "cuda"
        self.model = torch.compile(self.raw_model, dynamic=False) if compiles else self.raw_model

    def passes_of_one_step(self):
        """Return how many forward passes of each process make one step."""
        rows, length, processes = self.args.device_batch_size, self.args.max_seq_len, distributed.world_size()
        if self.plan.batch_tokens % (rows * length * processes):
            raise BatchIndivisible(self.plan.batch_tokens, rows, length, processes)
        return self.plan.batch_tokens // (rows * length * processes)

    def open_loader(self):
        """Return the batches from here to the horizon, past those that were trained on before."""
        rows, length, done = self.args.device_batch_size, self.args.max_seq_len, self.position["step"]
        self.feed.check(self.plan.num_iterations * self.plan.batch_tokens)
        self.feed.skip(rows * self.accumulation * done, length)
        left = (self.plan.num_iterations - done) * self.accumulation if self.plan.num_iterations else None
        return Loader(self.feed, rows, length, self.device, left)

    def recipe(self):
        """Return every flag that a resumed training must share."""
        free = {"out", "resume", "save_every", "eval_every", "eval_tokens", "data"}
        return {name: value for name, value in vars(self.args).items() if name not in free}

    def gradients(self):
        """Accumulate the gradients of one batch; return its mean loss on the device."""
        losses = []
        for _ in range(self.accumulation):
            batch = self.loader.next()
            if batch is None:
                raise FeedEnded
            loss = self.model(*batch)
            (loss / self.accumulation).backward()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def train_step(self, step):
        """Make one step; return its loss, which the device may still be computing."""
        loss = self.gradients()
        set_schedules(self.args, self.optimizer, step, self.progress(step))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def progress(self, step):
        """Return the part of the run that is over after so many steps, 0 to 1."""
        if self.plan.num_iterations:
            return step / self.plan.num_iterations
        return self.meter.agreed_seconds / self.args.time_budget

    def train(self):
        """Train to the horizon; return True, or False if the loss diverged."""
        self.introduce()
        step = self.position["step"]
        while self.progress(step) < 1.0 and not self.meter.diverged:
            try:
                loss = self.train_step(step)
            except FeedEnded:
                break
            step += 1
            self.meter.push(step, loss)
            self.report()
            if self.args.save_every > 0 and step % self.args.save_every == 0:
                self.keep(step)
            if self.args.eval_every > 0 and step % self.args.eval_every == 0:
                self.report(everything=True)
                with self.meter.paused():
                    self.validate(step)
                    distributed.wait_for_all()
        self.report(everything=True)
        if self.meter.diverged:
            self.events.write(self.meter.diverged)
            return False
        self.conclude(step)
        self.validate(step)
        return True

    def introduce(self):
        about = {"device": device_name(self.device), "attention": self.kernel, "world_size": distributed.world_size(),
                 "batch_tokens": self.plan.batch_tokens, "num_iterations": self.plan.num_iterations,
                 "flops_per_token": self.raw_model.flops_per_token()}
        self.events.say(" | ".join(f"{name} {value}" for name, value in about.items()))
        if not self.position["step"]:
            self.events.write(about)

    def report(self, everything=False):
        """Tell of the steps that are known to be over."""
        for step, loss in self.meter.finished(everything):
            if not self.meter.diverged:
                self.events.step(self.progress(step), step, step * self.plan.batch_tokens, self.meter.seconds, loss)

    def keep(self, step):
        """Write a checkpoint to resume from."""
        self.report(everything=True)
        position = {"step": step, "seconds": self.meter.seconds, "recipe": self.recipe()}
        if not self.meter.diverged:
            with self.meter.paused():
                checkpoint.save(self.folder, self.raw_model, self.optimizer, position)

    def conclude(self, step):
        """Save the model for the judge, and tell what the training took."""
        tokens, timed = step * self.plan.batch_tokens, (step - self.position["step"] - UNTIMED_STEPS) * self.plan.batch_tokens
        seconds, flops_per_token = self.meter.seconds - self.position["seconds"], self.raw_model.flops_per_token()
        about = {"n_params": self.raw_model.parameter_counts()["total"], "peak_memory_bytes": peak_memory_bytes(self.device),
                 "tokens": tokens, "seconds": round(self.meter.seconds, 4), "flops": tokens * flops_per_token,
                 **speed(timed, seconds, flops_per_token, self.device)}
        self.events.say(" | ".join(f"{name} {value}" for name, value in about.items()))
        if self.folder and distributed.rank() == 0:
            gpt.save(self.raw_model, self.folder / "checkpoint.safetensors")
            self.events.write({"checkpoint": "checkpoint.safetensors", **about})

    def validate(self, step):
        """Print bits per byte on the validation split; a candidate under evaluation has none."""
        if "EVOLVE_CHANNEL" in os.environ or distributed.rank() > 0:
            return
        data = self.args.data or default_data_dir()
        windows, byte_lengths = load_windows(data, "val", self.args.eval_tokens, self.args.max_seq_len)
        try:
            with torch.no_grad():
                bpb = evaluate(lambda ids: self.raw_model(torch.from_numpy(ids).to(self.device)), windows, byte_lengths, self.device)
            self.events.say(f"step {step:6d} | val_bpb {bpb:.6f}")
        except Rejected as rejected:
            self.events.say(f"step {step:6d} | no val_bpb, {rejected}")


def main():
    set_up_process()
    with sentences():
        trainer = Trainer(parse_args())
        fine = trainer.train()
    distributed.stop()
    if not fine:
        print(f"{trainer.meter.diverged['reason']}: stopped", file=sys.stderr)
        sys.exit(EXIT_DIVERGED)


if __name__ == "__main__":
    main()
