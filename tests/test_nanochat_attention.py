"""Attention kernels against loops over queries and heads, which key each query sees, masks, and the choice."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable

import pytest
import torch

from nanochat import attention as kernels
from nanochat import gpt

Tensors = tuple[torch.Tensor, ...]

LENGTHS_AND_KV_HEADS = ((1, 2), (7, 2), (33, 1), (33, 2), (33, 4), (129, 2))  # four query heads
CASES = [
    (T, window, n_kv_head) for T, n_kv_head in LENGTHS_AND_KV_HEADS for window in sorted({0, 3, T // 2, T, 10 * T})
]
GPU_KERNELS = ("fa3", "flash", "flex", "sdpa")


@pytest.fixture(autouse=True)
def one_thread_and_a_choice_of_its_own(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(kernels, "chosen", "sdpa")
    monkeypatch.setattr(kernels, "library", types.SimpleNamespace())
    monkeypatch.setattr(kernels, "masks", {})
    monkeypatch.setattr(kernels, "block_masks", types.SimpleNamespace())


def inputs(T: int, n_kv_head: int, head_dim: int = 8) -> Tensors:
    """Return q, k, v, and a gradient to send back; four query heads, two rows, rounded to what bf16 can hold."""
    g = torch.Generator().manual_seed(T)
    heads = (4, n_kv_head, n_kv_head, 4)
    return tuple(torch.randn(2, T, n, head_dim, generator=g).bfloat16().float() for n in heads)


def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """One query after the other, over the keys it may see."""
    k, v = (t.repeat_interleave(q.size(2) // t.size(2), dim=2) for t in (k, v))
    rows = []
    for i in range(q.size(1)):
        near = slice(max(0, i - window), i + 1)
        scores = (k[:, near] * q[:, i : i + 1]).sum(dim=-1, keepdim=True) / math.sqrt(q.size(-1))
        rows.append((torch.softmax(scores, dim=1) * v[:, near]).sum(dim=1))
    return torch.stack(rows, dim=1)


def with_gradients(kernel: Callable[..., torch.Tensor], tensors: Tensors, window: int) -> Tensors:
    """Return the output, and the gradients of q, k and v."""
    *qkv, grad = tensors
    leaves = [t.detach().clone().requires_grad_() for t in qkv]
    y = kernel(*leaves, window)
    y.backward(grad)
    return (y.detach(), *(leaf.grad for leaf in leaves))


def seen_keys(kernel: Callable[..., torch.Tensor], T: int, window: int, **where: object) -> torch.Tensor:
    """Return (T, T) bool: which key's value moves which query's output, read off the gradients."""
    seen = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        q, k, v = (t.to(**where) for t in inputs(T, 2, head_dim=32)[:3])
        v.requires_grad_()
        kernel(q, k, v, window)[:, i].float().sum().backward()
        seen[i] = (v.grad != 0).any(dim=-1).any(dim=-1).any(dim=0).cpu()
    return seen


def band(T: int, window: int) -> torch.Tensor:
    return torch.tensor([[0 <= i - j <= window for j in range(T)] for i in range(T)])


# Numerics


@pytest.mark.parametrize(("T", "window", "n_kv_head"), CASES)
def test_sdpa_and_its_gradients_are_those_of_a_loop(T, window, n_kv_head):
    tensors = inputs(T, n_kv_head)
    for found, expected in zip(
        with_gradients(kernels.attention, tensors, window), with_gradients(naive, tensors, window), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [0, 3, 15, 30, 31, 100])
def test_a_query_sees_itself_and_a_window_to_the_left_and_nothing_else(window):
    assert torch.equal(seen_keys(kernels.attention, 32, window), band(32, window))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("T", "window", "n_kv_head"), CASES)
def test_flex_as_its_uncompiled_reference_is_a_loop(T, window, n_kv_head):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    kernels.library.flex_attention, kernels.library.create_block_mask = flex_attention, create_block_mask
    q, k, v, _ = inputs(T, n_kv_head)
    torch.testing.assert_close(kernels.flex_kernel(q, k, v, window), naive(q, k, v, window), rtol=1e-4, atol=1e-5)


def test_flash_has_shapes_and_gradients_where_only_shapes_are_computed():
    """The meta device runs no kernel: what is tested is that the op takes our arguments and is differentiable."""
    tensors = [t.to("meta", torch.bfloat16) for t in inputs(33, 2)]
    for window in (3, 33):
        y, *gradients = with_gradients(kernels.flash_kernel, tuple(tensors), window)
        assert y.shape == tensors[0].shape
        assert [g.shape for g in gradients] == [t.shape for t in tensors[:3]]


def test_fa3_is_asked_for_the_same_window():
    calls = []
    kernels.library.flash_attn_func = lambda *qkv, **options: calls.append(options) or qkv[0]
    q, k, v, _ = inputs(7, 2)
    for window in (0, 5, 6, 100):
        kernels.fa3_kernel(q, k, v, window)
    assert [call["window_size"] for call in calls] == [(0, 0), (5, 0), (-1, 0), (-1, 0)]
    assert all(call["causal"] for call in calls)


# Compilation


def two_layers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y = q
    for window in (5, 5, 64):
        y = y + kernels.attention(y, k, v, window)
    return y


def graphs_of(function: Callable[..., torch.Tensor], tensors: Tensors) -> list[torch.fx.GraphModule]:
    """Run a function twice as one compiled graph; return the graphs that were made."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    with torch.no_grad():
        assert torch.equal(compiled(*tensors), compiled(*tensors))
    return made


def test_a_compiled_model_is_one_graph_with_the_mask_as_a_constant():
    graphs = graphs_of(two_layers, inputs(33, 2)[:3])
    assert len(graphs) == 1
    targets = {node.target for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert torch.arange not in targets
    assert list(kernels.masks) == [(33, 5, "cpu")]


def test_flash_is_traced_into_one_graph_forward_and_backward():
    """A fresh trace by AOTAutograd on the meta device; a graph break or an op without a fake kernel would raise."""
    torch.compiler.reset()
    compiled = torch.compile(kernels.flash_kernel, dynamic=False, fullgraph=True, backend="aot_eager")
    tensors = tuple(t.to("meta", torch.bfloat16) for t in inputs(33, 2))
    y, *gradients = with_gradients(compiled, tensors, 5)
    assert [t.shape for t in (y, *gradients)] == [tensors[0].shape, *(t.shape for t in tensors[:3])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_flex_is_a_loop_alone_and_inside_a_compiled_model():
    torch.compiler.reset()
    kernels.load("flex")
    kernels.chosen = "flex"
    q, k, v, _ = inputs(33, 2, head_dim=32)
    expected = q
    for window in (5, 5, 64):
        expected = expected + naive(expected, k, v, window)
    with torch.no_grad():
        alone = two_layers(q, k, v)
        inside = torch.compile(two_layers, dynamic=False, fullgraph=True)(q, k, v)
    torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inside, expected, rtol=1e-4, atol=1e-4)
    assert sorted(vars(kernels.block_masks)) == ["33/-1/cpu", "33/5/cpu"]


# Masks


def test_a_mask_is_built_once_for_a_length_a_window_and_a_device():
    for T, window in [(9, 3), (9, 3), (9, 4), (8, 3), (9, 3), (9, 8), (9, 100)]:
        q, k, v, _ = inputs(T, 2)
        kernels.attention(q, k, v, window)
        kept = kernels.masks[9, 3, "cpu"]
    assert sorted(kernels.masks) == [(8, 3, "cpu"), (9, 3, "cpu"), (9, 4, "cpu")]
    assert kernels.window_mask(9, 3, "cpu") is kept


def test_a_block_mask_is_built_once_and_windows_that_cut_nothing_share_one():
    built = []
    kernels.library.create_block_mask = lambda *_, **__: built.append(1)
    names = {kernels.block_mask_name(9, kernels.window_left(9, window), "cpu") for window in (3, 8, 9, 100, 3)}
    assert names == {"9/3/cpu", "9/-1/cpu"}
    assert len(built) == 2


def test_a_mask_first_met_in_inference_mode_can_be_trained_with():
    tensors = inputs(9, 2)
    with torch.inference_mode():
        expected = kernels.attention(*tensors[:3], 3)
    y, *gradients = with_gradients(kernels.attention, tensors, 3)
    assert torch.equal(y, expected)
    assert all(g.abs().sum() > 0 for g in gradients)


# The choice


def test_the_cpu_takes_sdpa_and_the_choice_is_remembered(monkeypatch):
    assert kernels.choose("cpu") == kernels.chosen == "sdpa"
    assert kernels.choose(torch.device("cpu"), "sdpa") == "sdpa"
    monkeypatch.setitem(kernels.KERNELS, "sdpa", lambda q, k, v, window: q + window)
    q = torch.zeros(1)
    assert gpt.attention(q, q, q, 3).item() == 3


@pytest.mark.parametrize("name", ["fa3", "flash", "flex"])
def test_a_gpu_kernel_is_refused_on_a_cpu_in_one_sentence_and_nothing_changes(name):
    with pytest.raises(kernels.KernelUnavailable, match=rf"'{name}' cannot run here: .*device is cpu\. Ask for `auto`"):
        kernels.choose("cpu", name)
    assert kernels.chosen == "sdpa"


def test_a_kernel_that_does_not_exist_is_refused():
    with pytest.raises(kernels.KernelUnavailable, match="there are only fa3, flash, flex, sdpa"):
        kernels.choose("cpu", "fa4")


@pytest.fixture
def gpu(monkeypatch) -> Callable[..., None]:
    """Pretend a GPU: its capability, whether PyTorch has FlashAttention 2, and the modules that can be imported."""

    def pretend(capability: tuple[int, int], *, flash: bool = True, fa3: bool = True, triton: bool = True) -> None:
        package = types.SimpleNamespace(flash_attn_func=len) if fa3 else None
        monkeypatch.setitem(sys.modules, "flash_attn_interface", package)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: flash)
        monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace(_flash_attn_forward=len), raising=False)
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda _: triton or None)

    return pretend


def test_auto_takes_the_first_kernel_that_the_gpu_and_its_packages_allow(gpu):
    def auto(*capability: int, **there: bool) -> str:
        gpu(capability, **there)
        return kernels.choose("cuda")

    assert auto(9, 0) == "fa3"
    assert auto(10, 0) == "flash"
    assert auto(9, 0, fa3=False) == "flash"
    assert auto(9, 0, fa3=False, flash=False) == "flex"
    assert auto(7, 5) == "flex"
    assert auto(7, 5, triton=False) == "sdpa"


@pytest.mark.parametrize(
    ("name", "capability", "there", "reason"),
    [
        ("fa3", (8, 0), {}, "FlashAttention 3 needs compute capability 9.0 and this GPU has 8.0"),
        ("fa3", (9, 0), {"fa3": False}, "its package flash_attn_interface cannot be imported"),
        ("flash", (7, 5), {}, "FlashAttention 2 needs compute capability 8.0 and this GPU has 7.5"),
        ("flash", (9, 0), {"flash": False}, "this PyTorch was built without FlashAttention"),
        ("flex", (9, 0), {"triton": False}, "it needs the package triton"),
    ],
)
def test_a_kernel_that_lacks_something_says_what(gpu, name, capability, there, reason):
    gpu(capability, **there)
    with pytest.raises(kernels.KernelUnavailable, match=reason):
        kernels.choose("cuda", name)


def test_a_package_of_fa3_that_torch_compile_cannot_trace_is_refused(gpu, monkeypatch):
    gpu((9, 0))
    monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace())
    with pytest.raises(kernels.KernelUnavailable, match=r"older than its support for torch\.compile"):
        kernels.choose("cuda", "fa3")


# On a GPU


def chosen_on_gpu(name: str) -> None:
    torch.compiler.reset()  # eager flex compiles once a shape, up to a limit
    if reason := kernels.obstacle(name, torch.device("cuda")):
        pytest.skip(reason)
    kernels.choose("cuda", name)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("T", "window", "n_kv_head"), CASES)
@pytest.mark.parametrize("name", GPU_KERNELS)
def test_gpu_kernels_and_their_gradients_in_bf16_are_those_of_a_loop(name, T, window, n_kv_head):
    """The loop runs in fp32 on the same rounded inputs.

    bf16 rounds to 2**-9 of a value. A kernel rounds the weights (or their gradients) and the result, so each
    element errs by a few 2**-9 of the terms it sums; these are up to a few times its largest element, where terms
    cancel. Hence 2**-5 of the largest element. Which keys are seen is tested exactly, below.
    """
    chosen_on_gpu(name)
    tensors = inputs(T, n_kv_head, head_dim=64)
    expected = with_gradients(naive, tensors, window)
    found = with_gradients(kernels.attention, tuple(t.to("cuda", torch.bfloat16) for t in tensors), window)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.float().cpu() - theirs).abs().max() <= 2**-5 * theirs.abs().max() + 1e-3


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("window", [0, 3, 63, 64, 127, 128, 500])
@pytest.mark.parametrize("name", GPU_KERNELS)
def test_gpu_kernels_see_exactly_the_window(name, window):
    chosen_on_gpu(name)
    seen = seen_keys(kernels.attention, 129, window, device="cuda", dtype=torch.bfloat16)
    assert torch.equal(seen, band(129, window))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", GPU_KERNELS)
def test_gpu_kernels_compile_into_one_graph_that_agrees_with_eager(name):
    chosen_on_gpu(name)
    *qkv, _ = (t.to("cuda", torch.bfloat16) for t in inputs(256, 2, head_dim=64))
    leaves = [t.requires_grad_() for t in qkv]
    eager = two_layers(*leaves)
    expected = torch.autograd.grad(eager.float().square().sum(), leaves)
    compiled = torch.compile(two_layers, dynamic=False, fullgraph=True)(*leaves)
    found = torch.autograd.grad(compiled.float().square().sum(), leaves)
    for ours, theirs in zip((compiled, *found), (eager, *expected), strict=True):
        assert (ours - theirs).abs().max() <= 2**-5 * theirs.abs().max()


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", GPU_KERNELS)
def test_a_server_and_a_trainer_can_share_a_gpu_kernel_in_inference_mode(name):
    chosen_on_gpu(name)
    tensors = tuple(t.to("cuda", torch.bfloat16) for t in inputs(65, 4, head_dim=64))
    with torch.inference_mode():
        served = kernels.attention(*tensors[:3], 9)
    trained = with_gradients(kernels.attention, tensors, 9)[0]
    torch.testing.assert_close(served, trained)
