"""The published lineage: what its views say of a small run with known statistics, and how questions are answered."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import duckdb
import pytest
from lineage_fixture import BASE, BASELINE, NOISE, NULL, ONE, RUN, TWO, evaluation, record

from evolve import views
from evolve.lineage import BadQuery, Lineage, NoLineage
from evolve.query import FORMATS, run_query
from evolve.records import Posterior, Run
from evolve.runlock import RunLock
from population.individuals import Genotype, Individual, Operator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    run_dir = tmp_path_factory.mktemp("run")
    with record(run_dir):
        yield run_dir


def ask(run_dir: Path, sql: str) -> list[dict[str, Any]]:
    answer = run_query(run_dir, sql, "json")
    assert isinstance(answer, str)
    return json.loads(answer)


def test_the_leaderboard_pairs_genotypes_with_the_baseline_at_common_seeds(run: Path) -> None:
    rows = {row["genotype_id"]: row for row in ask(run, "FROM leaderboard WHERE rung = 'full'")}
    assert set(rows) == {g.genotype_id for g in (BASELINE, ONE, TWO, NULL)}
    one = rows[ONE.genotype_id]
    noise = list(NOISE.values())
    assert one["n"] == one["gain_n"] == 4
    assert one["mean"] == pytest.approx(2.8 + mean(noise))
    assert one["se"] == pytest.approx(stdev(noise) / 2)
    assert one["gain"] == pytest.approx(0.2)
    assert one["gain_se"] == pytest.approx(0.0, abs=1e-12)  # the noise of a seed is common to both
    assert rows[NULL.genotype_id]["gain_n"] == 2
    assert rows[BASELINE.genotype_id]["gain"] == 0


def test_replicates_of_a_seed_are_averaged_and_failures_and_other_splits_left_out(run: Path) -> None:
    (two,) = ask(run, f"FROM leaderboard WHERE genotype_id = '{TWO.genotype_id}'")
    seeds = [(2.5 + 2.7) / 2, 2.5 + NOISE[1], 2.5 + NOISE[2], 2.5 + NOISE[3]]
    assert two["n"] == 4
    assert two["mean"] == pytest.approx(mean(seeds))


def test_a_gain_is_positive_when_better_in_either_direction(tmp_path: Path) -> None:
    up = Run("up", "t", "accuracy", "maximize", ("full",), {}, 0)
    with Lineage.create(tmp_path, up, BASE) as lineage:
        lineage.record_evaluations([evaluation(BASELINE, 0, 0.5), evaluation(ONE, 0, 0.6), evaluation(ONE, 1, 9.0)])
        lineage.publish()
    (one,) = ask(tmp_path, "FROM leaderboard WHERE n_genes = 1")
    assert one["gain"] == pytest.approx(0.1)  # seed 1 has no baseline
    assert (one["n"], one["gain_n"], one["gain_se"]) == (2, 1, None)


def test_rungs_and_depths_never_mix(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_evaluations(
            [
                evaluation(BASELINE, 0, 3.0, depth=12),
                evaluation(ONE, 0, 2.0, depth=24, replicate=1),
                evaluation(ONE, 0, 2.5, rung="screen", depth=12),
            ]
        )
        lineage.publish()
    rows = ask(tmp_path, "SELECT rung, depth, n, gain FROM leaderboard WHERE n_genes = 1 ORDER BY depth")
    assert [tuple(row.values()) for row in rows] == [("screen", 12, 1, None), ("full", 24, 1, None)]


def test_the_noise_floor_is_of_the_baseline_over_seeds_and_of_null_genes_paired(run: Path) -> None:
    rows = ask(run, "SELECT rung, kind, n, sd FROM noise_floor ORDER BY ALL")
    assert [(row["rung"], row["kind"], row["n"]) for row in rows] == [
        ("full", "baseline", 4),
        ("full", "null", 2),
        ("screen", "baseline", 1),
    ]
    assert rows[0]["sd"] == pytest.approx(stdev(NOISE.values()))
    assert rows[1]["sd"] == pytest.approx(0.02)
    assert rows[2]["sd"] is None


def test_the_lineage_lists_every_ancestor_once_at_its_shortest_distance(run: Path) -> None:
    rows = ask(run, "SELECT individual_id, ancestor_id, distance FROM lineage ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        ("i1", "i0", 1),
        ("i2", "i0", 1),
        ("i2", "i1", 1),
        ("i3", "i0", 2),
        ("i3", "i1", 2),
        ("i3", "i2", 1),
    ]


def test_the_design_has_a_row_for_every_scored_genotype_and_gene(run: Path) -> None:
    rows = ask(run, "FROM design WHERE rung = 'full'")
    genes = {"aa11", "bb33", "null"}
    assert len(rows) == 4 * len(genes)
    carried = {(row["genotype_id"], row["gene_id"]) for row in rows if row["present"] == 1}
    assert carried == {(g.genotype_id, gene) for g in (ONE, TWO, NULL) for gene in g.genes}
    assert all(row["mean"] > 2 for row in rows)


def test_the_budget_counts_what_was_paid_and_nothing_twice(run: Path) -> None:
    rows = {(row["what"], row["status"]): row for row in ask(run, "FROM budget")}
    ok = rows["evaluations", "ok"]
    assert (ok["n"], ok["cached"]) == (17, 1)
    assert (ok["train_seconds"], ok["wall_seconds"], ok["tokens"]) == (12 * 1.5, 16 * 2.0, 1200)
    assert rows["evaluations", "crashed"]["n"] == 1
    assert rows["llm_calls", "ok"]["usd"] == sum(row["usd"] for row in rows.values()) == 0.25


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT title FROM gene_stats ORDER BY mean DESC LIMIT 1", "title of bb33"),
        ("SELECT config->>'$.operator' FROM runs", "local"),
        ("SELECT started_at::VARCHAR FROM evaluations ORDER BY started_at DESC LIMIT 1", "2025-07-22 07:40:00.123457"),
        ("SELECT max(tokens) FROM curves", 256),
        ("SELECT verdict FROM effects JOIN genes ON gene_id = gene_a WHERE kind = 'in_stack'", "stacks"),
        ("SELECT count(*) FROM (SHOW TABLES)", 22),
        ("SELECT 'nan'::DOUBLE", None),
        ("SELECT 1 -- and a comment", 1),
        ("SELECT 2;", 2),
    ],
)
def test_questions_have_sensible_answers(run: Path, sql: str, expected: object) -> None:
    ((value,),) = [row.values() for row in ask(run, sql)]
    assert value == expected


def test_every_format_says_the_same(run: Path, tmp_path: Path) -> None:
    sql = "SELECT gene_id, lines_added, allele_of, title FROM genes WHERE origin = 'knob' ORDER BY gene_id LIMIT 3"
    answers = {fmt: run_query(run, sql, fmt) for fmt in FORMATS}
    expected = [(r["gene_id"], r["lines_added"], r["allele_of"], r["title"]) for r in json.loads(answers["json"])]
    assert expected[2] == ("bb33", 2, "aa11", "title of bb33")
    read_back = list(csv.reader(io.StringIO(str(answers["csv"]))))[1:]
    assert [(a, int(b), c or None, d) for a, b, c, d in read_back] == expected
    (tmp_path / "answer.parquet").write_bytes(answers["parquet"])  # type: ignore[arg-type]
    assert duckdb.read_parquet(str(tmp_path / "answer.parquet")).fetchall() == expected
    assert str(answers["table"]).splitlines() == [
        "gene_id  lines_added  allele_of  title",
        "-------  -----------  ---------  -------------",
        "aa11               1             title of aa11",
        "aa22               2             title of aa22",
        "bb33               2  aa11       title of bb33",
        "(3 rows)",
    ]


def test_a_table_without_rows_still_names_its_columns(run: Path) -> None:
    assert str(run_query(run, "SELECT seed, score FROM evaluations WHERE seed = 555", "table")).splitlines() == [
        "seed  score",
        "----  -----",
        "(0 rows)",
    ]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT nonsense FROM genes", 'Referenced column "nonsense" not found'),
        ("SELECT 1; SELECT 2", "one statement at a time, and this has 2"),
        ("", "it is empty"),
        ("DELETE FROM genes", "read-only, and DELETE does not read"),
        ("CREATE TABLE t (a INT)", "read-only, and CREATE does not read"),
        ("COPY genes TO 'out.csv'", "read-only, and COPY does not read"),
        ("SET enable_external_access = true", "read-only, and SET does not read"),
        ("ATTACH 'other.duckdb'", "read-only, and ATTACH does not read"),
        ("SELECT content FROM read_text('/etc/hosts')", "file system operations are disabled"),
        ("FROM '/etc/hosts'", "does not exist"),
        ("SELECT 1 / 'a'", "Could not convert string 'a'"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_sentence(run: Path, sql: str, reason: str) -> None:
    with pytest.raises(BadQuery) as refused:
        run_query(run, sql, "csv")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_asking_where_nothing_was_recorded_says_so(tmp_path: Path) -> None:
    for question in (lambda: run_query(tmp_path, "SELECT 1", "csv"), lambda: views.status(tmp_path)):
        with pytest.raises(NoLineage, match="there is no lineage at"):
            question()


def test_status_tells_where_a_run_stands(run: Path) -> None:
    with RunLock(run):
        status = views.status(run)
    assert status["run_id"] == "r1"
    assert status["status"] == "running"
    assert (status["generation"], status["births"], status["evaluations"], status["usd"]) == (1, 3, 18, 0.25)
    assert (status["failures"], status["lockbox_uses"], status["rung"]) == (1, 1, "full")
    assert status["baseline"] == pytest.approx({"mean": 3 + mean(NOISE.values()), "sd": stdev(NOISE.values()), "n": 4})
    assert (status["best"]["genotype_id"], status["best"]["n_genes"]) == (TWO.genotype_id, 2)
    assert status["best"]["gain"] == pytest.approx((0.4 + 3 * 0.5) / 4)
    json.dumps(status, allow_nan=False)


def test_a_run_that_nobody_works_on_is_not_running(run: Path) -> None:
    assert views.status(run)["status"] == "interrupted"


def test_status_before_the_first_score_has_no_best(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.publish()
    status = views.status(tmp_path)
    assert status["baseline"] == {"mean": None, "sd": None, "n": 0}
    assert status["best"] is None


def test_the_best_is_the_champion_that_the_engine_named(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        lineage.record_evaluations(
            [evaluation(g, s, v) for g, v in {BASELINE: 3.0, ONE: 2.0}.items() for s in range(4)]
        )
        lineage.set_champion(BASELINE)
        lineage.publish()
        assert views.status(tmp_path)["best"]["n_genes"] == 0
        lineage.set_champion(ONE)
        lineage.publish()
        assert views.status(tmp_path)["best"]["genotype_id"] == ONE.genotype_id


def test_genes_are_listed_best_first_and_those_without_a_posterior_last(run: Path) -> None:
    genes = views.genes(run)
    assert [gene["gene_id"] for gene in genes] == ["bb33", "aa11", "aa22", "null"]
    assert [(gene["state"], gene["mean"], gene["sd"], gene["n"]) for gene in genes[:3]] == [
        ("testing", 0.3, 0.1, 4),
        ("core", 0.2, 0.05, 8),
        (None, None, None, None),
    ]
    assert genes[3]["is_null"]


def test_posteriors_of_another_rung_hide_no_gene(tmp_path: Path) -> None:
    with record(tmp_path) as lineage:
        lineage.record_posteriors([Posterior("screen", name, 0.5, 0.1, 0.9, 1, "core") for name in ("aa22", "bb33")])
        lineage.publish()
    assert [(gene["gene_id"], gene["mean"]) for gene in views.genes(tmp_path)] == [
        ("bb33", 0.3),
        ("aa11", 0.2),
        ("aa22", None),
        ("null", None),
    ]


def test_show_gives_one_thing_whole(run: Path) -> None:
    gene = views.show(run, "aa22")
    assert (gene["kind"], gene["title"]) == ("gene", "title of aa22")
    assert [edit["kind"] for edit in gene["edits"]] == ["insert", "delete"]
    assert [needed["gene_id"] for needed in gene["requires"]] == ["bb33", "aa11"]
    assert gene["conflicts"] == [{"gene_id": "bb33"}]
    individual = views.show(run, "i1")
    assert individual["parents"] == [{"individual_id": "i0"}]
    assert individual["children"] == [{"individual_id": "i2"}]
    assert individual["genes"] == [{"gene_id": "aa11", "title": "title of aa11"}]
    assert individual["scores"][0]["gain"] == pytest.approx(0.2)
    ran = views.show(run, evaluation(ONE, 2, 1.0).evaluation_id)
    assert (ran["score"], len(ran["curve"])) == (2.8 + NOISE[2], 5)
    patch = views.show(run, TWO.genotype_id)
    assert len(patch["evaluations"]) == 7
    json.dumps([gene, individual, ran, patch], allow_nan=False)


def test_show_takes_the_beginning_of_an_id_if_only_one_begins_so(run: Path) -> None:
    assert views.show(run, "bb")["gene_id"] == "bb33"
    with pytest.raises(views.AmbiguousId, match=r"2 ids begin with 'aa' \(aa11, aa22\)"):
        views.show(run, "aa")
    for nothing in ("zz", ""):
        with pytest.raises(views.UnknownId, match="nothing has the id"):
            views.show(run, nothing)


def test_an_exact_id_is_meant_even_if_others_begin_with_it(tmp_path: Path) -> None:
    with Lineage.create(tmp_path, RUN, BASE) as lineage:
        for name in ("b1", "b11"):
            lineage.record_individual(Individual(name, Genotype(), Operator.KNOB, (), 0, len(name)))
        lineage.publish()
    assert views.show(tmp_path, "b1")["individual_id"] == "b1"


def test_every_ancestor_of_a_long_run_is_found_up_to_32_steps_back(tmp_path: Path) -> None:
    parents = {f"b{k}": tuple({f"b{k - back}" for back in (1 + k % 3, 1 + k % 5) if back <= k}) for k in range(150)}
    with Lineage.create(tmp_path, RUN, BASE) as lineage, lineage.transaction():
        for k, (name, theirs) in enumerate(parents.items()):
            lineage.record_individual(Individual(name, Genotype(), Operator.KNOB, theirs, k // 12, k))
    with Lineage.open(tmp_path) as lineage:
        lineage.publish()
    rows = ask(tmp_path, "SELECT ancestor_id, distance FROM lineage WHERE individual_id = 'b149'")
    nearest: dict[str, int] = {}
    reached = {"b149"}
    for distance in range(1, 33):
        reached = {parent for name in reached for parent in parents[name]}
        nearest = {**dict.fromkeys(reached, distance), **nearest}
    assert {row["ancestor_id"]: row["distance"] for row in rows} == nearest
    assert len(rows) == len(nearest) > 40
