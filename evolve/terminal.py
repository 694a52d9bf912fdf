"""The terminal's one door: the progress bar of a run, and the page it prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from evolve.query import as_table

if TYPE_CHECKING:  # the engine imports scipy, which takes a second
    from evolve.engine import Progress

SHOWN = 20  # rows of a part that `show` prints

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Watcher:
    """Shows a run's progress: a live bar on a terminal, one line per tenth of the births elsewhere."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("baseline", total=None, note="")
        self._last_line = ""

    def __enter__(self) -> Watcher:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        console.print(line, markup=False)

    def show(self, progress: Progress) -> None:
        """Draw where the run stands."""
        total = progress.of_births if progress.phase != "baseline" else None
        self._bar.update(
            self._task, description=progress.phase, total=total, completed=progress.births, note=self._note(progress)
        )
        if not console.is_terminal:
            self._line(progress)

    def _line(self, progress: Progress) -> None:
        tenth = 10 * progress.births // max(1, progress.of_births)
        mark = f"{progress.phase} {tenth}"
        if mark != self._last_line:
            self._last_line = mark
            console.print(f"{progress.phase:>8} {progress.births}/{progress.of_births} births, {self._note(progress)}")

    def _note(self, progress: Progress) -> str:
        parts = [f"{progress.evaluations} evaluations"]
        if progress.failures:
            parts.append(f"{progress.failures} failed")
        if progress.floor is not None:
            parts.append(f"base {progress.floor.mean:.4f} sd {progress.floor.sd:.4f}")
        if progress.champion_genes:
            parts.append(f"best {progress.champion_genes} genes, gain {progress.champion_gain:+.4f}")
        return ", ".join(parts)


def print_status(found: Mapping[str, Any]) -> None:
    """Print where a run stands."""
    base, best = found["baseline"], found["best"]
    console.print(f"run           {found['run_id']}: {found['status']}", markup=False)
    console.print(f"births        {found['births']} in {found['generation']} generations")
    console.print(f"evaluations   {found['evaluations']}, {found['failures']} failed, {found['usd']:.2f} USD")
    if base["n"]:
        console.print(
            f"base          {base['mean']:.4f} {found['metric']}, sd {_number(base['sd'], '')} (n={base['n']})"
        )
    if best:
        parts = f"{best['n_genes']} genes, gain {_number(best['gain'])} at {best['gain_n']} common seeds"
        console.print(f"best          {best['genotype_id']}: {parts}")


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, markup=False)


def print_genes(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the genes of a run, best first."""
    names = ("gene", "gain", "+-", "P(gain>0)", "n", "state", "title")
    rows = [(g["gene_id"][:8], *_belief(g), g["n"], _state(g), g["title"]) for g in found]
    console.print(as_table(names, rows), end="", markup=False)


def _belief(gene: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return gain, sd and P(gain > 0); blank for a gene that was never seen on the rung that counts."""
    if not gene["n"]:
        return "", "", ""
    return _number(gene["mean"]), _number(gene["sd"], ""), _share(gene["p_positive"])


def _state(gene: Mapping[str, Any]) -> str:
    return "null gene" if gene["is_null"] else gene["state"] or "not told yet"


def print_record(found: Mapping[str, Any]) -> None:
    """Print one thing whole: its columns and its parts; --json prints parts that are long."""
    for key, value in found.items():
        if isinstance(value, list):
            _print_part(key, cast("list[dict[str, Any]]", value))
        elif value is not None:
            shown = "\n" + value.rstrip() if isinstance(value, str) and "\n" in value else _short(value)
            console.print(f"{key}: {shown}", markup=False)


def _print_part(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    console.print(f"{name}: {len(rows)}", markup=False)
    for row in rows[:SHOWN]:
        cells = (f"{key}={_short(cell)}" for key, cell in row.items() if cell is not None)
        console.print("    " + "  ".join(cells), markup=False)
    if len(rows) > SHOWN:
        console.print(f"    ... and {len(rows) - SHOWN} more; --json prints all")


def _number(value: float | None, sign: str = "+") -> str:
    return "" if value is None else f"{value:{sign}.5f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value) if value == "" else str(value)
