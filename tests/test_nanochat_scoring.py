"""The bundled target from data to score: packing, feeding, training, serving, judging, and what each refuses."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from nanochat import attention, buffers, common, dataset, gpt, loss_eval, serve
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


def test_where_documents_outnumber_windows_these_are_spread_over_all_documents():
    lengths = np.random.default_rng(0).integers(1, 400, 5000)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    spans = loss_eval.window_starts(offsets, tokens=50_000, length=128)
    taken = np.array([end - start for start, end in spans])
    assert taken.sum() == pytest.approx(50_000, rel=0.05)
    assert taken.max() == 128
    documents = np.searchsorted(offsets, [start for start, _ in spans], side="right") - 1
    assert all((start - offsets[i]) % 128 == 0 for (start, _), i in zip(spans, documents, strict=True))
    assert all(end <= offsets[i + 1] for (_, end), i in zip(spans, documents, strict=True))
    assert np.histogram(documents, bins=10)[0].min() > 0.8 * len(spans) / 10
    assert len(set(spans)) == len(spans)


def test_a_model_that_knows_nothing_scores_the_entropy_of_its_tokens(data):
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)
    bpb = loss_eval.evaluate(lambda ids: torch.zeros(*ids.shape, 300), windows, byte_lengths)
    targets = windows.targets[windows.targets >= 0]
    assert bpb == pytest.approx(len(targets) * math.log2(300) / byte_lengths[targets].sum(), rel=1e-5)


def served(checkpoint: Path, data: Path, *, tokens: int = 3000) -> dict[str, object]:
    """Judge a checkpoint over a real channel, with the server in a thread."""
    ours, theirs = socket.socketpair()
    device = torch.device("cpu")

    def server() -> None:
        with theirs:
            serve.serve(gpt.load(checkpoint, device), theirs, device)

    thread = threading.Thread(target=server)
    thread.start()
    arguments = {"data": data, "split": "val", "tokens": tokens, "length": 32, "checkpoint": checkpoint}
    with ours:
        verdict = loss_eval.judge(type("Args", (), arguments), ours, device)
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
    assert verdict["logits"] == "host"


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


@contextlib.contextmanager
def scripted_server(*answers: object) -> Iterator[loss_eval.ServerLogits]:
    """Give the judge's end of a channel at which these answers wait and no more will come."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for answer in answers:
            common.send(theirs, answer)
        theirs.shutdown(socket.SHUT_WR)
        yield loss_eval.ServerLogits(ours, 300)


IDS = np.zeros((2, 32), dtype=np.int64)
HOST, DONE = {"logits": "host"}, {"done": True, "shape": [2, 32, 300]}


@pytest.mark.parametrize("answers", [[{"done": True, "shape": [1, 1, 1]}], [{"done": True}], [[1]], []])
def test_a_server_that_answers_with_anything_else_has_crashed(answers):
    with scripted_server(HOST, *answers) as logits_of:
        logits_of.open(2, 32)
        with pytest.raises(loss_eval.Rejected, match="crashed: the model server gave no logits"):
            logits_of(IDS)


@pytest.mark.parametrize("answers", [[{"logits": "device"}], [{"logits": ["host"]}], [{}], [[1]], []])
def test_a_server_that_takes_a_buffer_that_it_was_not_offered_has_crashed(answers):
    with (
        scripted_server(*answers) as logits_of,
        pytest.raises(loss_eval.Rejected, match="crashed: the model server took none of the buffers"),
    ):
        logits_of.open(2, 32)


def test_a_server_that_cuts_the_buffer_short_has_crashed():
    with scripted_server(HOST, DONE) as logits_of:
        logits_of.open(2, 32)
        os.ftruncate(logits_of.buffer.file, 100)
        with pytest.raises(loss_eval.Rejected, match="cut the buffer"):
            logits_of(IDS)


def test_a_server_that_writes_nothing_is_not_scored_on_what_an_earlier_request_left():
    with scripted_server(HOST, DONE, DONE) as logits_of:
        logits_of.open(2, 32)
        written = torch.full((2, 32, 300), 3.0)
        logits_of.buffer.mark = lambda shape: os.pwrite(logits_of.buffer.file, written.numpy().tobytes(), 0)
        assert torch.equal(logits_of(IDS), written)
        del logits_of.buffer.mark
        with pytest.raises(loss_eval.Rejected, match="crashed: the model server left logits unwritten"):
            logits_of(IDS)


def test_logits_that_are_not_a_number_are_told_from_logits_that_were_not_written():
    logits = torch.full((2, 3, 4), math.nan)
    assert not buffers.unwritten(logits)
    logits.view(torch.int32)[1, 0, 0] = buffers.MARK
    assert buffers.unwritten(logits)
    assert torch.isnan(logits).all()


# Logits on the device. Without a GPU: the protocol, with tensors of this process in place of shared memory of the GPU


class FakeGpu:
    """Stands in for CUDA's sharing: a handle names a tensor of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.tensors: dict[bytes, torch.Tensor] = {}
        monkeypatch.setattr(buffers, "can_share", lambda _: True)
        monkeypatch.setattr(buffers, "reduce_tensor", self.reduce)
        monkeypatch.setattr(buffers, "rebuild_cuda_tensor", self.rebuild)

    def reduce(self, tensor: torch.Tensor) -> tuple[object, tuple[object, ...]]:
        handle = b"\x00\xffhandle" + bytes([len(self.tensors)])
        self.tensors[handle] = tensor
        return None, ipc_arguments(tensor.numel(), handle)

    def rebuild(self, *arguments: object) -> torch.Tensor:
        assert arguments == ipc_arguments(arguments[1][0], arguments[7])
        return self.tensors[arguments[7]]


def ipc_arguments(n: int, handle: bytes) -> tuple[object, ...]:
    """Return what reduce_tensor gives for a flat fp32 tensor on a GPU."""
    types = (torch.Tensor, torch.Size([n]), (1,), 0, torch.storage.TypedStorage, torch.float32)
    return (*types, 0, handle, 4 * n, 1 << 21, False, b"/torch_1_2", 7, b"\x80event", True)


def refuse(*_: object) -> None:
    raise RuntimeError("CUDA error: operation not supported")


def test_a_handle_comes_back_from_json_as_it_was():
    arguments = ipc_arguments(1 << 28, bytes(range(64)))
    told = json.loads(json.dumps(buffers.to_json(arguments)))
    assert buffers.from_json(told) == arguments
    assert len(json.dumps(told)) < common.MAX_HEADER_BYTES / 16


def test_logits_on_the_device_give_the_score_that_they_give_through_the_host(data, tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path / "c.safetensors", 300)
    through_host = served(tmp_path / "c.safetensors", data)
    gpu = FakeGpu(monkeypatch)
    on_device = served(tmp_path / "c.safetensors", data)
    assert len(gpu.tensors) == 1
    assert on_device == through_host | {"logits": "device"}


@pytest.mark.parametrize("end", ["reduce_tensor", "rebuild_cuda_tensor"])
def test_where_sharing_is_refused_logits_pass_through_the_host_and_the_verdict_says_so(
    data, tmp_path, monkeypatch, capsys, end
):
    tiny_checkpoint(tmp_path / "c.safetensors", 300)
    FakeGpu(monkeypatch)
    monkeypatch.setattr(buffers, end, refuse)
    assert served(tmp_path / "c.safetensors", data)["logits"] == "host"
    assert "logits pass through the host: CUDA error: operation not supported" in capsys.readouterr().err


def test_a_server_that_writes_nothing_on_the_device_has_crashed(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    with scripted_server({"logits": "device"}, DONE, DONE) as logits_of:
        logits_of.open(2, 32)
        (shared,) = gpu.tensors.values()
        logits_of.buffer.mark = lambda shape: shared.fill_(3.0)
        assert torch.equal(logits_of(IDS), torch.full((2, 32, 300), 3.0))
        del logits_of.buffer.mark
        with pytest.raises(loss_eval.Rejected, match="left logits unwritten"):
            logits_of(IDS)


def test_what_the_judge_looks_at_is_out_of_the_servers_reach(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    with scripted_server({"logits": "device"}, DONE) as logits_of:
        logits_of.open(2, 32)
        (shared,) = gpu.tensors.values()
        logits_of.buffer.mark = lambda shape: shared.fill_(3.0)
        logits = logits_of(IDS)
        shared.fill_(20.0)
        assert (logits == 3.0).all()
        assert shared.nbytes % buffers.CUDA_BLOCK_BYTES == 0


@pytest.mark.parametrize(("device", "gigabytes"), [("cpu", 0.0078125), ("cuda", 1.0)])
def test_requests_at_full_size_are_as_large_as_their_device_bears(device, gigabytes):
    rows = loss_eval.rows_per_chunk(128, 1024, torch.device(device))
    assert 4 * rows * 128 * 1024 == gigabytes * 2**30
    assert loss_eval.rows_per_chunk(2048, 32768, torch.device("cuda")) == 4


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


# On a GPU

SILENT_SERVER = """
from nanochat import buffers, common, serve
import torch
sock, device = common.channel(), torch.device("cuda")
offer, _, (file,) = common.receive_with_fds(sock, 1)
buffer, where = buffers.open_buffer(offer, file, device)
common.send(sock, {"logits": where})
while (message := common.receive(sock)) is not None:
    common.send(sock, {"done": True, "shape": [message[0]["rows"], message[0]["length"], 300]})
"""


def judged_by_process(server: list[str], data: Path, cwd: Path) -> dict[str, object]:
    judge = ["nanochat.loss_eval", "--data", str(data), "--tokens", "3000", "--length", "32"]
    return json.loads(joined(server, judge, cwd)[1].splitlines()[-1])


@pytest.mark.gpu
def test_on_a_gpu_the_logits_stay_there_and_the_score_is_that_of_the_model_itself(data, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "chosen", attention.chosen)
    tiny_checkpoint(tmp_path / "checkpoint.safetensors", 300)
    verdict = judged_by_process(["nanochat.serve", "checkpoint.safetensors"], data, tmp_path)
    assert verdict["logits"] == "device"
    device = torch.device("cuda")
    model = gpt.load(tmp_path / "checkpoint.safetensors", device)
    windows, byte_lengths = loss_eval.load_windows(data, "val", 3000, 32)
    with torch.inference_mode():
        direct = loss_eval.evaluate(lambda ids: model(torch.from_numpy(ids).to(device)), windows, byte_lengths, device)
    assert verdict["val_bpb"] == pytest.approx(direct, rel=1e-6)


@pytest.mark.gpu
def test_on_a_gpu_a_server_that_writes_nothing_has_crashed(data, tmp_path):
    (tmp_path / "silent.py").write_text(SILENT_SERVER)
    verdict = judged_by_process(["silent"], data, tmp_path)
    assert verdict == {"status": "crashed", "reason": "the model server left logits unwritten"}
