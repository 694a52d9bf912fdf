"""The command line. Each command reads its arguments, calls one function, prints, and ends with an exit code."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from errno import EPIPE
from pathlib import Path
from typing import Any

import click

from evolve import __version__, views
from evolve.doctor import as_json as doctor_json
from evolve.doctor import as_text as doctor_text
from evolve.doctor import diagnose
from evolve.errors import OnlyFailures, exit_code
from evolve.presets import choose_preset
from evolve.query import FORMATS, run_query
from evolve.run_directory import RunDirectory, cache_root, find_run
from evolve.settings import RunSettings, apply_sets
from evolve.target_files import load_target
from evolve.terminal import Watcher, console, errors, print_genes, print_lines, print_record, print_status
from population.mistakes import Mistake

RUN = click.argument("run", required=False, type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
TARGET = click.option(
    "--target", default="nanochat", metavar="NAME|FILE.toml", help="What to evolve.", show_default=True
)
PRESET = click.option(
    "--preset", default="auto", help="The rungs to use; auto goes by the GPUs here.", show_default=True
)
RUN_DIR = click.option(
    "--run-dir", type=click.Path(path_type=Path), help="Where; default a dated directory under runs/."
)
SETS = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting of run.toml, or a variable.")
WORKERS = click.option(
    "--workers", default="auto", show_default=True, help="Evaluations at once; auto: by GPUs or cores."
)
SEED = click.option("--seed", default=0, show_default=True, help="Of everything the run draws.")


class Commands(click.Group):
    """Turns a user's mistake into one sentence and an exit code, for every command."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (Mistake, OnlyFailures) as mistake:
            errors.print(f"evolve: {mistake}", markup=False)
            sys.exit(exit_code(mistake))
        except KeyboardInterrupt:
            errors.print("evolve: stopped at once; if a run had begun, `evolve resume` goes on with it", markup=False)
            sys.exit(130)
        except OSError as machine:
            if machine.errno == EPIPE:
                raise
            errors.print(f"evolve: this machine failed: {machine}; what was recorded is safe", markup=False)
            sys.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Evolve a training codebase: breed patch sets, score them by short runs, learn which genes stack."""


@main.command(name="run")
@click.option("--generations", default=50, show_default=True, help="Each is --offspring births.")
@click.option("--population", default=12, show_default=True, help="Parents that are kept.")
@click.option("--offspring", default=12, show_default=True, help="Births in a generation.")
@TARGET
@PRESET
@click.option("--operator", type=click.Choice(["auto", "local"]), default="auto", show_default=True, help="Who breeds.")
@WORKERS
@SEED
@click.option("--max-hours", type=float, help="End cleanly after this many hours of this session.")
@click.option("--max-evaluations", type=int, help="End cleanly before this many evaluations are exceeded.")
@RUN_DIR
@SETS
def run_command(run_dir: Path | None, sets: tuple[str, ...], workers: str, **given: Any) -> None:
    """Evolve a target: the main job.

    \b
    Examples:
      evolve run                                        nanochat, 50 generations, on whatever is here
      evolve run --preset cpu --generations 3           a short one
      evolve run --preset d12-screen --set device_batch_size=16
      evolve run --target landscape --set instance=7    a synthetic target, seconds
      evolve run --target my.toml --workers 8
    """
    _work(_created(_settings(given, workers, sets), run_dir))


@main.command()
@RUN
def resume(run: Path | None) -> None:
    """Continue a stopped run: the same births as if it had never stopped.

    \b
    Examples:
      evolve resume
      evolve resume runs/20261122-081500-nanochat
    """
    _work(find_run(run))


@main.command()
@TARGET
@PRESET
@click.option("--seeds", type=int, help="Score the base on this many seeds besides those of the rungs.")
@WORKERS
@SEED
@RUN_DIR
@SETS
def baseline(run_dir: Path | None, sets: tuple[str, ...], seeds: int | None, workers: str, **given: Any) -> None:
    """Only score the base: noise floor and speed. Leaves a run directory.

    \b
    Examples:
      evolve baseline --preset cpu
      evolve baseline --target landscape --seeds 16
    """
    more = (f"replicate_seeds={seeds}",) if seeds is not None else ()
    _work(_created(_settings({**given, "generations": 0}, workers, (*sets, *more)), run_dir))


@main.command()
@RUN
@JSON
def status(run: Path | None, as_json: bool) -> None:
    """Say where a run stands, also while it is live.

    \b
    Examples:
      evolve status
      evolve status runs/20261122-081500-nanochat --json
    """
    found = views.status(find_run(run).path)
    click.echo(json.dumps(found, default=str, indent=2)) if as_json else print_status(found)


@main.command()
@RUN
@JSON
def genes(run: Path | None, as_json: bool) -> None:
    """List the genes of a run with what is believed of each: gain, its sd, and where it stands.

    \b
    Examples:
      evolve genes
      evolve genes --json
    """
    found = views.genes(find_run(run).path)
    click.echo(json.dumps(found, default=str, indent=2)) if as_json else print_genes(found)


@main.command(name="show")
@click.argument("name", metavar="ID")
@click.option("--run", type=click.Path(path_type=Path), help="The run; default the newest.")
@JSON
def show_command(name: str, run: Path | None, as_json: bool) -> None:
    """Show one gene, individual, genotype or evaluation whole. The start of an ID is enough if it is the only one.

    \b
    Examples:
      evolve show 3fa9
      evolve show 3fa9 --json
    """
    found = views.show(find_run(run).path, name)
    click.echo(json.dumps(found, default=str, indent=2)) if as_json else print_record(found)


@main.command()
@click.argument("query")
@click.option("--run", type=click.Path(path_type=Path), help="The run; default the newest.")
@click.option("--format", "fmt", type=click.Choice(FORMATS), default="table", show_default=True)
def sql(query: str, run: Path | None, fmt: str) -> None:
    """Query the lineage with SQL, live or later; read-only. The tables are described in evolve/schema.sql.

    \b
    Examples:
      evolve sql "SELECT * FROM leaderboard LIMIT 5"
      evolve sql "SELECT operator, status, count(*) FROM individuals JOIN evaluations USING (genotype_id) GROUP BY ALL"
      evolve sql "FROM gene_stats" --format csv > genes.csv
    """
    click.echo(run_query(find_run(run).path, query, fmt), nl=False)


@main.command(name="import")
@click.argument("revision", metavar="COMMIT|BASE..TIP")
@click.option("--repo", type=click.Path(path_type=Path), required=True, help="The git repository, or a folder in it.")
@click.option("--target", metavar="NAME|FILE.toml", help="What the genes are for; default the commit's parent, bare.")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Where they wait: a new run, or one that is there.")
@click.option("--no-verify", is_flag=True, help="Only check that each gene parses alone; run nothing.")
@JSON
def import_command(
    revision: str, repo: Path, target: str | None, run_dir: Path | None, no_verify: bool, as_json: bool
) -> None:
    """Split a commit into minimal genes that each work alone and together make it exactly.

    Each is run alone for the first steps of the target's cheapest rung; what fails alone is merged with what it needs,
    and comments are set aside. Commits of a range that carry the trailer Evolve-Gene are one gene each.

    \b
    Examples:
      evolve import --repo . HEAD --no-verify                  what the latest commit consists of
      evolve import --repo ~/nanochat 3fa9c21 --target nanochat
      evolve import --repo . main..stack --run-dir runs/stack  a branch that `evolve export` made
    """
    from evolve.importing import import_commit  # not above: see _created

    say = errors.print if as_json else console.print
    found = import_commit(
        repo, revision, target, run_dir, not no_verify, cache_root(), lambda line: say(line, markup=False)
    )
    click.echo(json.dumps(found.as_json(), indent=2)) if as_json else print_lines(found.lines())


@main.command()
@click.argument("patch", type=click.Path(allow_dash=True))
@RUN
@click.option("--title", required=True, help="What it changes, in a few words.")
@JSON
def inject(patch: str, run: Path | None, title: str, as_json: bool) -> None:
    """Put a person's patch into a run: a unified diff or search/replace blocks, from a file or - for stdin.

    A live run takes it up at its next birth; another when it is resumed. It is scored like any other gene.

    \b
    Examples:
      evolve inject idea.diff --title "warmup twice as long"
      git diff | evolve inject - runs/20261122-081500-nanochat --title "no weight decay on embeddings"
    """
    from evolve.injecting import inject as put_in  # not above: see _created
    from evolve.waiting import when_born

    found = find_run(run)
    gene = put_in(found, patch, title, sys.stdin.buffer.read)
    said = [f"gene          {gene.gene_id}  {gene.title}", f"next          {when_born(found)}"]
    click.echo(json.dumps({"gene_id": gene.gene_id, "title": gene.title})) if as_json else print_lines(said)


@main.command()
@RUN
@click.option("--branch", help="A new branch with one commit per gene; nothing else in the repository changes.")
@click.option("--repo", type=click.Path(path_type=Path), help="The git repository of --branch.")
@click.option("--patches", type=click.Path(path_type=Path), help="Or a folder for files that `git am` takes.")
@click.option("--genes", metavar="ID,ID", help="These genes; default the champion's, or what was imported.")
@JSON
def export(
    run: Path | None, branch: str | None, repo: Path | None, patches: Path | None, genes: str | None, as_json: bool
) -> None:
    """Write the genes of a run as git commits, one each: what it changes, why, its effect, the evaluations behind it.

    \b
    Examples:
      evolve export --branch evolved --repo ~/nanochat
      evolve export runs/20261122-081500-nanochat --patches stack/
    """
    from evolve.exporting import export as write  # not above: see _created

    wanted = [] if genes is None else [name for name in genes.split(",") if name] or [genes]
    written = write(find_run(run), branch, repo, patches, wanted)
    click.echo(json.dumps(written.as_json(), indent=2)) if as_json else print_lines(written.lines())


@main.command()
@JSON
def doctor(as_json: bool) -> None:
    """Say what this machine can do, what to fix and how.

    \b
    Examples:
      evolve doctor
      evolve doctor --json
    """
    findings = diagnose(Path("runs"), cache_root())
    click.echo(json.dumps(doctor_json(findings), indent=2) if as_json else doctor_text(findings))


def _settings(given: dict[str, Any], workers: str, sets: tuple[str, ...]) -> RunSettings:
    """Return the settings of the options, with every --set on top."""
    options = [f"{key}={value}" for key, value in {**given, "workers": workers}.items() if value is not None]
    settings = apply_sets(RunSettings(), options)
    return apply_sets(settings, sets, load_target(settings.target, settings.preset).variables)


def _created(settings: RunSettings, run_dir: Path | None) -> RunDirectory:
    from evolve.session import create  # not above: scipy takes a second, and most commands do not need it

    choice = choose_preset(settings.target, settings.preset)
    if choice.needs:
        line = f"preset        {choice.name}, the first that fits: it needs {choice.needs}, here is {choice.here}"
        console.print(line, markup=False)
    return create(settings, run_dir)


def _work(run: RunDirectory) -> None:
    """Work on a run to its end, print what it found, and leave with its exit code."""
    from evolve.running import work  # not above: see _created

    console.print(f"run           {run.shown}", markup=False)
    for line in work(run, Watcher, _stop_on_signal, cache_root()):
        console.print(line, markup=False)


def _stop_on_signal(stop: Callable[[], None]) -> None:
    """Let the first Ctrl-C (or SIGTERM) end the run in order; a second one ends it at once."""

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, signal.default_int_handler)
        errors.print("stopping: writing what is done; once more to stop at once")
        stop()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
