"""The README is true: its SQL runs and answers, its commands exist, its files are there."""

import re
from pathlib import Path

import click
import pytest
from landscape_run import ScriptedRun

from evolve.cli import main
from evolve.query import run_query

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    evolve (?!run ->)(.+?)(?:  +#.*)?$", README, re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    scripted = ScriptedRun(directory, births=61)
    scripted.engine.run()
    scripted.engine.publish()
    return directory


def test_there_are_examples_to_test() -> None:
    assert len(QUERIES) >= 5
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("query", QUERIES)
def test_every_sql_example_answers_with_rows(run: Path, query: str) -> None:
    answer = run_query(run, query, "csv")
    assert isinstance(answer, str)
    assert len(answer.splitlines()) > 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_parses(command: str) -> None:
    name, *words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
    group = main
    assert isinstance(group, click.Group)
    group.commands[name].make_context(name, words, resilient_parsing=False)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{name}:" in makefile for name in ("run", "test"))
