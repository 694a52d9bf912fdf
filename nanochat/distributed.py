"""Several processes, one model: who I am, and the three exchanges that a step needs. Alone, each of them is nothing.

Started by nanochat.launch or torchrun, which set RANK, LOCAL_RANK and WORLD_SIZE. Tensors are dealt by their rows: rank r
owns the r-th of equal parts of dimension 0, padded with zeros to a multiple of the world size.
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F


def world_size():
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank():
    return int(os.environ.get("RANK", "0"))


def start(device):
    """Join the others, if there are any; return this process's own device."""
    if world_size() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop():
    if dist.is_initialized():
        dist.destroy_process_group()


# -----------------------------------------------------------------------------
# Exchanges of tensors. Each starts at once and returns a function that waits for it and returns the result.

def rows_of_one(n):
    """Return how many of n rows a rank owns, padding counted."""
    return -(-n // world_size())


def padded(full):
    """Return `full` (n, ...) with rows of zeros up to a multiple of the world size."""
    missing = rows_of_one(full.size(0)) * world_size() - full.size(0)
    return F.pad(full, (0, 0) * (full.dim() - 1) + (0, missing)) if missing else full


def own_rows(full):
    """Return this rank's rows of `full`: a view where nothing was padded."""
    n = rows_of_one(full.size(0))
    return padded(full)[rank() * n:(rank() + 1) * n]


def mean_of_own_rows(full):
    """Average `full` (n, ...) over the ranks; the result is this rank's rows of the mean."""
    if world_size() == 1:
        return lambda: full
    own = full.new_empty(rows_of_one(full.size(0)), *full.shape[1:])
    work = dist.reduce_scatter_tensor(own, padded(full).contiguous(), op=dist.ReduceOp.AVG, async_op=True)
    return lambda: (work.wait(), own)[1]


def all_rows(own, n):
    """Collect every rank's own rows; the result is (n, ...)."""
    if world_size() == 1:
        return lambda: own
    full = own.new_empty(own.size(0) * world_size(), *own.shape[1:])
    work = dist.all_gather_into_tensor(full, own.contiguous(), async_op=True)
    return lambda: (work.wait(), full[:n])[1]


def mean(tensor):
    """Average a small tensor over the ranks, in place; return it."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.AVG)
    return tensor


def wait_for_all():
    if world_size() > 1:
        dist.barrier()


# -----------------------------------------------------------------------------
# Exchanges of bytes, in host memory

class Herald:
    """Tells every rank what rank 0 says. It has a group of its own, so that a thread may use it during a step."""

    def __init__(self):
        self.group = dist.new_group(backend="gloo") if world_size() > 1 else None

    def tell(self, message):
        """Return rank 0's bytes; what the others pass is not looked at."""
        if self.group is None:
            return message
        length = torch.tensor(len(message) if rank() == 0 else 0)
        dist.broadcast(length, src=0, group=self.group)
        told = torch.empty(int(length), dtype=torch.uint8)
        if rank() == 0 and len(message):
            told = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        if len(told):
            dist.broadcast(told, src=0, group=self.group)
        return told.numpy().tobytes()
