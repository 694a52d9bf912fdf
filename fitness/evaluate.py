"""One job -> one evaluation: lay a workspace, train in it, score what the training left. Every ending is a status.

    train:  rung's command (candidate)  <-channel->  feeder (trusted)
    score:  server (candidate)          <-channel->  judge (trusted)     or: a file or log line of the rung's command

Candidates run in a workspace of base and genes; the server in a fresh one that holds nothing else but the checkpoint.
Trusted commands run in the snapshot of the base. {workspace} is the candidate's directory in every command. `timeout_s`
bounds each stage.
"""

from __future__ import annotations

import ast
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from fitness.child import CHANNEL, Spec
from fitness.commands import fill, placeholders
from fitness.compile_cache import CompileCache, environment
from fitness.evaluation import Evaluation, Job
from fitness.gpus import HIDDEN, visible
from fitness.launch import GRACE_S, Ended, ForkServer, child_environment, together
from fitness.reports import (
    NO_SPACE,
    OUT_OF_MEMORY,
    Events,
    count,
    number,
    read_events,
    read_metric,
    read_report,
    read_start,
    tail,
    told_status,
)
from fitness.target import Target
from fitness.workspace import OutsideWorkspace, carry, lay, remove
from population.individuals import Status

KEPT = {"log.txt", "events.jsonl", "patch.diff"}
BLAMED = {Status.DIVERGED, Status.CHEATED, Status.OVER_BUDGET}  # what a trusted command says of a candidate for good
_parsing = threading.Lock()


@dataclass(frozen=True)
class Bench:
    """What every evaluation of a run shares."""

    target: Target
    run_dir: Path
    base: Path  # snapshot: never written to
    base_files: Mapping[str, str]
    data: Path | None
    gpu_model: str = "cpu"
    compiled: CompileCache | None = None
    compile_keys: Mapping[str, str] = field(default_factory=dict[str, str])  # by rung
    keep_checkpoints: bool = False

    def home(self, evaluation_id: str) -> Path:
        """Return the directory of an evaluation."""
        return self.run_dir / "evaluations" / evaluation_id


@dataclass(frozen=True)
class Failure:
    """Why there is no score. `repeatable`: the same job would end so again."""

    status: Status
    log: str
    repeatable: bool = False


@dataclass(frozen=True)
class Trained:
    """What the first stage found."""

    events: Events
    tokens: int | None
    seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Scored:
    """What the second stage found."""

    score: float
    n_params: int | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Outcome:
    """An evaluation, and whether the same job would end so again."""

    evaluation: Evaluation
    repeatable: bool


def evaluate(job: Job, bench: Bench, server: ForkServer, gpus: Sequence[str] = ()) -> Outcome:
    """Run one job to its end, on these GPUs alone.

    OSError and Mistake are this machine's or the user's, never the candidate's.
    """
    attempt = Attempt(job, bench, server, gpus)
    started_at, began = time.time(), time.monotonic()
    attempt.open()
    try:
        trained, ending = attempt.run()
    finally:
        attempt.tidy()
    return attempt.outcome(trained, ending, started_at, time.monotonic() - began)


def note_hit(job: Job, bench: Bench, known: Evaluation) -> None:
    """Give an evaluation that was found in the cache a directory that says so."""
    home = bench.home(job.evaluation_id)
    home.mkdir(parents=True, exist_ok=True)
    (home / "patch.diff").write_bytes(job.patch.encode())
    (home / "log.txt").write_text(f"from the cache: evaluation {known.source_evaluation_id}\n")


class Attempt:
    """One evaluation while it runs: its directory, its two stages."""

    def __init__(self, job: Job, bench: Bench, server: ForkServer, gpus: Sequence[str]) -> None:
        self._job = job
        self._bench = bench
        self._target = bench.target
        self._rung = bench.target.rung(job.rung)
        self._server = server
        self._gpus = gpus
        self._home = bench.home(job.evaluation_id)
        self._work = self._home / "train"
        self._kept = set(KEPT)
        self._compiled = self._home / "scratch" / "compiled"
        self._shared = bench.compiled if self._rung.compiles else None

    def open(self) -> None:
        """Make the directory anew: an evaluation that was cut off is run again under its old id."""
        if self._home.exists():
            remove(self._home)
        (self._home / "scratch").mkdir(parents=True)
        (self._home / "patch.diff").write_bytes(self._job.patch.encode())
        if self._shared:
            self._shared.copy(self._bench.compile_keys[self._rung.name], self._compiled)

    def run(self) -> tuple[Trained | None, Scored | Failure]:
        """Train, then score."""
        mistake = unparsable(self._job.files, self._bench.base_files)
        if mistake:
            return None, Failure(Status.PATCH_FAILED, mistake, repeatable=True)
        try:
            lay(self._bench.base, self._job.files, self._work, self._target.editable)
        except OutsideWorkspace as error:
            return None, Failure(Status.PATCH_FAILED, str(error), repeatable=True)
        trained, failure = self._train()
        ending = failure or (self._judge(trained) if self._target.judge else self._self_reported())
        if self._shared and isinstance(ending, Scored) and self._job.files == self._bench.base_files:
            self._shared.publish(self._bench.compile_keys[self._rung.name], self._compiled)
        if self._bench.keep_checkpoints:
            self._keep(trained.events.checkpoint)
        return trained, ending

    def _keep(self, paths: Sequence[str]) -> None:
        """Move the checkpoint's files out of what will be removed, unless they would take another file's place."""
        for path, place in product(paths, (self._home / "score", self._work)):
            if "/" not in path and not (self._home / path).exists():
                with suppress(OutsideWorkspace):  # not in this place, or nothing to keep
                    carry(place, path, self._home)
                    self._kept.add(path)

    def tidy(self) -> None:
        """Put all logs into one, and remove everything but log, events, patch and what was asked for."""
        (self._home / "events.jsonl").write_bytes(read_start(self._work / "events.jsonl").encode())
        with (self._home / "log.txt").open("ab") as log:
            for name in ("feeder", "server", "judge"):
                text = self._read_log(f"{name}.log")
                log.write(f"\n--- {name} ---\n{text}".encode() if text else b"")
        for entry in self._home.iterdir():
            if entry.is_dir():
                remove(entry)
            elif entry.name not in self._kept:
                entry.unlink()

    def outcome(self, trained: Trained | None, ending: Scored | Failure, started_at: float, wall_s: float) -> Outcome:
        """Return the evaluation."""
        job, events = self._job, trained.events if trained else Events()
        score = ending if isinstance(ending, Scored) else None
        evaluation = Evaluation(
            job.evaluation_id,
            job.genotype,
            job.rung,
            job.seed,
            job.split,
            job.replicate,
            status=Status.OK if isinstance(ending, Scored) else ending.status,
            score=score.score if score else None,
            depth=self._rung.depth,
            train_seconds=trained.seconds if trained else None,
            wall_seconds=wall_s,
            tokens=trained.tokens if trained else None,
            flops=_flops(score, trained),
            peak_memory_bytes=trained.peak_memory_bytes if trained else None,
            n_params=score.n_params if score and score.n_params is not None else events.n_params,
            device=self._bench.gpu_model if self._rung.gpus else "cpu",
            kernel=events.kernel,
            integrity="judged" if self._target.judge else "self_reported",
            started_at=started_at,
            log_tail="" if isinstance(ending, Scored) else tail(ending.log),
            curve=events.curve,
        )
        return Outcome(evaluation, isinstance(ending, Scored) or ending.repeatable)

    # stages

    def _train(self) -> tuple[Trained, Failure | None]:
        feeder = self._trusted(self._target.feeder, self._work, "feeder") if self._target.feeder else None
        candidate = self._candidate(self._rung.command, self._work, "log.txt", joined=feeder is not None)
        lead, other = together(self._server, candidate, feeder, GRACE_S, self._is_fatal("feeder.out"))
        events = read_events(self._work / "events.jsonl")
        report = read_report(self._home / "feeder.out")
        seconds = number(report.get("train_seconds"))
        peak = events.peak_memory_bytes if self._rung.gpus else lead.max_rss_bytes
        trained = Trained(events, count(report.get("tokens")), lead.wall_s if seconds is None else seconds, peak)
        return trained, self._training_failure(lead, other, events, report)

    def _training_failure(
        self, lead: Ended, other: Ended | None, events: Events, report: Mapping[str, object]
    ) -> Failure | None:
        log, told = self._read_log("log.txt"), told_status(report)
        feeder_failed = other is not None and not other.ok
        if told is not None and told in BLAMED:
            return Failure(told, _with_reason(report, log))
        if lead.timed_out:
            return Failure(Status.TIMED_OUT, log)
        if events.diverged:
            return Failure(Status.DIVERGED, f"{log}\n{events.reason}" if events.reason else log, repeatable=True)
        if not lead.ok and not lead.killed and not feeder_failed:
            return _crash(lead, log)
        if feeder_failed:
            return Failure(Status.CRASHED, f"{log}\nthe feeder failed:\n{self._read_log('feeder.log')}")
        return Failure(Status.CANCELLED, log) if lead.killed else None

    def _judge(self, trained: Trained) -> Scored | Failure:
        """Let the trusted judge question a fresh server."""
        workspace, server = self._work, None
        if self._target.server:
            workspace = self._home / "score"
            lay(self._bench.base, self._job.files, workspace, self._target.editable)
            try:
                for path in trained.events.checkpoint:
                    carry(self._work, path, workspace)
            except OutsideWorkspace as error:
                return Failure(Status.CRASHED, f"the checkpoint can not be read: {error}", repeatable=True)
            server = self._candidate(self._target.server, workspace, "server.log", joined=True)
        judge = self._trusted(self._target.judge, workspace, "judge", joined=server is not None)
        lead, other = together(self._server, judge, server, 0.0, lambda ended: not ended.ok)
        return self._verdict(lead, other, read_report(self._home / "judge.out"))

    def _verdict(self, lead: Ended, other: Ended | None, report: Mapping[str, object]) -> Scored | Failure:
        told, score = told_status(report), number(report.get(self._target.metric.name))
        log = _with_reason(report, self._read_log("server.log"))
        if told is not None and told in BLAMED:
            return Failure(told, log, repeatable=told is Status.DIVERGED)
        if lead.ok and score is not None and told in (None, Status.OK):
            return self._finite(Scored(score, count(report.get("n_params")), number(report.get("flops"))), log)
        if lead.timed_out or (other is not None and other.timed_out):
            return Failure(Status.TIMED_OUT, log)
        if other is not None and not other.ok and not other.killed:
            return replace(_crash(other, log), repeatable=lead.ok)
        if lead.killed:
            return Failure(Status.CANCELLED, log)
        if told is Status.CRASHED:
            return Failure(Status.CRASHED, log, repeatable=True)
        return Failure(Status.CRASHED, f"{log}\nthe judge failed:\n{self._read_log('judge.log')}")

    def _self_reported(self) -> Scored | Failure:
        metric, log = self._target.metric, self._read_log("log.txt")
        score = read_metric(metric, self._work, self._home / "log.txt")
        if score is None:
            where = f"the file {metric.file!r}" if metric.file is not None else "the log"
            return Failure(
                Status.CRASHED, f"{log}\nthe command ended well, but {where} has no number {metric.name!r}", True
            )
        return self._finite(Scored(score), log)

    def _finite(self, scored: Scored, log: str) -> Scored | Failure:
        if math.isfinite(scored.score):
            return scored
        return Failure(Status.DIVERGED, f"{log}\nthe score is {scored.score}", repeatable=True)

    # processes

    def _candidate(self, command: Sequence[str], workspace: Path, log: str, joined: bool) -> Spec:
        """Return candidate code: in its workspace, with the rung's limits."""
        memory_gb = self._rung.memory_gb
        memory_bytes = None if memory_gb is None else int(memory_gb * 2**30)
        plain = self._spec(command, workspace, workspace, log, joined)
        env = {**plain.env, **environment(self._compiled)} if self._shared else plain.env
        return replace(plain, timeout_s=self._rung.timeout_s, memory_bytes=memory_bytes, env=env)

    def _trusted(self, command: Sequence[str], workspace: Path, name: str, joined: bool = True) -> Spec:
        """Return trusted code: in the base, with its report kept apart, and a little more time than its partner."""
        plain = self._spec(command, workspace, self._bench.base, f"{name}.log", joined)
        return replace(plain, timeout_s=self._rung.timeout_s + GRACE_S, out=str(self._home / f"{name}.out"))

    def _spec(self, command: Sequence[str], workspace: Path, cwd: Path, log: str, joined: bool) -> Spec:
        extra = {**HIDDEN, **self._rung.env, **visible(self._gpus)}
        if joined:
            extra["EVOLVE_CHANNEL"] = str(CHANNEL)
        return Spec(
            argv=fill(command, placeholders(self._target, self._rung, self._job, workspace, self._bench.data)),
            cwd=str(cwd),
            log=str(self._home / log),
            timeout_s=self._rung.timeout_s,
            env=child_environment(self._server.env, cwd, self._home / "scratch", extra),
        )

    def _is_fatal(self, out: str) -> Callable[[Ended], bool]:
        return lambda ended: not ended.ok or told_status(read_report(self._home / out)) not in (None, Status.OK)

    def _read_log(self, name: str) -> str:
        """Return a log with paths as the candidate knows them, so that it reads alike in every run."""
        text = read_start(self._home / name)
        for place in ("train", "score"):
            text = text.replace(f"{self._home / place}/", "")
        return text


def unparsable(files: Mapping[str, str], base_files: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first patched Python file that does not parse."""
    for path in sorted(files):
        if path.endswith(".py") and files[path] != base_files.get(path):
            try:
                with _parsing, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    ast.parse(files[path])
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                return f"{path} does not parse: {error}"
    return None


def _flops(scored: Scored | None, trained: Trained | None) -> float | None:
    """Return the FLOPs of the training: as the judge counted them, else tokens times the candidate's own word."""
    if scored and scored.flops is not None:
        return scored.flops
    if trained is None or trained.tokens is None or trained.events.flops_per_token is None:
        return None
    return trained.tokens * trained.events.flops_per_token


def _crash(ended: Ended, log: str) -> Failure:
    """Return out_of_memory or crashed. A SIGKILL that was not ours is the kernel's, short of memory."""
    if ended.was_shot or OUT_OF_MEMORY.search(tail(log)):
        return Failure(Status.OUT_OF_MEMORY, log)
    code = ended.code or 0
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    repeatable = code > 0 and NO_SPACE not in log
    return Failure(Status.CRASHED, f"{log.rstrip()}\n({how})", repeatable)


def _with_reason(report: Mapping[str, object], log: str) -> str:
    reason = report.get("reason")
    return f"{log}\n{reason}" if isinstance(reason, str) else log
