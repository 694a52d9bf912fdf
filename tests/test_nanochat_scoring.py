"""The bundled target from data to score: packing, feeding, training, serving, judging, and what each refuses."""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat import base_train, common, dataloader, dataset, events, gpt, loss_eval, serve
from nanochat.tokenizer import Tokenizer

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


def tiny_checkpoint(path: Path, vocab_size: int) -> gpt.GPT:
    model = gpt.GPT(gpt.GPTConfig(32, vocab_size, 1, 1, 1, 32))
    model.init_weights(0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    gpt.save(model, path)
    return model


# Data


def test_preparing_twice_gives_the_same_bytes_and_names_what_it_read(data, tmp_path):
    again = dataset.prepare(tmp_path / "again", vocab_size=300, limit_files=40)
    assert again == dataset.read_manifest(data)
    assert len(again["corpus_sha256"]) == 64
    for path in sorted(data.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_documents_come_back_from_their_tokens(data):
    tokenizer, file = Tokenizer.load(data / "tokenizer.json"), dataset.TokenFile(data, "val")
    texts, _ = dataset.read_corpus(limit_files=40)
    documents = [file.tokens[a:b] for a, b in zip(file.offsets[:-1], file.offsets[1:], strict=True)]
    assert [tokenizer.decode(ids) for ids in documents] == [text.encode() for text in texts["val"]]


def test_a_file_stays_in_its_split_whatever_else_there_is():
    few, many = (dataset.read_corpus(limit_files=n)[0] for n in (20, 40))
    assert all(few[split] == many[split][: len(few[split])] for split in dataset.SPLITS)


def test_a_folder_without_data_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(dataset.DataMissing, match=r"run `python -m nanochat\.dataset --out"):
        dataset.TokenFile(tmp_path, "train")


def test_byte_lengths_are_those_of_the_raw_bytes_even_inside_a_character(data):
    tokenizer = Tokenizer.load(data / "tokenizer.json")
    text = "naïve 日本 🙂 <|bos|>\n"
    ids = tokenizer.encode([text])[0]
    lengths = tokenizer.byte_lengths()
    assert lengths[ids].sum() == len(text.encode())
    assert max(ids) < tokenizer.bos
    assert lengths[tokenizer.bos] == 0
    assert (lengths[:256] == 1).all()


# Packing


def row_stream(documents: list[list[int]], length: int) -> dataloader.Rows:
    tokens = np.array([token for ids in documents for token in ids], dtype=np.uint16)
    return dataloader.Rows(tokens, np.cumsum([0] + [len(ids) for ids in documents]), 999, 0, length)


def test_the_largest_document_that_fits_goes_in_first():
    documents = [[1] * 3, [2] * 6, [3] * 20]
    # Nine places: BOS and the six, then BOS and the first token of one that has to be cropped.
    row = row_stream(documents, length=8).pack(1)[0].tolist()
    assert row[:8] == [999, 2, 2, 2, 2, 2, 2, 999]
    assert row[8] in (1, 3)


def test_every_row_starts_with_bos_is_full_and_no_token_is_thrown_away():
    documents = [list(range(10 * i, 10 * i + 7)) for i in range(40)]
    stream = row_stream(documents, length=19)
    rows = stream.pack(30)
    assert rows.shape == (30, 20)
    assert (rows[:, 0] == 999).all()
    waiting = [stream.tokens[start : start + length] for length, _, start in stream.buffer]
    drawn = np.bincount(np.concatenate([rows[rows != 999], *waiting]), minlength=400)[np.concatenate(documents)]
    epochs = drawn.reshape(40, 7)
    assert (epochs == epochs[:, :1]).all()  # documents are handed out or waiting, whole
    assert 1 <= epochs.max() - 1 <= epochs.min()


def test_row_i_depends_on_seed_and_length_not_on_the_size_of_a_batch(data):
    feeds = [dataloader.LocalFeed(data, seed) for seed in (7, 7, 7, 8)]
    ones = np.concatenate([feeds[0].next(1, 32) for _ in range(12)])
    feeds[1].prefetch(5, 32)
    mixed = np.concatenate([feeds[1].next(n, 32) for n in (3, 5, 4)])
    assert np.array_equal(ones, mixed)
    feeds[2].next(4, 16)
    assert np.array_equal(ones, feeds[2].next(12, 32))
    assert not np.array_equal(ones, feeds[3].next(12, 32))


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


# Training


def test_training_lowers_the_loss_and_writes_events_and_a_checkpoint(data, workspace, capsys):
    out = workspace / "out"
    run = trainer(data, "--num-iterations", "60", "--out", str(out))
    assert run.train()
    run.save()
    told = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    losses = [event["train_loss"] for event in told[:-1]]
    assert losses[0] == pytest.approx(math.log(300), abs=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    assert told[-2]["tokens"] == 60 * 128
    assert told[-1]["n_params"] == loss_eval.count_parameters(out / told[-1]["checkpoint"])
    assert told[-1]["peak_memory_bytes"] > 1 << 20
    assert "val_bpb" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_checkpoint_and_another_seed_another(data, workspace, capsys):
    def checkpoint(seed: int) -> bytes:
        run = trainer(data, "--num-iterations", "4", "--out", str(workspace), "--seed", str(seed))
        run.train()
        run.save()
        return (workspace / "checkpoint.safetensors").read_bytes()

    assert checkpoint(1) == checkpoint(1) != checkpoint(2)


def test_accumulated_gradients_are_those_of_the_whole_batch(data, workspace):
    whole, parts = trainer(data, "--device-batch-size", "4"), trainer(data, "--device-batch-size", "1")
    assert parts.accumulation == 4
    assert whole.gradients() == pytest.approx(parts.gradients(), rel=1e-5)
    torch.testing.assert_close(whole.raw_model.lm_head.weight.grad, parts.raw_model.lm_head.weight.grad)


def test_a_fed_trainer_ends_with_the_feeders_budget(data, workspace, monkeypatch, capsys):
    feed = dataloader.LocalFeed(data, 0, tokens=5 * 128)
    ours, thread, _ = fed(feed)
    monkeypatch.setenv("EVOLVE_CHANNEL", str(ours.fileno()))
    run = base_train.Trainer(base_train.parse_args(FLAGS))
    ours.detach()  # the trainer's socket owns the descriptor
    assert run.plan.num_iterations == 5
    assert run.train()
    run.save()
    run.feed.sock.close()
    thread.join()
    assert feed.handed_out == 5 * 128
    assert (workspace / "checkpoint.safetensors").exists()
    assert len((workspace / "events.jsonl").read_text().splitlines()) == 6


def test_a_curve_has_at_most_200_points_however_long_the_run(workspace, capsys):
    curve = events.Events(workspace)
    for step in range(3000):
        curve.step(step / 3000, step, 0, 0.0, 1.0)
    assert 150 <= len((workspace / "events.jsonl").read_text().splitlines()) <= 200


def test_a_loss_that_is_not_finite_stops_at_once_with_its_own_exit_code(data, workspace, monkeypatch, capsys):
    flags = [*FLAGS, "--data", str(data), "--num-iterations", "5", "--out", str(workspace)]
    monkeypatch.setattr(sys, "argv", ["base_train", *flags])
    monkeypatch.setattr(gpt, "WTE_INIT_STD", math.inf)
    with pytest.raises(SystemExit) as ended:
        base_train.main()
    assert ended.value.code == events.EXIT_DIVERGED == 3
    assert json.loads((workspace / "events.jsonl").read_text()) == {"status": "diverged", "step": 0}
    assert not (workspace / "checkpoint.safetensors").exists()


# Judging


def test_bits_per_byte_are_nats_over_bytes_where_a_target_has_bytes():
    nats = np.array([[1.0, 2.0, 50.0, 70.0]], dtype=np.float32)
    targets = np.array([[0, 1, 2, -1]])  # one byte, three bytes, a special token, no target
    found = loss_eval.bits_per_byte(nats, targets, np.array([1, 3, 0]))
    assert found == pytest.approx(3.0 / (math.log(2) * 4))


def test_windows_are_spread_over_every_document_and_never_overlap(data):
    offsets = dataset.TokenFile(data, "val").offsets
    spans = loss_eval.window_starts(offsets, tokens=4000, length=32)
    assert 3000 < sum(end - start for start, end in spans) < 5000
    for start, end in itertools.pairwise(offsets):
        inside = [span for span in spans if start <= span[0] and span[1] <= end]
        assert inside
        assert (inside[-1][1] - inside[0][0] > (end - start) / 3) or len(inside) == 1
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_a_model_that_knows_nothing_scores_the_entropy_of_its_tokens(data):
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)
    bpb = loss_eval.evaluate(lambda ids: torch.zeros(*ids.shape, 300), windows, byte_lengths)
    targets = windows.targets[windows.targets >= 0]
    assert bpb == pytest.approx(len(targets) * math.log2(300) / byte_lengths[targets].sum(), rel=1e-5)


def served(checkpoint: Path, data: Path, *, tokens: int = 3000) -> dict[str, object]:
    """Judge a checkpoint over a real channel, with the server in a thread."""
    ours, theirs = socket.socketpair()

    def server() -> None:
        with theirs:
            device = torch.device("cpu")
            serve.serve(gpt.load(checkpoint, device), theirs, device)

    thread = threading.Thread(target=server)
    thread.start()
    arguments = {"data": data, "split": "val", "tokens": tokens, "length": 32, "checkpoint": checkpoint}
    with ours:
        verdict = loss_eval.judge(type("Args", (), arguments), ours)
    thread.join()
    return verdict


def test_a_served_model_scores_what_it_scores_directly(data, tmp_path):
    model = tiny_checkpoint(tmp_path / "c.safetensors", 300)
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)
    with torch.no_grad():
        direct = loss_eval.evaluate(lambda ids: model(torch.from_numpy(ids)), windows, byte_lengths)
    verdict = served(tmp_path / "c.safetensors", data)
    assert verdict["val_bpb"] == direct
    assert verdict["eval_tokens"] == (windows.targets >= 0).sum()
    assert verdict["n_params"] == model.parameter_counts()["total"]


def test_a_model_that_sees_the_next_token_is_found_out(data):
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)

    def peeking(ids: np.ndarray) -> torch.Tensor:
        following = torch.from_numpy(np.roll(ids, -1, axis=1))
        return 0.02 * torch.nn.functional.one_hot(following, 300).float()

    with pytest.raises(loss_eval.Rejected) as rejected:
        loss_eval.evaluate(peeking, windows, byte_lengths)
    assert rejected.value.status == "cheated"


def test_logits_that_are_not_finite_are_divergence(data):
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)
    with pytest.raises(loss_eval.Rejected) as rejected:
        loss_eval.evaluate(lambda ids: torch.full((*ids.shape, 300), math.nan), windows, byte_lengths)
    assert rejected.value.status == "diverged"


@pytest.mark.parametrize("answer", [{"done": True, "shape": [1, 1, 1]}, {"done": True}, [1], None])
def test_a_server_that_answers_with_anything_else_has_crashed(answer):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if answer is not None:
            common.send(theirs, answer)
        theirs.shutdown(socket.SHUT_WR)
        logits_of = loss_eval.ServerLogits(ours, 300)
        with pytest.raises(loss_eval.Rejected, match="crashed: the model server gave no logits"):
            logits_of(np.zeros((2, 32), dtype=np.int64))


def test_a_server_that_cuts_the_buffer_short_has_crashed():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        common.send(theirs, {"done": True, "shape": [2, 32, 300]})
        logits_of = loss_eval.ServerLogits(ours, 300)
        logits_of.open(2, 32)
        os.ftruncate(logits_of.buffer, 100)
        with pytest.raises(loss_eval.Rejected, match="cut the buffer"):
            logits_of(np.zeros((2, 32), dtype=np.int64))


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x04" + b"\0" * 7 + b"nope"])
def test_a_checkpoint_that_is_none_has_crashed(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(loss_eval.Rejected, match="crashed: the checkpoint is no safetensors file"):
        loss_eval.count_parameters(tmp_path / "c")


# The four processes, as fitness starts them


def joined(left: list[str], right: list[str], cwd: Path) -> tuple[str, str]:
    """Run two modules joined by a channel; return what both printed."""
    ends = socket.socketpair()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(gpt.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    children = []
    for end, arguments in zip(ends, (left, right), strict=True):
        env = environment | {"EVOLVE_CHANNEL": str(end.fileno())}
        command = [sys.executable, "-m", *arguments]
        children.append(
            subprocess.Popen(command, cwd=cwd, env=env, pass_fds=[end.fileno()], stdout=subprocess.PIPE, text=True)
        )
    for end in ends:
        end.close()
    outputs = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    return outputs[0], outputs[1]


@pytest.mark.slow
def test_four_processes_give_a_score_and_give_it_again(data, tmp_path):
    def score(cwd: Path) -> dict[str, float]:
        cwd.mkdir()
        feeder = ["nanochat.dataloader", "--data", str(data), "--tokens", "1280", "--seed", "0"]
        judge = ["nanochat.loss_eval", "--data", str(data), "--tokens", "2000", "--length", "32"]
        _, fed_ = joined(["nanochat.base_train", *FLAGS], feeder, cwd)
        assert json.loads(fed_.splitlines()[-1])["tokens"] == 1280
        checkpoint = ["--checkpoint", str(cwd / "checkpoint.safetensors")]
        _, verdict = joined(["nanochat.serve", "checkpoint.safetensors"], [*judge, *checkpoint], cwd)
        return json.loads(verdict.splitlines()[-1])

    first = score(tmp_path / "a")
    assert 2 < first["val_bpb"] < 6
    assert score(tmp_path / "b") == first
