"""The lineage store: what is recorded comes back exactly, once, and survives a kill at any moment."""

from __future__ import annotations

import itertools
import math
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lineage_fixture import BASE, GENES, INDIVIDUALS, ONE, RUN, TWO, evaluation, evaluations, gene, record

from evolve.lineage import Lineage, LineageExists, NoLineage, read
from evolve.records import Posterior
from fitness.evaluation import Evaluation, Point
from fitness.reports import thin
from population.genes import Edit, Kind
from population.individuals import Brood, Genotype, Status

WRITER = Path(__file__).with_name("lineage_writer.py")


def count(run_dir: Path, table: str) -> int:
    with read(run_dir) as reader:
        return reader.dicts(f"SELECT count(*) AS n FROM {table}")[0]["n"]


def test_everything_recorded_comes_back_exactly_after_reopening(tmp_path: Path) -> None:
    record(tmp_path).close()
    with Lineage.open(tmp_path) as lineage:
        assert lineage.run_id == RUN.run_id
        assert lineage.base.files == BASE.files
        assert lineage.genes() == GENES
        assert list(lineage.genes()) == ["null", "aa11", "bb33", "aa22"]
        assert lineage.individuals() == INDIVIDUALS
        assert list(lineage.evaluations().values()) == evaluations()


def test_recording_again_changes_nothing_and_the_first_record_stands(tmp_path: Path) -> None:
    lineage = record(tmp_path)
    before = (lineage.genes(), lineage.individuals(), lineage.evaluations())
    first = evaluations()[0]
    lineage.record_evaluations([replace(first, score=77.0), first, first])
    lineage.record_genes([replace(GENES["aa11"], title="another")])
    lineage.record_individual(replace(INDIVIDUALS[1], birth=9))
    lineage.record_conflicts([("aa22", "bb33"), ("bb33", "aa22")])
    lineage.publish()
    assert (lineage.genes(), lineage.individuals(), lineage.evaluations()) == before
    assert count(tmp_path, "conflicts") == 1
    assert count(tmp_path, "gene_edits") == sum(len(g.edits) for g in GENES.values())
    lineage.close()


names = itertools.count()
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**62)


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    return Lineage.create(tmp_path_factory.mktemp("property"), RUN, BASE)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    score=floats,
    optional=st.tuples(*[st.none() | floats] * 2, *[st.none() | counts] * 3),
    started_at=floats,
    log_tail=st.text(),
    curve=st.lists(st.builds(Point, counts, st.none() | counts, st.none() | floats, floats), max_size=6),
)
def test_an_evaluation_round_trips_bit_for_bit(
    lineage: Lineage, score: float, optional: tuple, started_at: float, log_tail: str, curve: list[Point]
) -> None:
    train, flops, tokens, memory, params = optional
    name = str(next(names))
    given_ = Evaluation(
        *(name, ONE, "full", 3, "val", 0, Status.OK, score, 12, train, 0.1, tokens, flops, memory, params),
        started_at=min(max(started_at, 0.0), 1e10),
        log_tail=log_tail,
        curve=tuple(curve),
    )
    lineage.record_evaluations([given_])
    assert repr(lineage.evaluations()[name]) == repr(given_)  # repr tells -0.0 from 0.0


def test_a_nan_in_a_curve_is_kept(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_evaluations([evaluation(ONE, 0, None, curve=(Point(0, None, None, math.nan),))])
        (recorded,) = lineage.evaluations().values()
        assert math.isnan(recorded.curve[0].train_loss)


def test_text_that_utf8_cannot_hold_does_not_stop_the_record(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_evaluations([evaluation(ONE, 0, None, log_tail="half \ud83d a pair")])
        assert next(iter(lineage.evaluations().values())).log_tail == "half ? a pair"


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    curve = [Point(step, None, None, 1.0) for step in range(1001)]
    kept = thin(curve)
    assert len(kept) == 200
    assert (kept[0].step, kept[-1].step) == (0, 1000)
    assert {b.step - a.step for a, b in itertools.pairwise(kept)} <= {5, 6}
    assert list(thin(curve[:200])) == curve[:200]


def test_edits_are_recorded_as_people_read_them(tmp_path: Path) -> None:
    record(tmp_path).close()
    with read(tmp_path) as reader:
        edits = reader.dicts(
            "SELECT kind, start_line, end_line, search, replace FROM gene_edits ORDER BY gene_id, position"
        )
        (diff,) = reader.dicts("SELECT diff, lines_added, lines_removed FROM genes WHERE gene_id = 'bb33'")
    assert [tuple(edit.values()) for edit in edits] == [
        ("replace", 1, 1, "0.1", "0.2"),
        ("insert", 1, 1, "", " * 2"),
        ("delete", 1, 1, "ünïcode", ""),
        ("replace", 2, 2, "width = 4", "width = 8\r\ndepth = 2"),
        ("replace", 2, 2, "1", "0 + 1"),
    ]
    assert (diff["lines_added"], diff["lines_removed"]) == (2, 1)
    assert "+depth = 2\r\n" in diff["diff"]


def test_a_diff_of_a_file_without_a_final_newline_keeps_lines_apart(tmp_path: Path) -> None:
    record(tmp_path).close()
    with read(tmp_path) as reader:
        (row,) = reader.dicts("SELECT diff FROM genes WHERE gene_id = 'null'")
    assert row["diff"].splitlines()[-4:] == [
        "-x = 1",
        "\\ No newline at end of file",
        "+x = 0 + 1",
        "\\ No newline at end of file",
    ]


def test_what_fails_within_a_transaction_is_not_recorded_at_all(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        broken = gene("cc", Edit("no such file", 0, 0, "x"))
        with pytest.raises(KeyError):
            lineage.record_brood(Brood(INDIVIDUALS[1], {"aa11": GENES["aa11"], "cc": broken}))
        with pytest.raises(Exception, match="CHECK constraint"):
            lineage.record_evaluations([evaluation(ONE, 0, math.nan)])  # its genotype is recorded first
        assert lineage.genes() == {}
        assert lineage.individuals() == []
        lineage.record_individual(INDIVIDUALS[1])
        assert lineage.individuals() == [INDIVIDUALS[1]]
        assert lineage.evaluations() == {}


def test_files_that_genes_add_and_delete_are_recorded_as_such(tmp_path: Path) -> None:
    gone, new = Edit("note é.py", 0, 15, "", Kind.DELETE_FILE), Edit("new.py", 0, 0, "x\r\ny", Kind.ADD_FILE)
    made = gene("ff00", Edit("knobs.py", 0, 0, "\n"), gone, new)
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_genes([made])
        assert lineage.genes() == {"ff00": made}
        lineage.publish()
    with read(tmp_path) as reader:
        edits = reader.dicts(
            "SELECT kind, path, start_line, end_line, search, replace FROM gene_edits ORDER BY position"
        )
        (row,) = reader.dicts("SELECT lines_added, lines_removed FROM genes")
    assert [(e["kind"], e["path"]) for e in edits] == [
        ("insert", "knobs.py"),
        ("delete_file", "note é.py"),
        ("add_file", "new.py"),
    ]
    assert (edits[1]["search"], edits[1]["end_line"], edits[2]["replace"]) == (BASE.files["note é.py"], 2, "x\r\ny")
    assert (row["lines_added"], row["lines_removed"]) == (3, 2)


def test_posteriors_are_replaced_not_piled_up(tmp_path: Path) -> None:
    with record(tmp_path) as lineage:
        lineage.record_posteriors([Posterior("full", "aa11", 0.1, 0.04, 0.98, 9, "retired")])
        lineage.publish()
    with read(tmp_path) as reader:
        rows = reader.dicts("SELECT gene_id, mean, n, state FROM gene_stats ORDER BY gene_id")
    assert rows[0] == {"gene_id": "aa11", "mean": 0.1, "n": 9, "state": "retired"}
    assert len(rows) == 2


def test_a_lineage_is_neither_written_over_nor_made_up(tmp_path: Path) -> None:
    record(tmp_path).close()
    with pytest.raises(LineageExists, match="already holds a lineage"):
        Lineage.create(tmp_path, RUN, BASE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoLineage, match="there is no lineage at"):
        Lineage.open(tmp_path / "empty")


def test_a_failure_with_a_score_and_a_score_that_is_no_number_are_refused(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        for bad in (replace(evaluation(ONE, 0, None), score=1.0), evaluation(ONE, 0, math.inf)):
            with pytest.raises(Exception, match="CHECK constraint"):
                lineage.record_evaluations([bad])
        assert lineage.evaluations() == {}


def test_every_table_and_column_of_the_schema_is_explained() -> None:
    schema = (Path(__file__).parents[1] / "evolve" / "schema.sql").read_text()
    tables = re.findall(r"^CREATE TABLE.*?^\);", schema, re.MULTILINE | re.DOTALL)
    lines = [line for table in tables for line in table.splitlines()[:-1]]
    bare = [line for line in lines if "--" not in line and not line.strip().startswith(("CHECK", "PRIMARY", "kind "))]
    assert bare == []
    assert len(tables) == 15
    assert len(re.findall(r"^(?:-- .*\n)+CREATE VIEW", schema, re.MULTILINE)) == schema.count("CREATE VIEW") == 7


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    writer = subprocess.Popen([sys.executable, WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline()]
    time.sleep(chance.uniform(0.0, 0.4))
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().splitlines()
    writer.stdout.close()
    writer.wait()
    with Lineage.open(tmp_path) as lineage:
        recorded = lineage.evaluations()
        assert {int(line) for line in acknowledged if line.strip()} <= {e.seed for e in recorded.values()}
        assert all(len(e.curve) == 50 for e in recorded.values())
        assert len(recorded) % 2 == 0  # batches of two: all or nothing
        lineage.record_evaluations([evaluation(TWO, 999_999, 1.0)])
        assert lineage.individuals()[0].genotype == Genotype()
        lineage.publish()
    assert count(tmp_path, "evaluations") == len(recorded) + 1
