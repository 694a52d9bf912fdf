"""A training that can go on where it was: weights, optimiser states of every rank, random state, position.

    OUT/training/step_000200/{model.safetensors, rank_0.safetensors, ..., position.json}

Each is written beside and renamed, then the one before is removed: there is always a whole one. On a CPU a resumed training
ends with the same bits as an uninterrupted one. What an evaluation is judged by is gpt.save's file alone.
"""

import json
import os
import shutil

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat.distributed import rank, wait_for_all, world_size
from nanochat.mistakes import NotResumable, SaveFailed, TrainingThere

FOLDER = "training"


def own_state(model, optimizer):
    """Return name -> tensor of everything that this rank alone knows."""
    names = {p: name for name, p in model.named_parameters()}
    tensors = {"random.cpu": torch.get_rng_state()}
    if next(model.parameters()).is_cuda:
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for p, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"state.{names[p]}/{key}"] = value if torch.is_tensor(value) else torch.tensor(value)
    return tensors


def restore_own_state(model, optimizer, tensors):
    torch.set_rng_state(tensors.pop("random.cpu"))
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors.pop("random.cuda"))
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        owner, _, key = name.removeprefix("state.").partition("/")
        p = parameters[owner]
        optimizer.state[p][key] = tensor.to(p.device) if tensor.dim() else tensor.item()


def check_free(folder):
    """Refuse a folder that holds the checkpoints of another training."""
    if folder and any((folder / FOLDER).glob("step_*")):
        raise TrainingThere(folder)


def save(folder, model, optimizer, position):
    """Write a checkpoint of all ranks; `position` is what JSON can hold, with a key `step`."""
    try:
        write(folder / FOLDER, model, optimizer, position)
    except (OSError, SafetensorError) as error:
        raise SaveFailed(folder, error) from error


def write(base, model, optimizer, position):
    whole = base / f"step_{position['step']:06d}"
    beside = base / f".{whole.name}.partial"
    if rank() == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    wait_for_all()
    save_file(own_state(model, optimizer), str(beside / f"rank_{rank()}.safetensors"))
    if rank() == 0:
        save_file({name: p.detach() for name, p in model.named_parameters()}, str(beside / "model.safetensors"))
        (beside / "position.json").write_text(json.dumps({**position, "world_size": world_size()}))
    wait_for_all()
    if rank() == 0:
        shutil.rmtree(whole, ignore_errors=True)
        os.rename(beside, whole)
        for old in set(base.glob("step_*")) - {whole}:
            shutil.rmtree(old)


def load(folder, model, optimizer, recipe):
    """Restore the newest checkpoint of a training with this recipe; return its position."""
    found = sorted((folder / FOLDER).glob("step_*"))
    if not found:
        raise NotResumable(folder, "no checkpoint lies there; train with --save-every first")
    try:
        return restore(found[-1], folder, model, optimizer, recipe)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise NotResumable(folder, f"{found[-1].name} is damaged or of another model ({reason})") from error


def restore(whole, folder, model, optimizer, recipe):
    position = json.loads((whole / "position.json").read_text())
    if position["world_size"] != world_size():
        raise NotResumable(folder, f"it was trained by {position['world_size']} process(es) and this is {world_size()}")
    for name, value in recipe.items():
        if position["recipe"].get(name) != value:
            raise NotResumable(folder, f"--{name.replace('_', '-')} was {position['recipe'].get(name)} and is now {value}")
    model.load_state_dict(load_file(str(whole / "model.safetensors")))
    restore_own_state(model, optimizer, load_file(str(whole / f"rank_{rank()}.safetensors")))
    return position
