"""A person's gene joins a run: before it begins, while it is live, after its end; and the run stays reproducible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from landscape_run import ScriptedRun

from evolve.inbox import Inbox, offer, put, waiting_files
from evolve.run_directory import RunDirectory
from evolve.target_files import load_target
from fitness.workspace import read_base
from population.genes import Category, Gene, Origin, gene_from_files
from population.individuals import Operator

TARGET = load_target("landscape")
BASE = read_base(TARGET.root, TARGET.editable)


def gene(old: str, new: str) -> Gene:
    text = BASE.files["knobs.py"]
    assert text.count(old) == 1
    words = {"title": f"{old} -> {new}", "hypothesis": "h", "category": Category.OTHER, "origin": Origin.HUMAN}
    return gene_from_files(BASE, {"knobs.py": text.replace(old, new)}, **words)


ONE = gene("KNOB_08 = 300", "KNOB_08 = 310")
TWO = gene("KNOB_09 = 0.85", "KNOB_09 = 0.86")


def born(run: ScriptedRun) -> list[tuple[int, str]]:
    """Return the births that injected, with what they carried that no birth before did."""
    seen: set[str] = set()
    found: list[tuple[int, str]] = []
    for individual in run.lineage.individuals():
        if individual.operator is Operator.INJECT:
            found += ((individual.birth, name) for name in individual.genotype.genes if name not in seen)
        seen |= set(individual.genotype.genes)
    return found


def test_genes_are_taken_in_the_order_they_came_and_each_once(tmp_path: Path) -> None:
    put(tmp_path, [TWO, ONE])
    put(tmp_path, [TWO])
    inbox = Inbox(tmp_path, BASE, 0, print)
    assert inbox.waiting == 2
    assert [inbox.take(birth) for birth in (1, 2, 3)] == [TWO, ONE, None]
    assert inbox.take(1) == TWO, "asking again gives it again"
    assert inbox.births_before(2) == 1
    assert not waiting_files(tmp_path)


def test_a_later_session_gives_births_what_they_got_and_recorded_births_nothing_new(tmp_path: Path) -> None:
    put(tmp_path, [ONE])
    assert Inbox(tmp_path, BASE, 0, print).take(5) == ONE
    put(tmp_path, [TWO])
    later = Inbox(tmp_path, BASE, 8, print)
    assert [later.take(birth) for birth in range(1, 10)] == [None] * 4 + [ONE] + [None] * 2 + [TWO, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: "{", "JSONDecodeError"),
        (lambda raw: "[]", "TypeError"),
        (lambda raw: json.dumps({**raw, "origin": "nobody"}), "nobody"),
        (lambda raw: json.dumps({**raw, "edits": []}), "leaves every file"),
        (lambda raw: json.dumps({**raw, "gene_id": "0"}), "as if the base were another"),
        (lambda raw: json.dumps({**raw, "edits": [{**raw["edits"][0], "path": "score.py"}]}), "score.py"),
    ],
)
def test_a_file_that_is_no_gene_is_set_aside_with_a_line_and_the_next_is_taken(
    tmp_path: Path, change, said: str
) -> None:
    put(tmp_path, [ONE])
    (file,) = waiting_files(tmp_path)
    put(tmp_path, [TWO])
    file.write_text(change(json.loads(file.read_text())))
    lines: list[str] = []
    inbox = Inbox(tmp_path, BASE, 0, lines.append)
    assert [inbox.take(birth) for birth in (1, 2)] == [TWO, None]
    (line,) = lines
    assert said in line
    assert (tmp_path / "refused" / file.name).is_file()


def test_a_gene_that_waits_before_the_run_is_born_first_and_scored_like_any_other(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=7)
    put(run.inbox, [ONE, TWO])
    run.engine.run()
    assert born(run) == [(1, ONE.gene_id), (2, TWO.gene_id)]
    people = run.lineage.individuals()
    assert len(people) == 7 + 2, "their births are added"
    scored = {e.genotype for e in run.lineage.evaluations().values() if e.rung == "full"}
    assert {people[1].genotype, people[2].genotype} <= scored
    assert run.lineage.genes()[ONE.gene_id] == ONE
    assert ONE.gene_id in run.engine.posterior()


def test_the_lineage_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    told: list[object] = []
    for slots in (1, 4):
        (folder := tmp_path / str(slots)).mkdir()
        run = ScriptedRun(folder, slots=slots, births=17)
        put(run.inbox, [ONE, TWO])
        run.engine.run()
        told.append(run.lineage_told())
    assert told[0] == told[1]


def live(folder: Path, until: int | None = None) -> ScriptedRun:
    """Run with a gene that arrives after birth 4 was told, stopped when `until` births were told; then its end."""
    folder.mkdir()
    run = ScriptedRun(folder, births=21)

    def watch(progress) -> None:
        if progress.births == 4:
            put(run.inbox, [ONE])
        if until is not None and progress.births >= until:
            run.engine.stop()

    run.engine._watch = watch
    run.engine.run()
    return run


def test_a_live_run_takes_a_gene_up_and_a_resumed_one_gives_it_to_the_same_birth(tmp_path: Path) -> None:
    whole = live(tmp_path / "whole")
    ((birth, name),) = born(whole)
    assert name == ONE.gene_id
    assert 4 < birth <= 4 + 12 + 1
    stopped = live(tmp_path / "stopped", until=9)
    before = stopped.lineage.individuals()
    stopped.lineage.close()
    resumed = ScriptedRun(tmp_path / "stopped", births=21)
    resumed.engine.run()
    assert born(resumed) == [(birth, name)]
    assert resumed.lineage.individuals()[: len(before)] == before
    assert resumed.lineage_told() == whole.lineage_told()


def test_a_gene_for_a_finished_run_is_born_when_it_is_resumed(tmp_path: Path) -> None:
    first = ScriptedRun(tmp_path, births=7)
    first.engine.run()
    before = first.lineage.individuals()
    first.lineage.close()
    put(tmp_path / "inbox", [ONE])
    again = ScriptedRun(tmp_path, births=7)
    assert (again.engine.waiting, again.engine.spent) == (1, None)
    again.engine.run()
    after = again.lineage.individuals()
    assert after[: len(before)] == before
    assert [(i.birth, i.operator) for i in after[len(before) :]] == [(7, Operator.INJECT)]
    assert ONE.gene_id in after[7].genotype.genes


@pytest.mark.slow
def test_a_gene_for_which_no_evaluation_is_left_waits_and_it_is_said(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "evolve")
    blocks = "knobs.py\n<<<<<<< SEARCH\nKNOB_08 = 300\n=======\nKNOB_08 = 310\n>>>>>>> REPLACE\n"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "200"}

    def said(*more: str) -> str:
        ended = subprocess.run(
            [*words, *more], cwd=tmp_path, env=environment, input=blocks, capture_output=True, text=True, check=True
        )
        return ended.stdout

    said("run", "--target", "landscape", "--max-evaluations", "40", "--run-dir", "r")
    line = "1 gene waits in the inbox: the budget of evaluations is used up; raise max_evaluations in r/run.toml"
    assert line in said("inject", "-", "r", "--title", "t")
    assert line in said("resume", "r")
    toml = (tmp_path / "r" / "run.toml").read_text()
    (tmp_path / "r" / "run.toml").write_text(toml.replace("max_evaluations = 40", "max_evaluations = 60"))
    assert "gene waits" not in said("resume", "r")


def test_a_gene_that_was_born_is_not_born_again(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=1)
    put(run.inbox, [ONE])
    run.engine.run()
    run.engine.publish()
    assert offer(RunDirectory(tmp_path), [ONE, TWO]) == {ONE.gene_id: 1}
    assert [path.stem.split("-")[-1] for path in waiting_files(run.inbox)] == [TWO.gene_id]


def test_a_baseline_takes_a_gene_without_breeding(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, births=1)
    put(run.inbox, [ONE])
    run.engine.run()
    assert [(i.birth, i.operator) for i in run.lineage.individuals()] == [(0, Operator.BASELINE), (1, Operator.INJECT)]


def test_what_conflicts_with_a_given_gene_stays_out_of_its_child(tmp_path: Path) -> None:
    first = ScriptedRun(tmp_path, births=25)
    first.engine.run()
    best = first.engine._strategy._parent(25).genotype
    taken = first.lineage.genes()[best.genes[0]]
    assert taken.edits
    first.lineage.close()
    start = taken.edits[0].start
    text = BASE.files["knobs.py"]
    words = {"title": "t", "hypothesis": "h", "category": Category.OTHER, "origin": Origin.HUMAN}
    rival = gene_from_files(BASE, {"knobs.py": text[:start] + "0+" + text[start:]}, **words)
    put(tmp_path / "inbox", [rival])
    again = ScriptedRun(tmp_path, births=25)
    again.engine.run()
    child = again.lineage.individuals()[25]
    assert rival.gene_id in child.genotype.genes
    assert taken.gene_id not in child.genotype.genes
