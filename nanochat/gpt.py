"""The model: a decoder-only Transformer without biases and without learnable norms.

Rotary positions, QK norm, windowed attention, relu squared, value embeddings on alternating layers, and per-layer
scalars that mix the residual stream with the token embedding.
"""

import json
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_model, save_model

from nanochat.attention import attention, choose
from nanochat.common import keyed_generator, padded_vocab_size, pick_device, training_flops_per_token
from nanochat.head import cross_entropy, softcap

ROTARY_BASE = 10000.0
LOGIT_SOFTCAP = 20.0
MLP_RATIO = 4
GATE_CHANNELS = 32
GATE_SCALE = 2.0
SHORT_WINDOW_FRACTION = 0.5
RESID_LAMBDA_INIT = 1.0
X0_LAMBDA_INIT = 0.1
WTE_INIT_STD = 1.0
LM_HEAD_INIT_STD = 0.001
MATRIX_INIT_SCALE = 1.0
VALUE_EMBED_INIT_SCALE = 1.0


@dataclass(frozen=True)
class GPTConfig:
    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotary_table(T, head_dim):
    """Return cos, sin, each (1, T, 1, head_dim/2)."""
    frequency = ROTARY_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(T, dtype=torch.float32), frequency) # (T, D/2)
    return angle.cos()[None, :, None, :], angle.sin()[None, :, None, :]


def rotate(x, cos, sin):
    """Rotate the two halves of each head; x is (B, T, H, D)."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1).to(x.dtype)


def has_value_embed(layer, n_layer):
    """Say whether a layer has value embeddings: every second one, the last included."""
    return layer % 2 == (n_layer - 1) % 2


def window_sizes(config):
    """Return how far each layer looks to the left; the last layer always sees everything."""
    long = config.sequence_len
    short = int(long * SHORT_WINDOW_FRACTION)
    pattern = [config.window_pattern[i % len(config.window_pattern)] for i in range(config.n_layer)]
    return [long if letter == "L" else short for letter in pattern[:-1]] + [long]


class Linear(nn.Linear):
    """A matrix without bias: the weight is an fp32 master, cast to the dtype of what it multiplies."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        assert config.n_embd % config.n_head == 0 and config.n_head % config.n_kv_head == 0
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.head_dim = config.n_embd // config.n_head
        self.c_q = Linear(config.n_embd, self.n_head * self.head_dim)
        self.c_k = Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.c_v = Linear(config.n_embd, self.n_kv_head * self.head_dim)
        self.c_proj = Linear(self.n_head * self.head_dim, config.n_embd)
        self.ve_gate = Linear(GATE_CHANNELS, self.n_kv_head) if has_value_embed(layer, config.n_layer) else None

    def forward(self, x, ve, cos, sin, window):
        B, T, C = x.shape
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim)
        k = self.c_k(x).view(B, T, self.n_kv_head, self.head_dim)
        v = self.c_v(x).view(B, T, self.n_kv_head, self.head_dim)
        if ve is not None:
            gate = GATE_SCALE * torch.sigmoid(self.ve_gate(x[..., :GATE_CHANNELS])) # (B, T, H_kv)
            v = v + gate.unsqueeze(-1) * ve.view(B, T, self.n_kv_head, self.head_dim)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k = norm(q), norm(k)
        y = attention(q, k, v, window) # (B, T, H, D)
        return self.c_proj(y.reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, MLP_RATIO * config.n_embd)
        self.c_proj = Linear(MLP_RATIO * config.n_embd, config.n_embd)

    def forward(self, x):
        x = self.c_fc(x)
        x = F.relu(x).square()
        return self.c_proj(x)


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin, window):
        x = x + self.attn(norm(x), ve, cos, sin, window)
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.windows = window_sizes(config)
        padded_vocab = padded_vocab_size(config.vocab_size)
        head_dim = config.n_embd // config.n_head
        self.wte = nn.Embedding(padded_vocab, config.n_embd)
        self.blocks = nn.ModuleList([Block(config, i) for i in range(config.n_layer)])
        self.value_embeds = nn.ModuleDict({
            str(i): nn.Embedding(padded_vocab, config.n_kv_head * head_dim)
            for i in range(config.n_layer) if has_value_embed(i, config.n_layer)
        })
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        self.lm_head = Linear(config.n_embd, padded_vocab)
        cos, sin = rotary_table(config.sequence_len, head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def init_weights(self, seed):
        """Draw every parameter from its own generator. One not named here keeps what its constructor gave it."""
        bound = 3**0.5 * self.config.n_embd**-0.5 # uniform within it has std n_embd**-0.5
        for name, p in self.named_parameters():
            generator = keyed_generator(seed, name, p.device)
            if name == "wte.weight":
                p.normal_(0.0, WTE_INIT_STD, generator=generator)
            elif name == "lm_head.weight":
                p.normal_(0.0, LM_HEAD_INIT_STD, generator=generator)
            elif name.endswith(("c_q.weight", "c_k.weight", "c_v.weight", "c_fc.weight")):
                p.uniform_(-bound * MATRIX_INIT_SCALE, bound * MATRIX_INIT_SCALE, generator=generator)
            elif name.startswith("value_embeds."):
                p.uniform_(-bound * VALUE_EMBED_INIT_SCALE, bound * VALUE_EMBED_INIT_SCALE, generator=generator)
            elif name.endswith(("c_proj.weight", "ve_gate.weight")):
                p.zero_()
            elif name == "resid_lambdas":
                p.fill_(RESID_LAMBDA_INIT)
            elif name == "x0_lambdas":
                p.fill_(X0_LAMBDA_INIT)

    def set_compute_dtype(self, dtype):
        """Keep embeddings and rotary tables in the compute dtype; everything that follows from them is in it too."""
        for module in (self.wte, *self.value_embeds.values()):
            module.to(dtype)
        self.cos, self.sin = self.cos.to(dtype), self.sin.to(dtype)

    def parameter_kinds(self):
        """Return kind -> parameters: what the optimiser treats alike."""
        return {
            "wte": list(self.wte.parameters()),
            "value_embeds": list(self.value_embeds.parameters()),
            "lm_head": list(self.lm_head.parameters()),
            "matrices": list(self.blocks.parameters()),
            "resid_lambdas": [self.resid_lambdas],
            "x0_lambdas": [self.x0_lambdas],
        }

    def parameter_counts(self):
        """Return kind -> number of parameters, the total, and those that scaling laws count (matrices + lm_head)."""
        counts = {kind: sum(p.numel() for p in params) for kind, params in self.parameter_kinds().items()}
        total = sum(p.numel() for p in self.parameters())
        assert sum(counts.values()) == total, "a parameter is of no kind, or of two"
        return {**counts, "total": total, "scaling": counts["matrices"] + counts["lm_head"]}

    def flops_per_token(self):
        attended = sum(min(window, self.config.sequence_len) for window in self.windows)
        return training_flops_per_token(self.parameter_counts()["scaling"], self.config.n_embd, attended)

    def forward(self, idx, targets=None):
        """Return logits (B, T, V) in fp32, or the mean loss if targets (B, T) are given."""
        B, T = idx.shape
        assert T <= self.cos.size(1), f"{T} tokens are more than the rotary table holds, {self.cos.size(1)}"
        cos, sin = self.cos[:, :T], self.sin[:, :T]
        x = norm(self.wte(idx)) # (B, T, C)
        x0 = x
        for i, block in enumerate(self.blocks):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](idx) if str(i) in self.value_embeds else None
            x = block(x, ve, cos, sin, self.windows[i])
        x = norm(x)
        logits = self.lm_head(x)[..., :self.config.vocab_size].float() # (B, T, V)
        logits = softcap(logits, LOGIT_SOFTCAP)
        if targets is None:
            return logits
        return cross_entropy(logits.reshape(B * T, -1), targets.reshape(B * T))


# -----------------------------------------------------------------------------
# Checkpoints: what serve.py loads in a fresh process

def save(model, path):
    """Write a safetensors file with the config in its metadata."""
    save_model(model, str(path), metadata={"config": json.dumps(asdict(model.config))})


def load(path, device=None):
    """Return a callable: token ids (B, T) -> logits (B, T, V) in fp32."""
    device = device or pick_device()
    choose(device)
    with safe_open(str(path), framework="pt") as file:
        config = GPTConfig(**json.loads(file.metadata()["config"]))
    model = GPT(config).to(device)
    if device.type == "cuda":
        model.set_compute_dtype(torch.bfloat16)
    load_model(model, str(path), device=str(device))
    return model.eval()
