"""What people and programs ask most: where a run stands, its genes, one thing whole: dicts fit for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evolve.lineage import Reader, read
from evolve.runlock import is_live
from population.mistakes import Mistake

SHOWN = 5  # ids that an ambiguous prefix names

RUN = """
SELECT run_id, status, target, metric, direction, rungs[-1] AS rung,
    (SELECT coalesce(max(generation), 0) FROM individuals) AS generation,
    (SELECT count(*) FROM individuals WHERE operator <> 'baseline') AS births,
    (SELECT count(*) FROM evaluations) AS evaluations,
    (SELECT count(*) FROM evaluations WHERE score IS NULL) AS failures,
    (SELECT count(*) FROM evaluations WHERE split = 'lockbox') AS lockbox_uses,
    (SELECT coalesce(sum(usd), 0) FROM budget) AS usd
FROM runs
"""

# The rung that counts, at the depth of the search; a larger depth is a promotion's.
COUNTS = """
WITH counts AS (
    SELECT run_id, rungs[-1] AS rung,
        (SELECT min(depth) FROM evaluations WHERE evaluations.rung = rungs[-1]) AS depth
    FROM runs
),
board AS (
    SELECT leaderboard.* FROM leaderboard JOIN counts USING (run_id, rung)
    WHERE leaderboard.depth IS NOT DISTINCT FROM counts.depth
),
floors AS (
    SELECT kind, n, sd FROM noise_floor JOIN counts USING (run_id, rung)
    WHERE noise_floor.depth IS NOT DISTINCT FROM counts.depth
)
"""

BASELINE = (
    COUNTS
    + """
SELECT max(mean) AS mean, (SELECT sd FROM floors WHERE kind = 'baseline') AS sd, coalesce(max(n), 0) AS n
FROM board WHERE n_genes = 0
"""
)

BEST = (
    COUNTS
    + """
SELECT genotype_id, n_genes, mean, se, gain, gain_se, gain_n, n FROM board JOIN runs ON champion = genotype_id
"""
)

GENES = """
SELECT g.gene_id, title, category, origin, state, mean, sd, p_positive, n, lines_added, lines_removed, is_null
FROM genes AS g CROSS JOIN runs
LEFT JOIN gene_posteriors AS p ON p.gene_id = g.gene_id AND p.rung = rungs[-1]
ORDER BY mean DESC NULLS LAST, g.gene_id
"""

KINDS = {"gene": "genes", "individual": "individuals", "genotype": "genotypes", "evaluation": "evaluations"}

GENES_OF = """
SELECT gene_id, title FROM genotype_genes JOIN genes USING (gene_id) WHERE genotype_id = $1 ORDER BY gene_id
"""
SCORES_OF = """
SELECT rung, depth, n, mean, se, gain, gain_se FROM leaderboard WHERE genotype_id = $1 ORDER BY rung, depth
"""
EVALUATIONS_OF = """
SELECT evaluation_id, rung, depth, seed, split, status, score FROM evaluations WHERE genotype_id = $1
ORDER BY started_unix, evaluation_id
"""
INDIVIDUALS_OF = """
SELECT individual_id, operator, generation, birth FROM individuals WHERE genotype_id = $1 ORDER BY birth
"""
PARENTS_OF = "SELECT parent_id AS individual_id FROM parents WHERE individual_id = $1 ORDER BY position"
CHILDREN_OF = """
SELECT individual_id FROM parents JOIN individuals USING (individual_id) WHERE parent_id = $1 ORDER BY birth
"""
CURVE_OF = "SELECT step, tokens, seconds, train_loss FROM curves WHERE evaluation_id = $1 ORDER BY rowid"
EDITS_OF = """
SELECT kind, path, start_line, end_line, search, replace FROM gene_edits WHERE gene_id = $1 ORDER BY position
"""
REQUIRED_BY = "SELECT requires_id AS gene_id FROM gene_requires WHERE gene_id = $1 ORDER BY position"
CONFLICTS_OF = """
SELECT if(gene_a = $1, gene_b, gene_a) AS gene_id FROM conflicts WHERE $1 IN (gene_a, gene_b) ORDER BY ALL
"""
POSTERIORS_OF = """
SELECT rung, mean, sd, p_positive, n, state, updated_at FROM gene_posteriors WHERE gene_id = $1 ORDER BY rung
"""
EFFECTS_OF = """
SELECT kind, gene_a, gene_b, estimate, ci_low, ci_high, n, q_value, verdict, rung, depth, analysis_id FROM effects
WHERE $1 IN (gene_a, gene_b) ORDER BY analysis_at, kind
"""

# What `show` adds to the columns of a thing: name -> (the column that fills in `$1`, a question).
PARTS = {
    "gene": {
        "edits": ("gene_id", EDITS_OF),
        "requires": ("gene_id", REQUIRED_BY),
        "conflicts": ("gene_id", CONFLICTS_OF),
        "posteriors": ("gene_id", POSTERIORS_OF),
        "effects": ("gene_id", EFFECTS_OF),
    },
    "individual": {
        "genes": ("genotype_id", GENES_OF),
        "parents": ("individual_id", PARENTS_OF),
        "children": ("individual_id", CHILDREN_OF),
        "scores": ("genotype_id", SCORES_OF),
        "evaluations": ("genotype_id", EVALUATIONS_OF),
    },
    "genotype": {
        "genes": ("genotype_id", GENES_OF),
        "individuals": ("genotype_id", INDIVIDUALS_OF),
        "scores": ("genotype_id", SCORES_OF),
        "evaluations": ("genotype_id", EVALUATIONS_OF),
    },
    "evaluation": {
        "genes": ("genotype_id", GENES_OF),
        "curve": ("evaluation_id", CURVE_OF),
    },
}


class UnknownId(Mistake):
    """Nothing in the lineage has this id."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            f"nothing has the id {wanted!r}; give that of a gene, individual, genotype or evaluation, or how it begins"
        )


class AmbiguousId(Mistake):
    """Several things in the lineage have an id that begins like this."""

    def __init__(self, wanted: str, found: Sequence[str]) -> None:
        some = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        super().__init__(f"{len(found)} ids begin with {wanted!r} ({some}); give more of the one you mean")


def status(run_dir: Path) -> dict[str, Any]:
    """Return where a run stands; a run that says it is running while nobody holds its lock was `interrupted`."""
    with read(run_dir) as reader:
        (run,) = reader.dicts(RUN)
        (baseline,) = reader.dicts(BASELINE)
        best = reader.dicts(BEST)
    if run["status"] == "running" and not is_live(run_dir):
        run["status"] = "interrupted"
    return {**run, "baseline": baseline, "best": best[0] if best else None}


def genes(run_dir: Path) -> list[dict[str, Any]]:
    """Return every gene with its posterior on the rung that counts, best first; those without one last."""
    with read(run_dir) as reader:
        return reader.dicts(GENES)


def show(run_dir: Path, wanted: str) -> dict[str, Any]:
    """Return one gene, individual, genotype or evaluation whole, by its id or the beginning of it."""
    with read(run_dir) as reader:
        kind, name = _found(reader, wanted)
        (whole,) = reader.dicts(f"FROM {KINDS[kind]} WHERE {kind}_id = $1", [name])
        parts = {part: reader.dicts(sql, [whole[key]]) for part, (key, sql) in PARTS[kind].items()}
    return {"kind": kind, **whole, **parts}


def find_gene(reader: Reader, wanted: str) -> str:
    """Return the id of the one gene that has this id or, failing that, whose id begins so."""
    sql = "SELECT gene_id AS id FROM genes WHERE starts_with(gene_id, $1) ORDER BY gene_id <> $1, gene_id"
    found = [row["id"] for row in reader.dicts(sql, [wanted])] if wanted else []
    if not found:
        raise UnknownId(wanted)
    if len(found) > 1 and found[0] != wanted:
        raise AmbiguousId(wanted, found)
    return found[0]


def _found(reader: Reader, wanted: str) -> tuple[str, str]:
    """Return kind and id of the one thing that has this id or, failing that, whose id begins so."""
    each = (f"SELECT '{kind}' AS kind, {kind}_id AS id FROM {table}" for kind, table in KINDS.items())
    sql = f"SELECT kind, id FROM ({' UNION ALL '.join(each)}) WHERE starts_with(id, $1) ORDER BY id <> $1, id"
    found = [(row["kind"], row["id"]) for row in reader.dicts(sql, [wanted])] if wanted else []
    if not found:
        raise UnknownId(wanted)
    if len(found) > 1 and found[0][1] != wanted:
        raise AmbiguousId(wanted, [name for _, name in found])
    return found[0]
