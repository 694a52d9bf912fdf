"""The cache of evaluations: one JSON file per key. What was scored once on this machine is not scored again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fitness.evaluation import Evaluation, Job, Point
from fitness.target import Rung, Target
from fitness.workspace import frozen_hash
from population.genes import tree_id
from population.individuals import Genotype, Status

KERNELS = (
    "flash-attn",
    "flash-attn-3",
    "triton",
)  # packages that a program takes its fastest kernel from, if installed
KERNEL_MODULE = "flash_attn_interface"
FORMAT = 2  # part of every key: raise it when the meaning of an entry changes


class Cache:
    """Evaluations by key. A damaged entry is no entry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str, job: Job, now: float) -> Evaluation | None:
        """Return what is known under `key` as an evaluation of `job` that cost nothing."""
        try:
            known = _decode(self._path(key).read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if known.evaluation_id == job.evaluation_id:  # paid for by a process that was killed before it could record it
            return known
        return replace(
            known,
            evaluation_id=job.evaluation_id,
            genotype=job.genotype,
            source_evaluation_id=known.source_evaluation_id or known.evaluation_id,
            train_seconds=0.0,
            wall_seconds=0.0,
            started_at=now,
        )

    def store(self, key: str, evaluation: Evaluation) -> None:
        """Keep an evaluation: written beside and renamed, so readers see it whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{key}.{os.getpid()}.{threading.get_ident()}.tmp")
        beside.write_text(json.dumps(asdict(evaluation)))
        beside.replace(path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def fingerprint(target: Target, base: Path, editable: Sequence[str], data: Path | None, device: str) -> str:
    """Return a hash of everything that a score depends on and that is the same for all jobs of a run."""
    commands = [target.feeder, target.server, target.judge, asdict(target.metric), sorted(target.variables.items())]
    fixed = [software(target), device, target.threads, frozen_hash(base, editable), _data_id(data)]
    return _hash([FORMAT, commands, *fixed])


def software(target: Target) -> list[object]:
    """Return the versions that a score depends on, those that decide the attention kernel among them."""
    versions = [_version(module) for module in ("torch", "numpy", *target.preload, *KERNELS)]
    in_path = importlib.util.find_spec(KERNEL_MODULE) is not None  # installed by hand, without a version
    return [platform.python_version(), platform.machine(), versions, in_path]


def cache_key(fixed: str, rung: Rung, job: Job) -> str:
    """Return the key of a job on a rung, given the run's fingerprint."""
    return _hash([fixed, asdict(rung), tree_id(job.files), job.seed, job.split, job.replicate])


def device_model(gpus: Sequence[str]) -> str:
    """Return the model of the device that scores come from: the GPUs' names, or the processor's."""
    if gpus:
        return ", ".join(sorted(set(gpus)))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _data_id(data: Path | None) -> str | None:
    """Return what identifies prepared data: its manifest if it has one, else its folder's name, which is a hash."""
    if data is None:
        return None
    manifest = data / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else data.name


def _version(module: str) -> str:
    try:
        return f"{module} {importlib.metadata.version(module.partition('.')[0])}"
    except importlib.metadata.PackageNotFoundError:
        return module


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _decode(text: str) -> Evaluation:
    values = json.loads(text)
    values["genotype"] = Genotype(tuple(values["genotype"]["genes"]))
    values["status"] = Status(values["status"])
    values["curve"] = tuple(Point(**point) for point in values["curve"])
    evaluation = Evaluation(**values)
    _ = evaluation.result  # raises unless a score goes with ok and with nothing else
    return evaluation
