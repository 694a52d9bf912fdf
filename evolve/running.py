"""Working on a run from where it stands to its end, or until somebody stops it, and what to say then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from evolve.engine import Confirmation, Progress
from evolve.run_directory import RunDirectory
from evolve.session import Session, open_session
from evolve.summary import champion_lines, diff_lines, forecast_line, next_lines, noise_lines, tally
from evolve.waiting import waiting_line
from population.mistakes import Mistake


class Watch(Protocol):
    """Whoever watches a run."""

    def show(self, progress: Progress) -> None:
        """Be told where the run stands."""
        ...

    def say(self, line: str) -> None:
        """Be told one line that should stay."""
        ...


def work(
    run: RunDirectory,
    watcher: Callable[[], AbstractContextManager[Watch]],
    arm_stop: Callable[[Callable[[], None]], None],
    caches: Path,
) -> list[str]:
    """Work on a run and return what to print; `arm_stop` is handed the call that ends it early and in order."""
    with watcher() as watch, open_session(run, watch.show, watch.say, caches) as session:
        arm_stop(session.engine.stop)
        confirmation = _to_the_end(session, watch)
        if confirmation is None:
            return [*_closing(session), f"stopped       continue with: evolve resume {run.shown}"]
        best = confirmation.champion.genes[0] if confirmation.champion.genes else None
        lines = [*_closing(session), *_found(session, confirmation), *next_lines(run.shown, best)]
        return [*lines, *_waiting(session, run)]


def _to_the_end(session: Session, watch: Watch) -> Confirmation | None:
    """Run the engine; whatever happens, the lineage says how it ended and is published."""
    was_finished = session.lineage.status == "finished" and not session.engine.waiting
    if was_finished:
        watch.say("finished      before: nothing is run again, this is what it found")
    session.lineage.set_status("running")
    try:
        session.engine.score_base()
        if session.breeds and not was_finished and not session.engine.stopping:
            watch.say(forecast_line(session.engine.forecast(), session.target.metric.name))
        confirmation = session.engine.evolve()
    except BaseException as error:
        with suppress(Mistake, OSError):  # what went wrong first is what counts
            _close(session, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    _close(session, "stopped" if confirmation is None else "finished")
    return confirmation


def _close(session: Session, status: str) -> None:
    session.lineage.set_status(status)
    session.engine.publish()


def _closing(session: Session) -> list[str]:
    engine, metric = session.engine, session.target.metric
    return [
        *tally(engine.finished, session.workers, engine.seconds, engine.training_share),
        *noise_lines(engine.noise_floor, metric.name),
    ]


def _waiting(session: Session, run: RunDirectory) -> list[str]:
    engine = session.engine
    return [f"waiting       {waiting_line(engine.waiting, engine.spent, run)}"] if engine.waiting else []


def _found(session: Session, confirmation: Confirmation) -> list[str]:
    if not session.breeds:
        return []
    genes = session.genes
    return [
        *champion_lines(confirmation, genes, session.engine.posterior(), session.target),
        *diff_lines(confirmation, session.lineage.base, genes),
    ]
