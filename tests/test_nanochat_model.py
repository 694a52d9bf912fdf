"""The bundled target's model, optimiser and rules: counts, formulas and references computed another way."""

from __future__ import annotations

import math

import pytest
import torch

from nanochat import base_train, gpt, optim
from nanochat.attention import attention

TINY = gpt.GPTConfig(sequence_len=16, vocab_size=50, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny_model(seed: int = 0, config: gpt.GPTConfig = TINY) -> gpt.GPT:
    model = gpt.GPT(config)
    model.init_weights(seed)
    return model


def full_size(depth: int, *flags: str) -> tuple[gpt.GPT, base_train.Plan]:
    args = base_train.parse_args(["--depth", str(depth), *flags])
    with torch.device("meta"):
        model = gpt.GPT(base_train.model_config(args, depth, 32768))
    return model, base_train.make_plan(args, model)


# Sizes and rules


@pytest.mark.parametrize(
    ("depth", "millions", "batch", "iterations", "decay"),
    [
        (12, 286.3, 2**19, 2205, 1.0),
        (16, 536.9, 2**19, 4704, 0.469),
        (20, 896.5, 2**20, 4357, 0.358),
        (24, 1384.1, 2**20, 7308, 0.213),
    ],
)
def test_sizes_and_horizons_are_those_of_the_recipe(depth, millions, batch, iterations, decay):
    model, plan = full_size(depth)
    assert round(model.parameter_counts()["total"] / 1e6, 1) == millions
    assert (plan.batch_tokens, plan.num_iterations) == (batch, iterations)
    assert plan.decay_scale == pytest.approx(decay, abs=5e-4)
    assert plan.lr_scale == math.sqrt(batch / 2**19)


def test_depth_12_is_counted_exactly_and_every_factor_is_one():
    model, plan = full_size(12)
    counts = model.parameter_counts()
    gates = 6 * 6 * 32
    assert counts["wte"] == counts["lm_head"] == 32768 * 768
    assert counts["value_embeds"] == 6 * 32768 * 768
    assert counts["matrices"] == 12 * 12 * 768**2 + gates
    assert counts["total"] == 286_262_424
    assert counts["scaling"] == 110_101_632
    assert (plan.lr_scale, plan.decay_scale) == (1.0, 1.0)
    assert model.flops_per_token() == pytest.approx(8.02e8, rel=1e-3)


def test_the_horizon_takes_iterations_then_flops_then_seconds_then_the_feeder():
    args = base_train.parse_args(["--num-iterations", "7", "--target-flops", "1e18", "--time-budget", "5"])
    model, _ = full_size(12)

    def steps(**changes):
        for name, value in changes.items():
            setattr(args, name, value)
        return base_train.make_plan(args, model, budget=3 * 2**19 + 1).num_iterations

    assert steps() == 7
    assert steps(num_iterations=-1) == round(1e18 / (model.flops_per_token() * 2**19))
    assert steps(target_flops=-1.0) == 0
    assert steps(time_budget=-1.0) == 3


def test_the_learning_rate_warms_up_holds_and_falls_to_its_final_fraction():
    args = base_train.parse_args(["--warmup-ratio", "0.2", "--warmdown-ratio", "0.4", "--final-lr-frac", "0.1"])
    at = [base_train.lr_multiplier(args, progress) for progress in (0.1, 0.4, 0.6, 0.8, 1.0)]
    assert at == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])


def test_momentum_rises_over_300_steps_and_decay_falls_to_zero():
    assert [base_train.muon_momentum(step) for step in (0, 150, 300, 900)] == pytest.approx([0.85, 0.9, 0.95, 0.95])
    assert [base_train.decay_multiplier(p) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


def test_every_parameter_is_in_one_group_with_the_learning_rate_of_its_kind():
    args = base_train.parse_args(["--lr-scale", "2", "--matrix-lr-scale", "3", "--decay-scale", "0.5"])
    model = tiny_model()
    groups = base_train.make_optimizer(args, model, base_train.make_plan(args, model)).param_groups
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sorted(lr) == sorted(id(p) for p in model.parameters())
    width = (64 / 768) ** -0.5
    expected = {
        "wte.weight": 2 * 0.3 * width,
        "value_embeds.1.weight": 2 * 0.3 * width,
        "lm_head.weight": 2 * 0.004 * width,
        "resid_lambdas": 2 * 0.005,
        "x0_lambdas": 2 * 0.5,
        "blocks.0.mlp.c_fc.weight": 2 * 3 * 0.02,
    }
    named = dict(model.named_parameters())
    assert {name: lr[id(named[name])] for name in expected} == pytest.approx(expected)
    assert {group["weight_decay"] for group in groups if group["kind"] == "muon"} == {0.1}


# Model


def test_windows_tile_the_pattern_and_the_last_layer_sees_everything():
    config = gpt.GPTConfig(sequence_len=2048, n_layer=6, window_pattern="SSSL")
    assert gpt.window_sizes(config) == [1024, 1024, 1024, 2048, 1024, 2048]


def test_rotation_turns_each_pair_of_halves_by_position_times_frequency():
    cos, sin = gpt.rotary_table(5, 8)
    x = torch.randn(1, 5, 1, 8, generator=torch.Generator().manual_seed(0))
    turned = torch.view_as_complex(torch.stack(gpt.rotate(x, cos, sin).chunk(2, dim=-1), dim=-1))
    whole = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1))
    angle = torch.arange(5)[:, None] * 10000.0 ** -(torch.arange(4) / 4)
    torch.testing.assert_close(turned, whole * torch.polar(torch.ones(5, 4), -angle)[None, :, None])


def test_scores_depend_on_relative_position_only():
    cos, sin = gpt.rotary_table(12, 8)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    rows = [gpt.rotate(x.expand(1, 12, 1, 8), cos, sin)[0, :, 0] for x in (q, k)]
    scores = rows[0] @ rows[1].T
    torch.testing.assert_close(scores[3, 1], scores[9, 7])
    assert not torch.isclose(scores[3, 1], scores[9, 6])


def test_queries_and_keys_have_unit_size_when_they_meet(monkeypatch):
    seen = []
    monkeypatch.setattr(gpt, "attention", lambda q, k, v, window: seen.append((q, k)) or attention(q, k, v, window))
    tiny_model()(torch.arange(8)[None])
    for x in (x for pair in seen for x in pair):
        torch.testing.assert_close(x.square().mean(dim=-1), torch.ones(1, 8, 2), rtol=1e-3, atol=1e-3)


def test_logits_never_exceed_the_softcap_and_are_cropped_to_the_vocabulary():
    model = tiny_model()
    torch.nn.init.normal_(model.lm_head.weight, std=100.0, generator=torch.Generator().manual_seed(0))
    logits = model(torch.arange(16)[None])
    assert model.lm_head.weight.shape == (64, 64)
    assert logits.shape == (1, 16, 50)
    assert 19.9 < logits.abs().max() <= gpt.LOGIT_SOFTCAP


def test_a_new_model_knows_nothing_and_a_later_token_changes_nothing_before_it():
    model = tiny_model()
    torch.nn.init.normal_(model.blocks[0].attn.c_proj.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[:, 9] = (ids[:, 9] + 1) % 50
    before, after = model(ids), model(other)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])
    assert model(ids, ids).item() == pytest.approx(math.log(50), abs=0.05)


def test_initial_values_follow_their_laws():
    model = tiny_model(config=gpt.GPTConfig(64, 1000, 2, 4, 4, 128))
    std = {name: p.std().item() for name, p in model.named_parameters() if p.numel() > 2}
    assert std["wte.weight"] == pytest.approx(1.0, rel=0.02)
    assert std["lm_head.weight"] == pytest.approx(0.001, rel=0.02)
    for name in ("blocks.0.attn.c_q.weight", "blocks.1.mlp.c_fc.weight", "value_embeds.1.weight"):
        assert std[name] == pytest.approx(128**-0.5, rel=0.02)
    assert std["blocks.0.attn.c_proj.weight"] == std["blocks.1.mlp.c_proj.weight"] == 0
    assert model.resid_lambdas.tolist() == [1.0, 1.0]
    assert model.x0_lambdas.tolist() == pytest.approx([0.1, 0.1])


def test_a_new_parameter_leaves_the_initial_values_of_all_others_as_they_were():
    shallow, deep = tiny_model(seed=3), tiny_model(seed=3, config=gpt.GPTConfig(16, 50, 4, 2, 2, 64))
    deep_values = dict(deep.named_parameters())
    drawn = [name for name in dict(shallow.named_parameters()) if not name.endswith("lambdas")]
    assert all(torch.equal(shallow.get_parameter(name), deep_values[name]) for name in drawn)
    assert not torch.equal(shallow.wte.weight, tiny_model(seed=4).wte.weight)


def test_a_checkpoint_comes_back_as_the_same_function(tmp_path):
    model, ids = tiny_model(seed=5), torch.arange(16)[None]
    torch.nn.init.normal_(model.blocks[1].mlp.c_proj.weight, generator=torch.Generator().manual_seed(0))
    gpt.save(model, tmp_path / "checkpoint.safetensors")
    assert torch.equal(gpt.load(tmp_path / "checkpoint.safetensors")(ids), model(ids))


# Optimiser


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
def test_polar_express_brings_singular_values_near_one_and_keeps_directions(shape):
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    found = optim.polar_express(u * torch.logspace(-2, 0, 64) @ vt)
    values = torch.linalg.svdvals(found)
    assert 0.8 < values.min() <= values.max() < 1.2
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ vt).flatten(), dim=0) > 0.99


def test_variance_reduction_evens_out_the_rows_and_keeps_the_norm():
    update = torch.tensor([[[3.0, 4.0], [0.3, -0.4]]])
    second_moment = torch.zeros(1, 2, 1)
    evened = optim.reduce_variance(update, second_moment, 0.95)
    rows = evened.norm(dim=-1)[0]
    assert second_moment.flatten().tolist() == pytest.approx([0.05 * 12.5, 0.05 * 0.125])
    assert rows[0].item() == pytest.approx(rows[1].item(), rel=1e-4)
    assert evened.norm().item() == pytest.approx(update.norm().item(), rel=1e-4)


def test_decay_acts_only_where_update_and_weight_agree_in_sign(monkeypatch):
    monkeypatch.setattr(optim, "polar_express", lambda g: torch.sign(g))
    monkeypatch.setattr(optim, "reduce_variance", lambda update, *_: update)
    p = torch.tensor([[[2.0, -2.0], [2.0, -2.0]]])
    grad = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    optim.muon_step(p, grad, torch.zeros_like(p), None, lr=0.1, momentum=0.9, beta2=0.95, weight_decay=0.5)
    # agree: 2 - 0.1 - 0.1 * 0.5 * 2 = 1.8; disagree: 2 + 0.1
    torch.testing.assert_close(p, torch.tensor([[[1.8, -2.1], [2.1, -1.8]]]))


def test_muon_looks_ahead_along_its_momentum_and_steps_tall_matrices_further(monkeypatch):
    monkeypatch.setattr(optim, "polar_express", lambda g: g)
    monkeypatch.setattr(optim, "reduce_variance", lambda update, *_: update)
    p, buffer, grad = torch.zeros(1, 4, 1), torch.full((1, 4, 1), 2.0), torch.ones(1, 4, 1)
    optim.muon_step(p, grad, buffer, None, lr=0.1, momentum=0.9, beta2=0.95, weight_decay=0.0)
    averaged = 0.9 * 2 + 0.1 * 1
    assert buffer[0, 0].item() == pytest.approx(averaged)
    assert p[0, 0].item() == pytest.approx(-0.1 * 2 * (0.1 * 1 + 0.9 * averaged))  # sqrt(4 rows / 1 column) = 2


def test_adamw_agrees_with_the_one_in_torch():
    start, grads = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.arange(40.0).view(4, 10) - 17
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.3}
    optimizers = [
        (ours, optim.MuonAdamW([{"kind": "adamw", "params": [ours], **settings}])),
        (theirs, torch.optim.AdamW([theirs], **settings)),
    ]
    for grad in grads:
        for p, optimizer in optimizers:
            p.grad = grad.view(2, 5).clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_a_gradient_is_left_alone():
    used, unused = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    group = {"kind": "muon", "params": [unused, used], "lr": 0.1, "momentum": 0.9, "beta2": 0.95, "weight_decay": 0.0}
    used.grad = torch.eye(2)
    optim.MuonAdamW([group]).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))
