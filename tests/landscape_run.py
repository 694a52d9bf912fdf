"""A whole run on the landscape with the scripted executor: the engine for real, training replaced by its law."""

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

from evolve.breeding import Breeder
from evolve.dispatch import Dispatch
from evolve.engine import Engine, Limits, Progress
from evolve.inbox import Inbox
from evolve.lineage import Lineage
from evolve.records import Run
from evolve.target_files import load_target, skip_flags
from fitness.evaluation import Job
from fitness.scripted import ScriptedExecutor
from fitness.workspace import read_base
from population.individuals import Status
from population.knobs import find_knobs, null_genes
from population.strategy import RungInfo, Strategy, StrategySettings

STEPS = {"screen": 100, "full": 1000}


def landscape() -> ModuleType:
    path = load_target("landscape").root / "score.py"
    spec = importlib.util.spec_from_file_location("landscape_score", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def law(instance: int):
    """Return a script that scores a job as the landscape's score.py would."""
    score = landscape()

    def script(job: Job) -> float | Status:
        text = job.files["knobs.py"]
        key = hashlib.sha256(text.encode()).hexdigest()
        try:
            return score.score(instance, score.read_values(text), key, job.seed, STEPS[job.rung])
        except score.TooFar:
            return Status.CRASHED

    return script


class ScriptedRun:
    """The parts of a run in `directory`, which may hold the lineage of an earlier one that was cut off."""

    def __init__(self, directory: Path, slots: int = 2, order: int = 0, replicates: int = 4, **limits) -> None:
        target = load_target("landscape")
        base = read_base(target.root, target.editable)
        run = Run("run", target.name, "loss", "minimize", ("screen", "full"), {}, 0)
        fresh = not (directory / "engine.duckdb").exists()
        self.lineage = Lineage.create(directory, run, base) if fresh else Lineage.open(directory)
        self.executor = ScriptedExecutor(law(0), slots, order)
        knobs = find_knobs(base, skip_flags(target))
        breeder = Breeder("run", base, knobs)
        dispatch = Dispatch("run", base, breeder.genes, self.executor, self.lineage)
        settings = StrategySettings(offspring=12, lag=12, replicate_seeds=tuple(range(1000, 1000 + replicates)))
        strategy = Strategy(settings, [RungInfo(rung.name, rung.seeds) for rung in target.rungs], "minimize", 0)
        bounds = Limits(**{"births": 49, **limits})
        self.seen: list[Progress] = []
        nulls = null_genes(base, knobs, 2)
        self.inbox = directory / "inbox"
        inbox = Inbox(self.inbox, base, len(self.lineage.individuals()), print)
        watch = self.seen.append
        self.engine = Engine(target, strategy, breeder, dispatch, self.lineage, nulls, bounds, watch, inbox)

    def lineage_told(self) -> list[tuple[object, ...]]:
        """Return everything about the run that must not depend on the machine."""
        people = [(i.birth, i.operator, i.genotype, i.parents, i.generation) for i in self.lineage.individuals()]
        scores = sorted((e.evaluation_id, e.status, e.score) for e in self.lineage.evaluations().values())
        return [*people, *scores]
