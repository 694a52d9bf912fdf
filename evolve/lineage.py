"""The lineage store: the engine's only writer, on engine.duckdb, and the read-only door to what is published.

Every `record_*` is one transaction, or part of the one that `transaction()` opened. Recording again what is recorded is
no error and changes nothing: the first record stands, because resuming replays. What has been acknowledged survives
kill -9.

What is not covered: two writers. The engine holds a RunLock (evolve/runlock.py) while it has a Lineage open.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from evolve.errors import BadQuery, LineageBroken, LineageExists, NoLineage
from evolve.records import Effect, LlmCall, Posterior, Run
from evolve.rows import (
    CURVE,
    EVALUATION,
    GENE,
    INDIVIDUAL,
    Row,
    call_row,
    curve_rows,
    edit_rows,
    effect_row,
    evaluation_of,
    evaluation_row,
    gene_of,
    gene_row,
    individual_of,
    individual_row,
)
from fitness.evaluation import Evaluation
from population.genes import BaseTree, Gene
from population.individuals import Brood, Genotype, Individual

ENGINE = "engine.duckdb"
PUBLISHED = "lineage.duckdb"
READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.PRAGMA}

T = TypeVar("T")


@contextmanager
def _door() -> Generator[None]:
    """Say what DuckDB could not do in one sentence; it makes a RuntimeError of Ctrl-C, which becomes what it was."""
    try:
        yield
    except duckdb.Error as error:
        raise LineageBroken(_sentence(str(error))) from error
    except RuntimeError as error:
        if "interrupted" in str(error):
            raise KeyboardInterrupt from error
        raise


class _Stored:
    """What can be read through any connection to a lineage."""

    _connection: duckdb.DuckDBPyConnection

    @cached_property
    def base(self) -> BaseTree:
        """Return the base tree that every gene is anchored to."""
        return BaseTree(dict(self._rows("SELECT path, text FROM base_files ORDER BY path")))

    def genes(self) -> dict[str, Gene]:
        """Return every gene as it was recorded, in order of recording."""
        spans = "SELECT gene_id, path, start_char, end_char, replace, kind FROM gene_edits ORDER BY position"
        edits = self._grouped(spans)
        needs = self._grouped("SELECT gene_id, requires_id FROM gene_requires ORDER BY position")
        rows = self._rows(f"SELECT {', '.join(GENE)} FROM genes ORDER BY rowid")
        return {row[0]: gene_of(row, edits.get(row[0], ()), needs.get(row[0], ())) for row in rows}

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return _rows(self._connection, sql, values)

    def _grouped(self, sql: str) -> dict[str, list[Row]]:
        groups: dict[str, list[Row]] = {}
        for key, *rest in self._rows(sql):
            groups.setdefault(key, []).append(tuple(rest))
        return groups


class Lineage(_Stored):
    """Everything one run has recorded. One thread owns it."""

    def __init__(
        self, run_dir: Path, connection: duckdb.DuckDBPyConnection, run_id: str, clock: Callable[[], float]
    ) -> None:
        self.run_dir = run_dir
        self.run_id = run_id
        self._connection = connection
        self._clock = clock
        self._in_transaction = False
        self._known: dict[str, set[str]] = {}  # ids by table
        self._descriptor = os.open(run_dir / ENGINE, os.O_RDONLY)  # closed last: see publish()

    @classmethod
    def create(cls, run_dir: Path, run: Run, base: BaseTree, clock: Callable[[], float] = time.time) -> Lineage:
        """Begin the lineage of a run whose genes will be anchored to `base`."""
        connection = _connect(run_dir / ENGINE)
        if _rows(connection, "FROM duckdb_tables()"):
            connection.close()
            raise LineageExists(run_dir)
        lineage = cls(run_dir, connection, run.run_id, clock)
        with lineage.transaction():
            connection.execute((files("evolve") / "schema.sql").read_text("utf-8"))
            lineage._record_run(run, base)
        return lineage

    @classmethod
    def open(cls, run_dir: Path, clock: Callable[[], float] = time.time) -> Lineage:
        """Go on with a lineage, also after a kill."""
        if not (run_dir / ENGINE).is_file():
            raise NoLineage(run_dir / ENGINE)
        connection = _connect(run_dir / ENGINE)
        if not _rows(connection, "FROM duckdb_tables()"):
            connection.close()
            raise NoLineage(run_dir / ENGINE)
        ((run_id,),) = _rows(connection, "SELECT run_id FROM runs")
        return cls(run_dir, connection, run_id, clock)

    def close(self) -> None:
        """Close the store; what was recorded since the last publication stays unpublished."""
        self._connection.close()
        os.close(self._descriptor)

    def __enter__(self) -> Lineage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make one transaction of every record within; a second one inside joins it."""
        if self._in_transaction:
            yield
            return
        self._in_transaction = True
        try:
            with _door():
                self._connection.execute("BEGIN")
                yield
                self._connection.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):  # a connection that is broken has nothing to take back
                self._connection.execute("ROLLBACK")
            self._known.clear()  # they may hold what was not recorded after all
            self.__dict__.pop("_genotypes", None)
            raise
        finally:
            self._in_transaction = False

    # recording

    def record_genes(self, genes: Iterable[Gene], null: bool = False) -> None:
        """Record genes, their edits and what they require; `null` marks genes that measure the noise floor."""
        with self.transaction():
            new = self._new("genes", "gene_id", {gene.gene_id: gene for gene in genes})
            self._insert("genes", [(*gene_row(gene, self.base), self._now(), null) for gene in new])
            self._insert("gene_edits", [row for gene in new for row in edit_rows(gene, self.base)])
            required = [(gene.gene_id, needed, i) for gene in new for i, needed in enumerate(gene.requires)]
            self._insert("gene_requires", required)

    def record_conflicts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Record pairs of gene ids that cannot be in one patch set, in either order."""
        with self.transaction():
            self._insert("conflicts", sorted({(min(pair), max(pair)) for pair in pairs}), verb="INSERT OR IGNORE")

    def record_individual(self, individual: Individual, tree_id: str | None = None) -> None:
        """Record a birth; its genes must be recorded already. `tree_id` is the hash of its patched tree."""
        with self.transaction():
            self._record_genotypes({individual.genotype: tree_id})
            if not self._new("individuals", "individual_id", {individual.individual_id: individual}):
                return
            row = (*individual_row(individual), self.run_id, self._now())
            self._insert("individuals", [row], (*INDIVIDUAL, "run_id", "created_at"))
            parents = [(individual.individual_id, parent, i) for i, parent in enumerate(individual.parents)]
            self._insert("parents", parents)

    def record_brood(self, brood: Brood, tree_id: str | None = None) -> None:
        """Record what breeding made: new genes first, then the child."""
        with self.transaction():
            self.record_genes(brood.genes.values())
            self.record_individual(brood.child, tree_id)

    def record_evaluations(self, evaluations: Iterable[Evaluation]) -> None:
        """Record evaluations with their curves, thinned to 200 points."""
        with self.transaction():
            new = self._new("evaluations", "evaluation_id", {e.evaluation_id: e for e in evaluations})
            self._record_genotypes(dict.fromkeys(e.genotype for e in new))
            self._insert("evaluations", [(*evaluation_row(e), self.run_id) for e in new], (*EVALUATION, "run_id"))
            self._insert("curves", [row for e in new for row in curve_rows(e)], CURVE)

    def record_posteriors(self, posteriors: Iterable[Posterior]) -> None:
        """Replace the posteriors of these genes on these rungs."""
        rows = [
            (self.run_id, p.rung, p.gene_id, p.mean, p.sd, p.p_positive, p.n, p.state, self._now()) for p in posteriors
        ]
        with self.transaction():
            self._insert("gene_posteriors", rows, verb="INSERT OR REPLACE")

    def record_llm_calls(self, calls: Iterable[LlmCall]) -> None:
        """Record calls to a language model."""
        with self.transaction():
            self._insert("llm_calls", [call_row(call, self.run_id) for call in calls], verb="INSERT OR IGNORE")

    def record_effects(self, analysis_id: str, effects: Iterable[Effect]) -> None:
        """Record the rows of one analysis, unless it is recorded already."""
        with self.transaction():
            if not self._rows("SELECT 1 FROM effects WHERE analysis_id = ? LIMIT 1", [analysis_id]):
                self._insert("effects", [(*effect_row(e, analysis_id, self.run_id), self._now()) for e in effects])

    def set_status(self, status: str) -> None:
        """Say where the run stands: running, finished, stopped or failed."""
        with self.transaction():
            self._connection.execute("UPDATE runs SET status = ?", [status])

    def set_champion(self, champion: Genotype) -> None:
        """Say which genotype is the champion now."""
        with self.transaction():
            self._record_genotypes({champion: None})
            self._connection.execute("UPDATE runs SET champion = ?", [champion.genotype_id])

    @property
    def status(self) -> str:
        """Return where the run stood when that was last said."""
        ((status,),) = self._rows("SELECT status FROM runs")
        return status

    # reading, for resume

    def individuals(self) -> list[Individual]:
        """Return every individual as it was recorded, in birth order."""
        parents = self._grouped("SELECT individual_id, parent_id FROM parents ORDER BY position")
        rows = self._rows(f"SELECT {', '.join(INDIVIDUAL)} FROM individuals ORDER BY birth, rowid")
        return [individual_of(row, self._genotypes[row[1]], parents.get(row[0], ())) for row in rows]

    def evaluations(self) -> dict[str, Evaluation]:
        """Return every evaluation as it was recorded, curves included, by id and in order of recording."""
        curves = self._grouped(f"SELECT {', '.join(CURVE)} FROM curves ORDER BY rowid")
        rows = self._rows(f"SELECT {', '.join(EVALUATION)} FROM evaluations ORDER BY rowid")
        return {row[0]: evaluation_of(row, self._genotypes[row[1]], curves.get(row[0], ())) for row in rows}

    # publishing

    def publish(self) -> None:
        """Put an atomic copy of everything recorded where readers look; they never block it, nor it them.

        The copy goes through a descriptor that stays open as long as the database does: POSIX drops all of a process's
        locks on a file when the process closes any descriptor of it, DuckDB's lock included.
        """
        with _door():
            self._connection.execute("CHECKPOINT")
        fresh = self.run_dir / f"{PUBLISHED}.part"
        fresh.unlink(missing_ok=True)
        _copy(self._descriptor, fresh)
        published = self.run_dir / PUBLISHED
        Path(f"{published}.wal").unlink(missing_ok=True)  # of a reader that was killed: no next copy would open
        fresh.replace(published)

    # within

    @cached_property
    def _genotypes(self) -> dict[str, Genotype]:
        genes = self._grouped("SELECT genotype_id, gene_id FROM genotype_genes ORDER BY gene_id")
        rows = self._rows("SELECT genotype_id FROM genotypes")
        return {name: Genotype(tuple(gene for (gene,) in genes.get(name, ()))) for (name,) in rows}

    def _record_run(self, run: Run, base: BaseTree) -> None:
        what = (run.target, run.metric, run.direction, base.base_id, json.dumps(dict(run.config), default=str))
        where = (run.seed, run.git_commit, run.machine, run.status, list(run.rungs))
        self._insert("runs", [(run.run_id, self._now(), *what, *where, None)])
        self._insert("base_files", sorted(base.files.items()))

    def _record_genotypes(self, trees: Mapping[Genotype, str | None]) -> None:
        new = [genotype for genotype in trees if genotype.genotype_id not in self._genotypes]
        self._insert("genotypes", [(g.genotype_id, len(g.genes), trees[g]) for g in new])
        self._insert("genotype_genes", [(g.genotype_id, gene) for g in new for gene in g.genes])
        self._genotypes.update({g.genotype_id: g for g in new})

    def _new(self, table: str, key: str, found: Mapping[str, T]) -> list[T]:
        """Return what is not recorded yet; the transaction is about to, so from now on it counts as recorded."""
        if table not in self._known:
            self._known[table] = {name for (name,) in self._rows(f"SELECT {key} FROM {table}")}
        new = {name: value for name, value in found.items() if name not in self._known[table]}
        self._known[table].update(new)
        return list(new.values())

    def _insert(self, table: str, rows: Sequence[Row], columns: Sequence[str] = (), verb: str = "INSERT") -> None:
        """Insert rows in one statement, column by column: sixty times as fast as row by row."""
        if not rows:
            return
        into = f"{table} ({', '.join(columns)})" if columns else table
        values = ", ".join(["unnest(?)"] * len(rows[0]))
        by_column = [list(column) for column in zip(*rows, strict=True)]
        self._connection.execute(f"{verb} INTO {into} SELECT {values}", by_column)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC).replace(tzinfo=None)


class Reader(_Stored):
    """Answers SQL from a published lineage."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def dicts(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Return a dict for each row, fit for JSON: times are text."""
        with _door():
            cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, map(_sayable, row), strict=True)) for row in cursor.fetchall()]


@contextmanager
def read(run_dir: Path) -> Generator[Reader]:
    """Open the published lineage of a run, for the project's own questions."""
    with _published(run_dir) as connection:
        yield Reader(connection)


@contextmanager
def ask(run_dir: Path, sql: str, writable: Path) -> Generator[duckdb.DuckDBPyRelation]:
    """Put a person's question to the published lineage: one statement that reads, and no file but `writable`."""
    with _published(run_dir) as connection:
        connection.execute("SET allowed_paths = ?", [[str(writable)]])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            yield _relation(connection, sql)
        except duckdb.Error as error:
            raise BadQuery(_sentence(str(error))) from error


def _sayable(value: object) -> object:
    return str(value) if isinstance(value, datetime) else value


def _relation(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    statements = connection.extract_statements(sql)
    if not statements:
        raise BadQuery("it is empty")
    if len(statements) != 1:
        raise BadQuery(f"it takes one statement at a time, and this has {len(statements)}")
    relation = connection.sql(sql) if statements[0].type in READING else None
    if relation is None:
        raise BadQuery(f"it is read-only, and {statements[0].type.name} does not read; ask with SELECT")
    return relation


def _sentence(error: str) -> str:
    """Return an error as one line, without the picture of where in the SQL it happened or where in Python."""
    return " ".join(error.split("\n\nLINE ")[0].split("Traceback ")[0].split())


def _published(run_dir: Path) -> duckdb.DuckDBPyConnection:
    path = run_dir / PUBLISHED
    if not path.is_file():
        raise NoLineage(path)
    with _door():
        return duckdb.connect(path, read_only=True)


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open the engine's file: one thread, the cores are for training; small blocks, else an empty run takes 6 MB."""
    with _door():
        return duckdb.connect(path, config={"threads": 1, "default_block_size": 1 << 16})


def _copy(descriptor: int, to: Path) -> None:
    offset = 0
    with to.open("wb") as out:
        while chunk := os.pread(descriptor, 1 << 20, offset):
            offset += out.write(chunk)
    to.chmod(0o444)


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> list[Row]:
    with _door():
        return connection.execute(sql, values).fetchall()
