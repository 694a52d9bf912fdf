"""What genes in the inbox of a run wait for, in words."""

from __future__ import annotations

from typing import Literal

from evolve.inbox import TAKEN, waiting_files
from evolve.lineage import read
from evolve.run_directory import RunDirectory
from evolve.runlock import is_live
from evolve.settings import RunSettings, read_run_toml

Budget = Literal["evaluations", "hours"]
STANDS = """
SELECT status, len(rungs) AS rungs, (SELECT count(*) FROM evaluations) AS evaluations,
    (SELECT count(*) FROM individuals WHERE operator <> 'baseline') AS births
FROM runs
"""


def waiting_line(count: int, spent: Budget | None, run: RunDirectory) -> str:
    """Say how many genes wait, and what must be done for their births."""
    genes = "1 gene waits" if count == 1 else f"{count} genes wait"
    after = f"evolve resume {run.shown}"
    if spent == "evaluations":
        return (
            f"{genes} in the inbox: the budget of evaluations is used up; "
            f"raise max_evaluations in {run.shown}/run.toml, then: {after}"
        )
    return f"{genes} in the inbox: {'the budget of hours is used up; ' if spent else ''}continue with: {after}"


def when_born(run: RunDirectory) -> str:
    """Say when genes that were put into a run will be born."""
    settings = read_run_toml(run.settings)
    with read(run.path) as reader:
        (stands,) = reader.dicts(STANDS)
    count = len(waiting_files(run.inbox))
    if not stands["rungs"]:
        return f"evolve export {run.shown}; no rung says how to score its genes, as it was imported without --target"
    if _is_spent(run, settings, stands):
        return waiting_line(count, "evaluations", run)
    return "the run is live and takes it up at its next birth" if is_live(run.path) else f"evolve resume {run.shown}"


def _is_spent(run: RunDirectory, settings: RunSettings, stands: dict[str, int | str]) -> bool:
    """Say whether another birth could cost more evaluations than are left, as far as the record tells."""
    if settings.max_evaluations is None:
        return False
    dearest = max(int(stands["rungs"]), settings.replicate_seeds)
    bred = int(stands["births"]) - len(list((run.inbox / TAKEN).glob("*.json")))
    cut_short = stands["status"] == "finished" and bred < settings.generations * settings.offspring
    return int(stands["evaluations"]) + dearest > settings.max_evaluations or (cut_short and not settings.max_hours)
