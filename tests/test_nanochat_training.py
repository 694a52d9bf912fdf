"""Training the bundled target: packing, feeding, the loop, several processes, going on after an interruption."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nanochat import base_train, checkpoint, common, dataloader, dataset, events, gpt, head, loss_eval
from nanochat.mistakes import BatchIndivisible, HorizonTooShort, NotResumable, OutOfData, SaveFailed, TrainingThere

ROOT = Path(gpt.__file__).parents[1]
CPU = torch.device("cpu")
FLAGS = shlex.split(
    "--depth 1 --aspect-ratio 32 --head-dim 32 --max-seq-len 32 --device-batch-size 4 --total-batch-size 128 "
    "--device-type cpu --lr-scale 1 --decay-scale 1 --eval-every -1 --eval-tokens 2000"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nanochat") / "data"
    dataset.prepare(folder, vocab_size=300, limit_files=40)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVOLVE_CHANNEL", raising=False)
    return tmp_path


def trainer(data: Path, *flags: str) -> base_train.Trainer:
    return base_train.Trainer(base_train.parse_args([*FLAGS, "--data", str(data), *flags]))


def read_events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


# Packing


def row_stream(documents: list[list[int]], length: int, epochs: int) -> dataloader.Rows:
    tokens = np.array([token for ids in documents for token in ids], dtype=np.uint16)
    offsets = np.cumsum([0] + [len(ids) for ids in documents])
    return dataloader.Rows(tokens, offsets, 999, 0, length, epochs)


def test_the_largest_document_that_fits_goes_in_first():
    documents = [[1] * 3, [2] * 6, [3] * 20]
    # Nine places: BOS and the six, then BOS and the first token of one that has to be cropped.
    row = row_stream(documents, length=8, epochs=2).pack(1)[0].tolist()
    assert row[:8] == [999, 2, 2, 2, 2, 2, 2, 999]
    assert row[8] in (1, 3)


def test_every_row_starts_with_bos_is_full_and_no_token_is_thrown_away():
    documents = [list(range(10 * i, 10 * i + 7)) for i in range(40)]
    stream = row_stream(documents, length=19, epochs=3)
    rows = stream.pack(30)
    assert rows.shape == (30, 20)
    assert (rows[:, 0] == 999).all()
    waiting = [stream.tokens[start : start + length] for length, _, start in stream.buffer]
    drawn = np.bincount(np.concatenate([rows[rows != 999], *waiting]), minlength=400)[np.concatenate(documents)]
    uses = drawn.reshape(40, 7)
    assert (uses == uses[:, :1]).all()  # documents are handed out or waiting, whole
    assert 1 <= uses.max() - 1 <= uses.min()


def test_running_out_of_data_is_an_error_unless_epochs_are_asked_for():
    documents = [list(range(10 * i, 10 * i + 7)) for i in range(40)]
    once, twice = (row_stream(documents, length=19, epochs=epochs) for epochs in (1, 2))
    given = [once.pack(1) for _ in range(15)]  # 280 tokens and their BOS fill 16 rows of 20 at best
    with pytest.raises(OutOfData, match=r"holds 280 tokens, and 1 epoch\(s\) of it do not last for 560: .* --epochs 2"):
        once.pack(2)
    used = np.concatenate(given)
    assert np.bincount(used[used != 999]).max() == 1  # one epoch uses nothing twice
    assert len(twice.pack(30)) == 30


def test_a_budget_that_the_data_cannot_fill_is_refused_before_the_first_batch(data, workspace):
    n_tokens = dataset.read_manifest(data)["splits"]["train"]["tokens"]
    dataloader.LocalFeed(data, 0, tokens=n_tokens)
    dataloader.LocalFeed(data, 0, tokens=2 * n_tokens, epochs=2)
    with pytest.raises(OutOfData):
        dataloader.LocalFeed(data, 0, tokens=2 * n_tokens)
    with pytest.raises(OutOfData):
        trainer(data, "--num-iterations", str(n_tokens))


def test_row_i_depends_on_seed_and_length_not_on_the_size_of_a_batch(data):
    feeds = [dataloader.LocalFeed(data, seed) for seed in (7, 7, 7, 8, 7)]
    ones = np.concatenate([feeds[0].next(1, 32) for _ in range(12)])
    feeds[1].prefetch(5, 32)
    mixed = np.concatenate([feeds[1].next(n, 32) for n in (3, 5, 4)])
    assert np.array_equal(ones, mixed)
    feeds[2].next(4, 16)
    assert np.array_equal(ones, feeds[2].next(12, 32))
    assert not np.array_equal(ones, feeds[3].next(12, 32))
    feeds[4].skip(5, 32)
    assert np.array_equal(ones[5:], feeds[4].next(7, 32))


def test_a_loader_gives_what_its_feed_gives_and_asks_for_no_more_than_its_total(data):
    feed, same = dataloader.LocalFeed(data, 1), dataloader.LocalFeed(data, 1)
    loader = dataloader.Loader(feed, 4, 32, CPU, total=3)
    for _ in range(3):
        inputs, targets = loader.next()
        rows = same.next(4, 32)
        assert np.array_equal(inputs, rows[:, :-1])
        assert np.array_equal(targets, rows[:, 1:])
    assert loader.next() is None
    assert feed.handed_out == 3 * 4 * 32


# Feeding


def fed(feed: dataloader.LocalFeed) -> tuple[socket.socket, threading.Thread, list[float]]:
    """Start a feeder on one end of a channel; return the other end."""
    ours, theirs = socket.socketpair()
    seconds: list[float] = []

    def feeder() -> None:
        with theirs:
            seconds.append(dataloader.serve(feed, theirs))

    thread = threading.Thread(target=feeder)
    thread.start()
    return ours, thread, seconds


def test_a_feeder_hands_out_the_rows_of_a_local_feed_and_stops_at_its_budget(data):
    served, local = dataloader.LocalFeed(data, 3, tokens=3 * 4 * 32 + 31), dataloader.LocalFeed(data, 3)
    ours, thread, seconds = fed(served)
    with ours:
        remote = dataloader.RemoteFeed(ours)
        assert remote.hello["vocab_size"] == 300
        for _ in range(3):
            assert np.array_equal(remote.next(4, 32), local.next(4, 32))
        assert remote.next(4, 32) is None
    thread.join()
    assert served.handed_out == 3 * 4 * 32
    assert seconds[0] > 0


@pytest.mark.parametrize(
    "request_", [{"rows": 0, "length": 8}, {"rows": 1 << 20, "length": 1 << 20}, {}, [], {"rows": "1"}]
)
def test_a_feeder_closes_on_a_request_that_nobody_may_make(data, request_):
    ours, thread, _ = fed(dataloader.LocalFeed(data, 0))
    with ours:
        common.receive(ours)
        common.send(ours, request_)
        assert common.receive(ours) is None
    thread.join()


def test_a_message_that_claims_to_be_huge_is_not_read():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(common.FRAME.pack(2, 1 << 31) + b"{}")
        with pytest.raises(ValueError, match="larger than allowed"):
            common.receive(theirs)


def test_a_feeder_without_enough_data_says_so_in_one_sentence(data):
    command = [sys.executable, "-m", "nanochat.dataloader", "--data", str(data), "--tokens", str(10**9)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("The training split holds")
    assert ended.stderr.count("\n") == 1


# The head


def test_softcap_and_cross_entropy_by_hand_are_those_of_plain_torch():
    g = torch.Generator().manual_seed(0)
    start, targets = 30 * torch.randn(7, 50, generator=g), torch.randint(50, (7,), generator=g)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    loss = head.cross_entropy(head.softcap(ours, 20.0), targets)
    plain = torch.nn.functional.cross_entropy(20 * torch.tanh(theirs / 20), targets)
    (3 * loss).backward()
    (3 * plain).backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
    assert head.softcap(start, 20.0).abs().max() <= 20


# FLOPs


@pytest.mark.parametrize("pattern", ["L", "SSSL"])
@pytest.mark.parametrize("n_kv_head", [2, 4])
def test_flops_are_those_that_torch_counts_less_what_windows_spare(pattern, n_kv_head):
    config = gpt.GPTConfig(64, 1000, 4, 4, n_kv_head, 128, pattern)
    with torch.device("meta"):
        model, ids = gpt.GPT(config), torch.zeros(2, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(ids, ids).backward()
    spared = 12 * 128 * sum(64 - window for window in model.windows)  # torch counts whole rows
    assert model.flops_per_token() == pytest.approx(counter.get_total_flops() / 128 - spared, rel=0.02)


# Training


def test_training_lowers_the_loss_and_writes_events_and_a_checkpoint(data, workspace, capsys):
    out = workspace / "out"
    assert trainer(data, "--num-iterations", "60", "--out", str(out)).train()
    first, *steps, last = read_events(out)
    assert {"device": "cpu", "world_size": 1, "batch_tokens": 128, "num_iterations": 60}.items() <= first.items()
    losses = [event["train_loss"] for event in steps]
    assert losses[0] == pytest.approx(math.log(300), abs=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert steps[-1]["tokens"] == last["tokens"] == 60 * 128
    assert [event["seconds"] for event in steps[:10]] == [0.0] * 10  # they are not timed
    assert last["tokens_per_s"] == pytest.approx(50 * 128 / last["seconds"], rel=0.01)
    assert last["flops"] == first["flops_per_token"] * 60 * 128
    assert last["n_params"] == loss_eval.count_parameters(out / last["checkpoint"])
    assert last["peak_memory_bytes"] > 1 << 20
    assert last["mfu"] is None
    assert "val_bpb" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_checkpoint_and_another_seed_another(data, workspace, capsys):
    def checkpoint(seed: int) -> bytes:
        trainer(data, "--num-iterations", "4", "--out", str(workspace), "--seed", str(seed)).train()
        return (workspace / "checkpoint.safetensors").read_bytes()

    assert checkpoint(1) == checkpoint(1) != checkpoint(2)


def test_accumulated_gradients_are_those_of_the_whole_batch(data, workspace):
    whole, parts = trainer(data, "--device-batch-size", "4"), trainer(data, "--device-batch-size", "1")
    assert parts.accumulation == 4
    torch.testing.assert_close(whole.gradients(), parts.gradients())
    torch.testing.assert_close(whole.raw_model.lm_head.weight.grad, parts.raw_model.lm_head.weight.grad)


def test_a_batch_that_rows_do_not_divide_is_one_sentence(data, workspace):
    with pytest.raises(BatchIndivisible, match="128 tokens is no multiple of 3 rows x 32 tokens x 1 process"):
        trainer(data, "--device-batch-size", "3")


def test_a_fed_trainer_ends_with_the_feeders_budget(data, workspace, monkeypatch, capsys):
    feed = dataloader.LocalFeed(data, 0, tokens=5 * 128 + 127)
    ours, thread, _ = fed(feed)
    monkeypatch.setenv("EVOLVE_CHANNEL", str(ours.fileno()))
    run = base_train.Trainer(base_train.parse_args(FLAGS))
    ours.detach()  # the trainer's socket owns the descriptor
    assert run.plan.num_iterations == 5
    assert run.train()
    run.feed.sock.close()
    thread.join()
    assert feed.handed_out == 5 * 128
    assert (workspace / "checkpoint.safetensors").exists()
    assert len(read_events(workspace)) == 7


def test_a_time_budget_ends_the_run_soon_after_it_is_over(data, workspace, capsys):
    began = time.monotonic()
    assert trainer(data, "--time-budget", "0.5", "--epochs", "1000", "--out", str(workspace)).train()
    last = read_events(workspace)[-1]
    assert 0.5 <= last["seconds"] < 2 + time.monotonic() - began
    assert last["tokens"] > 10 * 128


def test_a_curve_has_at_most_200_points_however_long_the_run(workspace, capsys):
    curve = events.Events(workspace)
    for step in range(3000):
        curve.step(step / 3000, step, 0, 0.0, 1.0)
    assert 150 <= len(read_events(workspace)) <= 200


def test_a_loss_that_is_not_finite_stops_at_once_with_its_own_exit_code(data, workspace, monkeypatch, capsys):
    flags = [*FLAGS, "--data", str(data), "--num-iterations", "5", "--out", str(workspace)]
    monkeypatch.setattr(sys, "argv", ["base_train", *flags])
    monkeypatch.setattr(gpt, "WTE_INIT_STD", math.inf)
    with pytest.raises(SystemExit) as ended:
        base_train.main()
    assert ended.value.code == events.EXIT_DIVERGED == 3
    told = {"status": "diverged", "step": 1, "train_loss": "nan", "reason": "a loss that is not finite"}
    assert read_events(workspace)[1:] == [told]
    assert not (workspace / "checkpoint.safetensors").exists()


def test_a_loss_far_above_guessing_has_diverged():
    meter = events.Meter(CPU, vocab_size=300)
    for step, loss in enumerate((5.7, 11.3, 11.5, 1.0), start=1):
        meter.push(step, torch.tensor(loss))
    assert [step for step, _ in meter.finished()] == [1, 2, 3, 4]
    assert meter.diverged["step"] == 3
    assert meter.diverged["reason"] == "a loss over 11.41 nats"


def test_a_peak_is_known_by_name_and_speed_is_a_part_of_it(monkeypatch):
    monkeypatch.setattr(common, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert events.speed(1000, 2.0, 9.89e11 / 4, CPU) == {"tokens_per_s": 500.0, "mfu": 0.125}
    monkeypatch.setattr(common, "device_name", lambda device: "a device of next year")
    assert events.speed(1000, 2.0, 1e9, CPU) == {"tokens_per_s": 500.0, "mfu": None}


def test_a_horizon_of_less_than_a_step_is_one_sentence(data, workspace):
    for flags in (["--target-flops", "1"], ["--target-param-data-ratio", "1e-6"], ["--num-iterations", "0"]):
        with pytest.raises(HorizonTooShort, match="less than one step of 128 tokens"):
            trainer(data, *flags)


def test_pauses_are_not_training_time():
    meter = events.Meter(CPU, vocab_size=300)
    meter.started = time.monotonic()
    with meter.paused():
        time.sleep(0.2)
    assert meter.clock() < 0.15


# Going on


def test_a_new_training_leaves_the_checkpoints_of_another_alone(data, workspace, capsys):
    trainer(data, "--num-iterations", "4", "--out", "out", "--save-every", "2").train()
    before = read_events(workspace / "out")
    with pytest.raises(TrainingThere, match="go on with it by --resume"):
        trainer(data, "--num-iterations", "4", "--out", "out")
    assert read_events(workspace / "out") == before


def test_a_diverged_step_is_no_checkpoint(data, workspace, capsys):
    run = trainer(data, "--num-iterations", "9", "--out", "out", "--save-every", "1", "--lr-scale", "100000")
    assert not run.train()
    kept = [path.name for path in (workspace / "out" / "training").iterdir()]
    assert kept == [f"step_{run.meter.diverged['step'] - 1:06d}"]


def test_a_damaged_checkpoint_is_one_sentence(data, workspace, capsys):
    trainer(data, "--num-iterations", "4", "--out", "out", "--save-every", "2").train()
    (workspace / "out" / "training" / "step_000004" / "model.safetensors").write_bytes(b"none")
    with pytest.raises(NotResumable, match="step_000004 is damaged or of another model"):
        trainer(data, "--num-iterations", "4", "--out", "out", "--resume")


def test_a_resumed_training_ends_with_the_same_bits(data, workspace, capsys):
    flags = ["--num-iterations", "24", "--device-batch-size", "2"]
    trainer(data, *flags, "--out", "whole").train()
    cut = trainer(data, *flags, "--out", "cut", "--save-every", "7")
    cut.optimizer.step = interrupted_after(17, cut.optimizer.step)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    torch.rand(3)  # whatever else draws
    assert [path.name for path in (workspace / "cut" / "training").iterdir()] == ["step_000014"]
    assert trainer(data, *flags, "--out", "cut", "--resume").train()
    whole, resumed = (workspace / name / "checkpoint.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == resumed.read_bytes()
    assert [event["step"] for event in read_events(workspace / "cut") if "train_loss" in event] == list(range(1, 25))


def interrupted_after(n, function):
    calls = []

    def calling():
        calls.append(None)
        if len(calls) > n:
            raise KeyboardInterrupt
        function()

    return calling


def test_resuming_what_is_not_there_or_was_trained_otherwise_is_refused(data, workspace, capsys, monkeypatch):
    with pytest.raises(NotResumable, match="no checkpoint lies there"):
        trainer(data, "--out", "none", "--resume")
    trainer(data, "--num-iterations", "3", "--out", "three", "--save-every", "3").train()
    with pytest.raises(NotResumable, match=r"--matrix-lr was 0\.02 and is now 0\.5"):
        trainer(data, "--num-iterations", "3", "--out", "three", "--resume", "--matrix-lr", "0.5")
    monkeypatch.setattr(checkpoint, "world_size", lambda: 2)
    with pytest.raises(NotResumable, match=r"by 1 process\(es\) and this is 2"):
        trainer(data, "--num-iterations", "3", "--out", "three", "--resume")


def test_a_checkpoint_cut_short_leaves_the_one_before(data, workspace, capsys, monkeypatch):
    run = trainer(data, "--num-iterations", "6", "--out", "out", "--save-every", "3")
    monkeypatch.setattr(checkpoint.os, "rename", fail_on_second())
    with pytest.raises(SaveFailed, match="No space left"):
        run.train()
    monkeypatch.undo()
    os.chdir(workspace)
    resumed = trainer(data, "--num-iterations", "6", "--out", "out", "--resume")
    assert resumed.position["step"] == 3
    assert resumed.train()


def fail_on_second():
    rename, calls = os.rename, []

    def renaming(source, goal):
        calls.append(goal)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, goal)

    return renaming


# What the pages say


PAGES = "".join((ROOT / page).read_text().replace("\\\n", " ") for page in ("README.md", "docs/nanochat.md"))
TYPED = re.findall(
    r"^    python -m (?:nanochat\.launch --processes \d+ )?nanochat\.(\w+) (.*?)(?:  +#.*)?$", PAGES, re.M
)


@pytest.mark.parametrize(("module", "words"), TYPED)
def test_every_command_of_the_pages_parses(module, words):
    parse = {"base_train": base_train.parse_args, "dataset": dataset.parse_args}[module]
    if "--help" in words:
        with pytest.raises(SystemExit):
            parse(["--help"])
    else:
        parse(shlex.split(words))


def test_the_pages_have_commands():
    assert len(TYPED) >= 9


# Several processes


def launched(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "nanochat.launch",
        "--processes",
        str(processes),
        "nanochat.base_train",
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_two_processes_that_share_a_step_make_the_same_model_as_one(data, workspace, capsys):
    flags = ["--num-iterations", "12", "--device-batch-size", "2", "--save-every", "8"]
    assert trainer(data, *flags, "--out", "one").train()
    shared = [*FLAGS, "--data", str(data), *flags, "--out", str(workspace / "two")]
    ended = launched(2, *shared)
    assert ended.returncode == 0, ended.stderr
    one, two = (workspace / name / "checkpoint.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert read_events(workspace / "two")[0]["world_size"] == 2
    saved = workspace / "two" / "training" / "step_000008"
    halves = [dict(checkpoint.load_file(saved / f"rank_{rank}.safetensors")) for rank in (0, 1)]
    moment = "state.wte.weight/first_moment"
    assert [half[moment].shape for half in halves] == [(160, 32), (160, 32)]  # of 320 rows


@pytest.mark.slow
def test_a_training_of_two_processes_can_be_resumed_by_two(data, workspace, capsys):
    flags = ["--num-iterations", "12", "--device-batch-size", "2", "--save-every", "8"]
    shared = [*FLAGS, "--data", str(data), *flags, "--out", str(workspace)]
    assert launched(2, *shared).returncode == 0
    whole = (workspace / "checkpoint.safetensors").read_bytes()
    (workspace / "checkpoint.safetensors").unlink()
    assert launched(2, *shared, "--resume").returncode == 0
    assert (workspace / "checkpoint.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_when_one_process_fails_all_end_and_its_sentence_is_seen(workspace):
    ended = launched(2, *FLAGS, "--data", str(workspace / "nothing"))
    assert ended.returncode == 2
    assert "holds no prepared data" in ended.stderr
    assert launched(0, *FLAGS).returncode == 2
