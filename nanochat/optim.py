"""The optimiser: one class, parameter groups of two kinds, AdamW and Muon.

Muon here is Nesterov momentum, Polar Express orthogonalisation (arXiv 2505.16932), NorMuon variance reduction
(arXiv 2510.05491) and cautious weight decay. The two step functions are compiled on a GPU; what changes from step to step
reaches them there as 0-D tensors, so that they compile once. On several GPUs each rank steps its own rows (ZeRO-2); on one
they are all its own: the code is the same.
"""

from collections import defaultdict
from functools import cache

import torch

from nanochat.distributed import all_rows, mean_of_own_rows, own_rows

POLAR_NORM_FACTOR = 1.02
NORM_EPS = 1e-6
NEURON_EPS = 1e-10

# The optimal quintics for singular values in [1e-3, 1], five steps, cushion 0.0241 (the paper's table)
POLAR_EXPRESS = (
    (8.287212018145624, -23.59588651909883, 17.300387312530926),
    (4.1070591115422, -2.94784991673791, 0.5448431082926602),
    (3.9486908534822938, -2.9089021159629462, 0.551819139437013),
    (3.318419657370601, -2.488488024314875, 0.5100489401237203),
    (2.300652019954818, -1.6689039845747498, 0.418807311952567),
)


def polar_express(g):
    """Return the nearest (semi-)orthogonal matrices to g (N, rows, cols): singular values move to about 1."""
    x = g.bfloat16() if g.is_cuda else g
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * POLAR_NORM_FACTOR + NORM_EPS)
    for a, b, c in POLAR_EXPRESS: # x <- a x + (b G + c G G) x, where G = x x'
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(g.dtype)


def reduce_variance(update, second_moment, beta2):
    """Divide each output neuron's row by its running size, then restore each matrix's norm (NorMuon)."""
    second_moment.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - beta2) # (N, rows, 1)
    scaled = update * (second_moment + NEURON_EPS).rsqrt()
    ratio = update.norm(dim=(-2, -1), keepdim=True) / (scaled.norm(dim=(-2, -1), keepdim=True) + NEURON_EPS)
    return scaled * ratio


def muon_step(p, grad, momentum_buffer, second_moment, lr, momentum, beta2, weight_decay):
    """Step matrices of one shape, stacked (N, rows, cols), in place."""
    momentum_buffer.lerp_(grad, 1 - momentum)
    nesterov = grad.lerp(momentum_buffer, momentum)
    update = reduce_variance(polar_express(nesterov), second_moment, beta2)
    shape_scale = max(1.0, p.size(-2) / p.size(-1)) ** 0.5
    agrees = (update * p) >= 0 # decay only where it goes the way of the update
    p.sub_(lr * shape_scale * update + lr * shape_scale * weight_decay * p * agrees)


def adamw_step(p, grad, first_moment, second_moment, step, lr, beta1, beta2, eps, weight_decay):
    """Step one tensor in place; the moments are fp32."""
    grad = grad.float()
    first_moment.lerp_(grad, 1 - beta1)
    second_moment.lerp_(grad.square(), 1 - beta2)
    corrected_first = first_moment / (1 - beta1**step)
    corrected_second = second_moment / (1 - beta2**step)
    update = corrected_first / (corrected_second.sqrt() + eps)
    p.copy_(p.float() * (1 - lr * weight_decay) - lr * update)


@cache
def compiled(step_function):
    return torch.compile(step_function, dynamic=False, fullgraph=True)


class MuonAdamW:
    """AdamW for groups of kind "adamw", Muon for groups of kind "muon" (one shape of matrix a group).

    An adamw group has lr, betas, eps, weight_decay; a muon group lr, momentum, beta2, weight_decay. A group of matrices is
    stepped as one stack, every other tensor alone; of each, a rank keeps the state of its own rows only. It is no
    torch.optim.Optimizer, whose constructor imports the compiler: 3 s of every process.
    """

    def __init__(self, groups):
        self.param_groups = groups
        self.state = defaultdict(dict) # first parameter of a stack -> name -> tensor of the own rows
        self.scalars = {} # name -> 0-D tensor

    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self):
        """Step every parameter that has a gradient: average, deal out, step the own rows, collect."""
        pieces = [(group, params) for group in self.param_groups for params in stacks(group)]
        averaged = [mean_of_own_rows(stacked([p.grad for p in params], group)) for group, params in pieces]
        collected = []
        for (group, params), grads in zip(pieces, averaged):
            values = stacked(params, group)
            own = own_rows(values)
            step_rows = self.step_muon if group["kind"] == "muon" else self.step_adamw
            step_rows(own, grads(), self.state[params[0]], group)
            collected.append(all_rows(own, len(values)))
        for (group, params), values in zip(pieces, collected):
            torch._foreach_copy_(params, list(values().unbind()) if group["kind"] == "muon" else [values()])

    def step_adamw(self, p, grad, state, group):
        if not state:
            state["step"] = 0
            state["first_moment"] = torch.zeros_like(p, dtype=torch.float32)
            state["second_moment"] = torch.zeros_like(p, dtype=torch.float32)
        state["step"] += 1
        function = compiled(adamw_step) if p.is_cuda else adamw_step
        names = ("step", "lr", "beta1", "beta2", "eps", "weight_decay")
        values = (state["step"], group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        function(p, grad, state["first_moment"], state["second_moment"], *self.numbers(names, values, p.is_cuda))

    def step_muon(self, p, grad, state, group):
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
            state["second_moment"] = torch.zeros_like(p[:, :, :1])
        function = compiled(muon_step) if p.is_cuda else muon_step
        names = ("lr", "momentum", "beta2", "weight_decay")
        values = [group[name] for name in names]
        function(p, grad, state["momentum_buffer"], state["second_moment"], *self.numbers(names, values, p.is_cuda))

    def numbers(self, names, values, is_compiled):
        """Return values as a step function takes them; compiled, each in the same 0-D tensor at every step."""
        if not is_compiled:
            return values
        for name, value in zip(names, values):
            if name not in self.scalars:
                self.scalars[name] = torch.zeros(())
            self.scalars[name].fill_(value)
        return [self.scalars[name] for name in names]


def stacks(group):
    """Return lists of parameters with a gradient that are stepped together."""
    params = [p for p in group["params"] if p.grad is not None]
    if group["kind"] == "muon":
        return [params] if params else []
    return [[p] for p in params]


def stacked(tensors, group):
    """Return (N, rows, cols) for matrices; any other tensor comes alone and stays as it is."""
    return torch.stack(tensors) if group["kind"] == "muon" else tensors[0]
