"""The local executor: one thread per slot, each taking a job and waiting for its processes."""

from __future__ import annotations

import errno
import queue
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from fitness.cache import Cache, cache_key, device_model, fingerprint, software
from fitness.compile_cache import CompileCache, compile_key
from fitness.evaluate import Bench, Outcome, evaluate, note_hit
from fitness.evaluation import Evaluation, Job
from fitness.gpus import Gpu, GpuSlots, SlotsClosed, check_gpus
from fitness.launch import ForkServer, KeeperLost, ServerClosed
from fitness.mistakes import MachineFailed
from fitness.target import Target
from fitness.workspace import read_base
from population.individuals import Status
from population.mistakes import Mistake

OF_THE_MACHINE = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EIO")
}


class LocalPool:
    """Runs jobs on this machine, `workers` at a time, first come, first served (see Executor).

    `base` is a snapshot of the target, `data` what its prepare command made. A job on a rung that wants GPUs waits for
    its share of `gpus`, and sees no others. `compiled` is the folder of shared compiled code, for rungs that compile.
    """

    def __init__(
        self,
        target: Target,
        run_dir: Path,
        base: Path,
        data: Path | None = None,
        workers: int = 1,
        cache: Cache | None = None,
        gpus: Sequence[Gpu] = (),
        compiled: Path | None = None,
        keep_checkpoints: bool = False,
    ) -> None:
        check_gpus(target, gpus)
        files = read_base(base, target.editable).files
        device = device_model([gpu.name for gpu in gpus])
        self._bench = Bench(
            target,
            run_dir.resolve(),
            base.resolve(),
            files,
            data and data.resolve(),
            gpu_model=device,
            compiled=CompileCache(compiled.resolve()) if compiled else None,
            compile_keys={r.name: compile_key(target, base, files, r, software(target), device) for r in target.rungs},
            keep_checkpoints=keep_checkpoints,
        )
        self._gpus = GpuSlots([gpu.visible_as for gpu in gpus])
        self._cache = cache
        self._fixed = fingerprint(target, base, list(files), data, device) if cache else ""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Evaluation | Mistake] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._server = ForkServer(target.preload, target.threads)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return len(self._threads)

    def submit(self, job: Job) -> None:
        """Queue a job; jobs start in the order they were submitted."""
        self._jobs.put(job)

    def wait(self, timeout_s: float) -> Sequence[Evaluation]:
        """Return evaluations that ended since the last call, waiting at most timeout_s for the first.

        Raises Mistake when scoring can not go on: a full disk, a command that can not be filled in.
        """
        found: list[Evaluation] = []
        try:
            while True:
                ended = self._ended.get(block=not found, timeout=timeout_s)
                if isinstance(ended, Evaluation):
                    found.append(ended)
                elif found:
                    self._ended.put(ended)  # for the next call: what ended well is reported first
                    return found
                else:
                    raise ended
        except queue.Empty:
            return found

    def close(self) -> None:
        """Kill what runs and free everything. Idempotent; what was running is never reported."""
        self._closed.set()
        self._gpus.close()
        self._server.close()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closed.is_set():
            try:
                ended = self._run(job)
            except (ServerClosed, SlotsClosed):
                return
            except Mistake as mistake:
                ended = mistake
            except OSError as error:  # of the cache or the run directory: no candidate was at work
                ended = MachineFailed(error)
            if not self._closed.is_set():
                self._ended.put(ended)

    def _run(self, job: Job) -> Evaluation:
        if self._cache is None or not job.use_cache:
            return self._evaluate(job).evaluation
        key = cache_key(self._fixed, self._bench.target.rung(job.rung), job)
        known = None if self._bench.keep_checkpoints else self._cache.load(key, job, time.time())
        if known is not None:
            if known.source_evaluation_id:
                note_hit(job, self._bench, known)
            return known
        outcome = self._evaluate(job)
        if outcome.repeatable and not self._closed.is_set():
            self._cache.store(key, outcome.evaluation)
        return outcome.evaluation

    def _evaluate(self, job: Job) -> Outcome:
        """Evaluate one candidate; the only place of the project where anything at all is caught."""
        try:
            return self._twice(job)
        except (Mistake, ServerClosed, SlotsClosed):
            raise
        except OSError as error:
            if error.errno in OF_THE_MACHINE:
                raise MachineFailed(error) from error
            return self._broken(job)
        except Exception:  # noqa: BLE001
            return self._broken(job)

    def _twice(self, job: Job) -> Outcome:
        """Evaluate, and once more if the keeper was lost: it may have been an accident or the candidate's doing."""
        with self._gpus.hold(self._bench.target.rung(job.rung).gpus) as gpus:
            try:
                return evaluate(job, self._bench, self._server, gpus)
            except KeeperLost:
                return evaluate(job, self._bench, self._server, gpus)

    def _broken(self, job: Job) -> Outcome:
        """Return an evaluation that says that the engine, not the candidate, went wrong."""
        log = f"the engine failed to evaluate this; please report it:\n{traceback.format_exc()}"
        evaluation = Evaluation(
            job.evaluation_id,
            job.genotype,
            job.rung,
            job.seed,
            job.split,
            job.replicate,
            Status.CRASHED,
            log_tail=log[-4000:],
        )
        return Outcome(evaluation, repeatable=False)
