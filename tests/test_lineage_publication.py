"""Publishing the lineage: readers and the writer do not notice each other, and one process at a time works on a run."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lineage_fixture import BASE, INDIVIDUALS, ONE, RUN, evaluation, record

from evolve.lineage import Lineage, read
from evolve.publish import Pace, Publisher
from evolve.query import run_query
from evolve.records import Posterior
from evolve.runlock import RunIsLive, RunLock, is_live
from population.individuals import Genotype

WRITER = Path(__file__).with_name("lineage_writer.py")
READER_THAT_WRITES = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("INSERT INTO conflicts VALUES ('x', 'y')")
print("pending", flush=True)
time.sleep(60)
"""
HOLDER = """
import sys, time
from pathlib import Path
from evolve.runlock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
WATCHER = """
import sys
from pathlib import Path
from evolve.runlock import is_live
while True:
    is_live(Path(sys.argv[1]))
"""


def scores(run_dir: Path) -> int:
    with read(run_dir) as reader:
        return reader.dicts("SELECT count(score) AS n FROM evaluations")[0]["n"]


@pytest.mark.parametrize("reads", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_many_reads_neither_block_the_writer_nor_are_blocked_by_it(tmp_path: Path, reads: int) -> None:
    sql = "SELECT count(*) AS n, count(DISTINCT seed) AS seeds, max(score) AS top FROM evaluations"
    writer = subprocess.Popen([sys.executable, WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    seen = []
    while len(seen) < reads:
        with read(tmp_path) as reader:
            (row,) = reader.dicts(sql)
        assert row["n"] == 2 * row["seeds"]  # whole batches only
        assert row["n"] == 0 or row["top"] == row["seeds"]
        seen.append(row["n"])
    assert writer.poll() is None
    writer.kill()
    batches = writer.stdout.read().count("\n")
    writer.stdout.close()
    writer.wait()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5  # it published while we read
    assert batches > 10  # and went on recording


def test_a_reader_keeps_what_it_opened_while_a_newer_copy_is_published(tmp_path: Path) -> None:
    with record(tmp_path) as lineage, read(tmp_path) as reader:
        (before,) = reader.dicts("SELECT count(*) AS n FROM evaluations")
        lineage.record_evaluations([evaluation(ONE, 77, 1.0)])
        lineage.publish()
        assert reader.dicts("SELECT count(*) AS n FROM evaluations") == [before]
    assert len(str(run_query(tmp_path, "SELECT * FROM evaluations", "csv")).splitlines()) == before["n"] + 2 + 1


def test_the_wal_of_a_killed_reader_does_not_break_the_next_copy(tmp_path: Path) -> None:
    lineage = record(tmp_path)
    published = tmp_path / "lineage.duckdb"
    published.chmod(0o644)  # somebody insists
    reader = subprocess.Popen([sys.executable, "-c", READER_THAT_WRITES, published], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    reader.stdout.readline()
    reader.send_signal(signal.SIGKILL)
    reader.stdout.close()
    reader.wait()
    wal = tmp_path / "lineage.duckdb.wal"
    assert wal.exists()
    lineage.record_evaluations([evaluation(ONE, 77, 1.0)])
    lineage.publish()
    lineage.close()
    assert not wal.exists()
    assert scores(tmp_path) == 19 - 1
    assert run_query(tmp_path, "SELECT count(*) FROM conflicts WHERE gene_a = 'x'", "csv") == "count_star()\n0\n"


def test_what_is_published_is_read_only_and_no_half_copy_stays(tmp_path: Path) -> None:
    (tmp_path / "lineage.duckdb.part").write_text("left by a kill")
    record(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "lineage.duckdb").stat().st_mode) == 0o444
    assert not (tmp_path / "lineage.duckdb.part").exists()


def test_publishing_does_not_drop_the_lock_of_the_engine_on_its_own_file(tmp_path: Path) -> None:
    with record(tmp_path) as lineage:
        lineage.publish()
        opening = "import sys, duckdb; duckdb.connect(sys.argv[1], read_only=True)"
        other = subprocess.run(
            [sys.executable, "-c", opening, tmp_path / "engine.duckdb"], capture_output=True, text=True
        )
    assert "Could not set lock on file" in other.stderr


def test_the_lineage_is_published_at_most_every_two_seconds_and_for_two_percent_of_the_time() -> None:
    pace = Pace(every_s=2.0, share=0.02)
    assert pace.due(100.0)
    pace.took(100.0, 100.01)
    assert not pace.due(101.9)
    assert pace.due(102.0)
    pace.took(102.0, 102.1)  # 0.1 s is 2 % of 5 s
    assert not pace.due(106.9)
    assert pace.due(107.0)


def test_the_publisher_asks_for_posteriors_only_when_it_publishes(tmp_path: Path) -> None:
    now = [0.0]
    asked: list[float] = []

    def posteriors() -> list[Posterior]:
        asked.append(now[0])
        return [Posterior("full", "aa11", now[0], 1.0, 0.5, 1, "core")]

    with record(tmp_path) as lineage:
        publisher = Publisher(lineage, clock=lambda: now[0])
        published = []
        for moment in (0.0, 0.5, 1.9, 2.0, 3.0):
            now[0] = moment
            published.append(publisher.maybe(posteriors, Genotype))
        assert published == [True, False, False, True, False]
        publisher.publish(posteriors, Genotype)  # at the end, always
    assert asked == [0.0, 2.0, 3.0]
    assert run_query(tmp_path, "SELECT mean FROM gene_stats WHERE gene_id = 'aa11'", "csv") == "mean\n3.0\n"


def test_publishing_often_does_not_make_the_file_grow(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_individual(INDIVIDUALS[0])
        sizes = []
        for k in range(40):
            lineage.record_posteriors([Posterior("full", f"g{i}", k, 1.0, 0.5, k, "core") for i in range(50)])
            lineage.publish()
            sizes.append((tmp_path / "lineage.duckdb").stat().st_size)
    assert sizes[-1] <= 2 * sizes[5]


def test_a_second_process_is_told_who_works_on_the_run(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert is_live(tmp_path)
    with pytest.raises(RunIsLive, match=f"in use by process {holder.pid}, and a run has one writer"):
        RunLock(tmp_path)
    holder.kill()  # a kill frees the lock
    holder.stdout.close()
    holder.wait()
    assert not is_live(tmp_path)
    with RunLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert not is_live(tmp_path)


def test_looking_at_the_lock_does_not_take_it_from_who_wants_it(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        pass
    watching = subprocess.Popen([sys.executable, "-c", WATCHER, tmp_path])
    time.sleep(0.3)
    for _ in range(50):
        RunLock(tmp_path).close()
    watching.kill()
    watching.wait()
