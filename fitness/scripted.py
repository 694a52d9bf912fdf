"""The scripted twin of an executor: a function in place of training. For tests, benchmarks and simulations."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fitness.evaluation import Evaluation, Job
from population.individuals import Status

Script = Callable[[Job], float | Status]


class ScriptedExecutor:
    """Answers every job by `script` at once, ending jobs that are queued together in an order of its own.

    `slots` jobs count as running; each wait() ends one of them, drawn by `order`, so that a test can check that
    nothing depends on which evaluation ends first.
    """

    def __init__(self, script: Script, slots: int = 1, order: int = 0) -> None:
        self._script = script
        self._slots = slots
        self._draw = random.Random(order)
        self._queue: list[Job] = []
        self.jobs: list[Job] = []  # everything that was ever submitted, in order

    @property
    def slots(self) -> int:
        """Return how many jobs run at once."""
        return self._slots

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._queue.append(job)
        self.jobs.append(job)

    def wait(self, timeout_s: float) -> Sequence[Evaluation]:
        """End one of the running jobs."""
        running = min(self._slots, len(self._queue))
        if not running:
            return ()
        return (self._answer(self._queue.pop(self._draw.randrange(running))),)

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def _answer(self, job: Job) -> Evaluation:
        answer = self._script(job)
        status = answer if isinstance(answer, Status) else Status.OK
        score = None if isinstance(answer, Status) else answer
        return Evaluation(
            job.evaluation_id,
            job.genotype,
            job.rung,
            job.seed,
            job.split,
            job.replicate,
            status,
            score,
            wall_seconds=1.0,
        )
