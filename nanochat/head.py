"""What follows the last matrix: softcap and cross entropy, by hand on an eager CPU, as plain expressions for a compiler.

At the CPU preset's size the logits are the largest tensor by far, and each pass over them costs as much as a layer. By hand
they are written once forward and once backward; a compiler fuses the plain expressions to the same.
"""

import torch
import torch.nn.functional as F


def by_hand(logits):
    return logits.device.type == "cpu" and logits.dtype == torch.float32 and not torch.compiler.is_compiling()


class Softcap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, cap):
        bounded = torch.sigmoid(logits * (2 / cap)).mul_(2).sub_(1) # tanh within 1e-7, in a third of its time
        ctx.save_for_backward(bounded)
        return bounded * cap

    @staticmethod
    def backward(ctx, grad):
        (bounded,) = ctx.saved_tensors
        return torch.addcmul(grad, grad * bounded, bounded, value=-1), None # d cap tanh(x / cap) = 1 - tanh^2


class CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets):
        log_p = F.log_softmax(logits, dim=-1) # (N, V)
        ctx.save_for_backward(log_p, targets)
        return -log_p.gather(1, targets[:, None]).mean()

    @staticmethod
    def backward(ctx, grad):
        log_p, targets = ctx.saved_tensors
        scale = grad / len(targets)
        grads = log_p.exp().mul_(scale)
        return grads.scatter_add_(1, targets[:, None], -scale.expand(len(targets), 1)), None


def softcap(logits, cap):
    """Return cap * tanh(logits / cap): values within (-cap, cap)."""
    return Softcap.apply(logits, cap) if by_hand(logits) else cap * torch.tanh(logits / cap)


def cross_entropy(logits, targets):
    """Return the mean nats of targets (N,) under logits (N, V)."""
    return CrossEntropy.apply(logits, targets) if by_hand(logits) else F.cross_entropy(logits, targets)
