"""What this machine can do, and how to mend what it can not: the findings of `evolve doctor`."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from evolve.hardware import cuda_gpus, described, usable_cores
from evolve.presets import choose_preset
from fitness.gpus import Gpu

NEEDED_BYTES = 2 * 10**9  # of free disk: workspaces, checkpoints, the lineage


@dataclass(frozen=True)
class Finding:
    """One thing about this machine. `fix` says what to do about it; empty if nothing needs doing."""

    name: str
    ok: bool
    what: str
    fix: str = ""


def diagnose(runs: Path, cache: Path) -> list[Finding]:
    """Return what there is to know before a run; `cache` is the folder of prepared data and scores."""
    return [
        _torch(_version("torch"), cuda_gpus()),
        _device(cuda_gpus()),
        _cores(),
        _sandbox(shutil.which("bwrap")),
        _key(os.environ),
        _data(cache / "data"),
        _disk("disk for runs", runs),
        _disk("disk for the cache", cache),
    ]


def as_text(findings: Iterable[Finding]) -> str:
    """Return one line per finding, and one more for what to do about it."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.ok else 'LOOK'}  {finding.name}: {finding.what}")
        if finding.fix:
            lines.append(f"      -> {finding.fix}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> list[dict[str, object]]:
    """Return the findings as JSON values: {name, ok, what, fix}."""
    return [asdict(finding) for finding in findings]


def _version(package: str) -> str | None:
    """Return the installed version, without importing the package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(version: str | None, gpus: tuple[Gpu, ...]) -> Finding:
    what = f"Python {platform.python_version()}, torch {version or 'missing'}"
    if version is None:
        return Finding("python", False, what, "install torch with `pip install torch`; the bundled nanochat needs it")
    if gpus and "+cpu" in version:
        return Finding("python", False, what, "this torch can not use the GPU that is here; install a CUDA build of it")
    return Finding("python", True, what)


def _device(gpus: tuple[Gpu, ...]) -> Finding:
    choice = choose_preset("nanochat")
    return Finding(
        "device", True, f"{described(gpus)}; `--preset auto` of nanochat is {choice.name}, which needs {choice.needs}"
    )


def _cores() -> Finding:
    return Finding(
        "cores",
        True,
        f"{usable_cores()} usable; `--workers auto` is that, divided by the target's threads, or what the GPUs hold",
    )


def _sandbox(bubblewrap: str | None) -> Finding:
    """Say what this version does, which is the same with and without bubblewrap."""
    found = f"bubblewrap is at {bubblewrap} and not used yet" if bubblewrap else "bubblewrap is not installed"
    return Finding(
        "sandbox",
        False,
        f"none: runs get an empty environment (no keys), but can read and write your files ({found})",
        "score only patches that you would run yourself, or run evolve in a container",
    )


def _key(environment: Mapping[str, str]) -> Finding:
    """Say whether a key is there, by the name of its variable only."""
    names = sorted(name for name in environment if name.startswith("ANTHROPIC_") and environment[name])
    found = f"{', '.join(names)} set" if names else "not set"
    return Finding("API key", True, f"{found}; not needed, this version breeds without an LLM (operator local)")


def _data(folder: Path) -> Finding:
    prepared = [path for path in folder.glob("*") if path.is_dir() and not path.suffix]  # .tmp is not finished
    if prepared:
        return Finding("data", True, f"{len(prepared)} prepared set(s) in {folder}")
    return Finding("data", True, f"none prepared in {folder} yet; the first run of a target does it")


def _disk(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    what = f"{free / 1e9:.1f} GB free at {there}"
    if not os.access(there, os.W_OK):
        return Finding(name, False, f"{there} is not writable", "choose another folder or change its permissions")
    if free < NEEDED_BYTES:
        return Finding(name, False, what, f"free some: a run wants {NEEDED_BYTES / 1e9:.0f} GB")
    return Finding(name, True, what)
