"""The optimiser: one class, parameter groups of two kinds, AdamW and Muon.

Muon here is Nesterov momentum, Polar Express orthogonalisation (arXiv 2505.16932), NorMuon variance reduction
(arXiv 2510.05491) and cautious weight decay. The two step functions see only tensors and are compiled on a GPU; what
changes from step to step reaches them as 0-D tensors, so that they compile once.

What is not covered: several GPUs. Each group is stepped as a whole, so that its work can later be dealt out by rank.
"""

from functools import cache

import torch

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
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
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


class MuonAdamW(torch.optim.Optimizer):
    """AdamW for groups of kind "adamw", Muon for groups of kind "muon" (one shape of matrix a group).

    An adamw group has lr, betas, eps, weight_decay; a muon group lr, momentum, beta2, weight_decay.
    """

    def __init__(self, groups):
        super().__init__(groups, defaults={})
        self.scalars = {} # name -> 0-D tensor

    def scalar(self, name, value):
        """Return a 0-D tensor that holds value: the same tensor for one name, so that nothing is compiled twice."""
        return self.scalars.setdefault(name, torch.zeros(())).fill_(value)

    @torch.no_grad()
    def step(self):
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["kind"] == "adamw":
                for p in params:
                    self.step_adamw(p, group)
            elif group["kind"] == "muon" and params:
                self.step_muon(params, group)

    def step_adamw(self, p, group):
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["first_moment"] = torch.zeros_like(p, dtype=torch.float32)
            state["second_moment"] = torch.zeros_like(p, dtype=torch.float32)
        state["step"] += 1
        function = compiled(adamw_step) if p.is_cuda else adamw_step
        names = ("step", "lr", "beta1", "beta2", "eps", "weight_decay")
        values = (state["step"], group["lr"], *group["betas"], group["eps"], group["weight_decay"])
        scalars = [self.scalar(name, value) for name, value in zip(names, values)]
        function(p, p.grad, state["first_moment"], state["second_moment"], *scalars)

    def step_muon(self, params, group):
        stacked = torch.stack(params) # (N, rows, cols)
        grads = torch.stack([p.grad for p in params])
        state = self.state[params[0]]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(stacked)
            state["second_moment"] = torch.zeros_like(stacked[:, :, :1])
        function = compiled(muon_step) if stacked.is_cuda else muon_step
        names = ("lr", "momentum", "beta2", "weight_decay")
        scalars = [self.scalar(name, group[name]) for name in names]
        function(stacked, grads, state["momentum_buffer"], state["second_moment"], *scalars)
        torch._foreach_copy_(params, list(stacked.unbind()))
