"""A session: the parts of a run put together from its run directory, and taken apart again at the end."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from evolve.breeding import Breeder
from evolve.dispatch import Dispatch
from evolve.engine import CONFIRM_SEED, Engine, Limits, Progress
from evolve.errors import NoCache, NothingToMove
from evolve.git import head_of
from evolve.hardware import described, usable_gpus
from evolve.inbox import Inbox
from evolve.lineage import Lineage
from evolve.records import Run
from evolve.run_directory import RunDirectory, new_run
from evolve.runlock import RunLock
from evolve.settings import RunSettings, read_run_toml, resolve, write_run_toml
from evolve.target_files import load_target, skip_flags
from evolve.target_tables import target_path
from fitness.cache import Cache
from fitness.gpus import Gpu, check_gpus
from fitness.pool import LocalPool
from fitness.prepare import prepare
from fitness.target import Target
from fitness.workspace import read_base, snapshot
from population.genes import BaseTree, Gene
from population.knobs import find_knobs, null_genes
from population.strategy import RungInfo, SharedSeeds, Strategy, StrategySettings

REPLICATE_SEED = 1_000  # replicates count up from here, confirmation from engine.CONFIRM_SEED


@dataclass(frozen=True)
class Foundation:
    """What a run begins with, beside the files of its base."""

    settings: RunSettings  # resolved
    target: Target
    toml: bytes  # of the target
    base: BaseTree
    commit: str | None  # where the base comes from, if it is known


def create(settings: RunSettings, wanted: Path | None) -> RunDirectory:
    """Make a run directory that holds all a run needs: settings, target, base and an empty lineage."""
    settings, target = resolve(settings)
    toml = target_path(settings.target).read_bytes()
    with new_run(wanted, target.name) as run:
        snapshot(target, run.base)
        base = read_base(run.base, target.editable)
        with _founded(run, Foundation(settings, target, toml, base, head_of(target.root))):
            pass
    return run


@contextmanager
def establish(wanted: Path | None, foundation: Foundation, folder: Path) -> Generator[tuple[RunDirectory, Lineage]]:
    """Make a run directory whose base is a copy of a folder; within, its lineage is open."""
    with new_run(wanted, foundation.target.name) as run:
        shutil.copytree(folder, run.base)
        with _founded(run, foundation) as lineage:
            yield run, lineage


@contextmanager
def _founded(run: RunDirectory, foundation: Foundation) -> Generator[Lineage]:
    """Write what a run directory needs beside its base; the lineage is published at the end."""
    run.target.write_bytes(foundation.toml)
    with Lineage.create(run.path, _run_of(run, foundation), foundation.base) as lineage:
        yield lineage
        lineage.publish()
    write_run_toml(run.settings, foundation.settings)


def _run_of(run: RunDirectory, foundation: Foundation) -> Run:
    settings, target = foundation.settings, foundation.target
    return Run(
        run_id=run.path.name,
        target=target.name,
        metric=target.metric.name,
        direction=target.metric.direction,
        rungs=tuple(rung.name for rung in target.rungs),
        config=asdict(settings),
        seed=settings.seed,
        git_commit=foundation.commit,
        machine=_machine(),
    )


@dataclass(frozen=True)
class Session:
    """A run that is open for work."""

    engine: Engine
    lineage: Lineage
    target: Target
    genes: Mapping[str, Gene]  # every gene of the run, growing
    workers: int
    breeds: bool  # False: only the base is scored


@contextmanager
def open_session(
    run: RunDirectory, show: Callable[[Progress], None], say: Callable[[str], None], caches: Path
) -> Generator[Session]:
    """Open a run for work: lock it, prepare its data, start its executor; close everything at the end."""
    settings = read_run_toml(run.settings)
    target = load_target(run.target, settings.preset, settings.variables, root=run.base)
    _check_seeds(target, settings.confirm_seeds)
    gpus = usable_gpus(target.gpu_memory_gb)
    check_gpus(target, gpus)
    workers = settings.workers or 1
    with ExitStack() as stack:
        stack.enter_context(RunLock(run.path))
        lineage = stack.enter_context(Lineage.open(run.path))
        say(_described(settings, target, workers, gpus))
        _make_folder(caches)
        data = prepare(target, run.base, caches / "data", say)
        pool = LocalPool(
            target,
            run.path,
            run.base,
            data,
            workers=workers,
            cache=Cache(caches / "scores"),
            gpus=gpus,
            compiled=caches / "compiled",
            keep_checkpoints=settings.keep_checkpoints,
        )
        stack.callback(pool.close)
        knobs = find_knobs(lineage.base, skip_flags(target))
        if settings.generations and not knobs:
            raise NothingToMove(target.name)
        breeder = Breeder(lineage.run_id, lineage.base, knobs)
        dispatch = Dispatch(lineage.run_id, lineage.base, breeder.genes, pool, lineage)
        nulls = null_genes(lineage.base, knobs, settings.null_genes)
        base = BaseTree(lineage.base.files, target.editable)  # what genes may add is the target's to say
        inbox = Inbox(run.inbox, base, len(lineage.individuals()), say)
        strategy, limits = _strategy(settings, target), _limits(settings)
        engine = Engine(target, strategy, breeder, dispatch, lineage, nulls, limits, show, inbox)
        breeds = settings.generations > 0 or inbox.expected > 0
        yield Session(engine, lineage, target, breeder.genes, workers, breeds)


def _described(settings: RunSettings, target: Target, workers: int, gpus: Sequence[Gpu]) -> str:
    place = f" on {described(gpus)}" if any(rung.gpus for rung in target.rungs) else ""
    preset = f" preset {settings.preset}," if settings.preset else ""
    ladder = " < ".join(f"{rung.name} ({len(rung.seeds)} seeds)" for rung in target.rungs)
    return (
        f"target        {target.name},{preset} rungs {ladder}, {workers} workers{place}\n"
        f"breeding      {settings.operator}: knob, recombine and drop; no model is asked\n"
        "sandbox       none: children get an empty environment and a time limit, and can reach your files"
    )


def _strategy(settings: RunSettings, target: Target) -> Strategy:
    rungs = [RungInfo(rung.name, rung.seeds) for rung in target.rungs]
    return Strategy(_strategy_settings(settings), rungs, target.metric.direction, settings.seed)


def _make_folder(caches: Path) -> None:
    """Find out before anything is paid for whether the caches can be written."""
    try:
        caches.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NoCache(caches, error) from error


def _check_seeds(target: Target, confirm_seeds: int) -> None:
    """Raise SharedSeeds if confirmation would use a seed that the search uses."""
    kept = range(CONFIRM_SEED, CONFIRM_SEED + confirm_seeds)
    shared = [seed for rung in target.rungs for seed in rung.seeds if seed in kept]
    if shared:
        raise SharedSeeds(shared)


def _strategy_settings(settings: RunSettings) -> StrategySettings:
    return StrategySettings(
        offspring=settings.offspring,
        population=settings.population,
        lag=settings.lag,
        replicate_seeds=tuple(range(REPLICATE_SEED, REPLICATE_SEED + settings.replicate_seeds)),
    )


def _limits(settings: RunSettings) -> Limits:
    births = settings.generations * settings.offspring + 1  # birth 0 is the base itself
    return Limits(births, settings.max_evaluations, settings.max_hours, settings.confirm_seeds)


def _machine() -> str:
    return f"{platform.node()}: {platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
