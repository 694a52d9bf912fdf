"""What this machine has: CUDA GPUs and usable cores, found without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cuda_gpus() -> tuple[str, ...]:
    """Return the names of the CUDA GPUs here, as nvidia-smi lists them; none if they are hidden or it is missing."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return ()
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return tuple(node.name for node in sorted(Path("/dev").glob("nvidia[0-9]*")))
    command = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ()
    return tuple(line.strip() for line in listed.splitlines() if line.strip())


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


def _quota(cores: int) -> int:
    """Return the whole cores of the container's CPU quota, or `cores` if it has none."""
    if not CPU_QUOTA.is_file():
        return cores
    limit, period = CPU_QUOTA.read_text().split()
    return cores if limit == "max" else int(limit) // int(period)
