"""What this machine has: CUDA GPUs and usable cores, found without importing torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fitness.gpus import Gpu

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
MIB_PER_GB = 1e9 / 2**20


def cuda_gpus() -> tuple[Gpu, ...]:
    """Return the CUDA GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES if that is set.

    Numbers are those of nvidia-smi. As CUDA does, the first name that is no GPU ends the list.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [] if named is not None and not named.strip() else _all_gpus()
    if named is None or not there:
        return tuple(there)
    wanted = [name.strip() for name in named.split(",")]
    uuids = [] if all(map(_is_number, wanted)) else [row[0] for row in _ask("uuid")]
    found: list[Gpu] = []
    for name in wanted:
        gpu = _named(name, there, uuids)
        if gpu is None:
            break
        found.append(gpu)
    return tuple({gpu.visible_as: gpu for gpu in found}.values())


def enough_memory(gpus: Sequence[Gpu], memory_gb: float | None) -> tuple[Gpu, ...]:
    """Return the GPUs with at least this much memory, all of them if nothing is asked for."""
    return tuple(gpu for gpu in gpus if memory_gb is None or (gpu.memory_gb or 0.0) >= memory_gb)


def usable_gpus(memory_gb: float | None) -> tuple[Gpu, ...]:
    """Return the GPUs here that runs may use: those with enough memory, or all where none has that."""
    gpus = cuda_gpus()
    return enough_memory(gpus, memory_gb) or gpus


def described(gpus: Sequence[Gpu]) -> str:
    """Return GPUs in words, those of one model together: `2 x NVIDIA H100 (85.5 GB)`."""
    models = Counter((gpu.name, gpu.memory_gb) for gpu in gpus)
    parts = (f"{n} x {name} ({'memory unknown' if gb is None else f'{gb:g} GB'})" for (name, gb), n in models.items())
    return ", ".join(parts) or "no CUDA GPU"


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


def _all_gpus() -> list[Gpu]:
    """Return every GPU, hidden or not: as nvidia-smi lists them, or by their devices where it is missing."""
    if shutil.which("nvidia-smi") is None:
        nodes = sorted(Path("/dev").glob("nvidia[0-9]*"), key=lambda node: int(node.name.removeprefix("nvidia")))
        return [Gpu(str(i), node.name) for i, node in enumerate(nodes)]
    rows = _ask("name,memory.total")
    return [Gpu(str(i), row[0], _memory_gb(row[1] if len(row) > 1 else "")) for i, row in enumerate(rows)]


def _ask(query: str) -> list[list[str]]:
    """Return a row for each GPU; none if nvidia-smi fails, as it does without a driver."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.strip()]


def _named(name: str, there: Sequence[Gpu], uuids: Sequence[str]) -> Gpu | None:
    """Return the GPU of a number, a UUID or the beginning of one; a slice (MIG) is one, of unknown memory."""
    if name.startswith("MIG-"):
        return Gpu(name, "MIG slice")
    if _is_number(name):
        return there[int(name)] if int(name) < len(there) else None
    fitting = [i for i, uuid in enumerate(uuids) if name and uuid.startswith(name)]
    if len(fitting) != 1 or fitting[0] >= len(there):
        return None
    gpu = there[fitting[0]]
    return Gpu(uuids[fitting[0]], gpu.name, gpu.memory_gb)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _memory_gb(text: str) -> float | None:
    """Return the gigabytes of `81559 MiB`; None for what a GPU without memory of its own says."""
    number = re.match(r"\d+", text)
    return round(int(number[0]) / MIB_PER_GB, 1) if number else None


def _quota(cores: int) -> int:
    """Return the whole cores of the container's CPU quota, or `cores` if it has none."""
    if not CPU_QUOTA.is_file():
        return cores
    limit, period = CPU_QUOTA.read_text().split()
    return cores if limit == "max" else int(limit) // int(period)
