"""Values of the domain as rows of the lineage, and back without loss. Pure: the statements are in evolve/lineage.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evolve.records import Effect, LlmCall
from fitness.evaluation import Evaluation, Point
from fitness.reports import thin
from population.genes import BaseTree, Category, Edit, Gene, Kind, Origin, lines_changed, render_diff
from population.individuals import Genotype, Individual, Operator, Status

Row = tuple[Any, ...]

WHOLE_FILE = {kind.value: kind for kind in (Kind.ADD_FILE, Kind.DELETE_FILE)}  # other kinds are of spans
CURVE = ("evaluation_id", "step", "tokens", "seconds", "train_loss")
GENE = ("gene_id", "title", "hypothesis", "category", "origin", "allele_of")
INDIVIDUAL = ("individual_id", "genotype_id", "operator", "generation", "birth", "island")
EVALUATION = (
    *("evaluation_id", "genotype_id", "rung", "seed", "split", "replicate", "status", "score"),
    *("depth", "train_seconds", "wall_seconds", "tokens", "flops", "peak_memory_bytes", "n_params"),
    *("device", "kernel", "sandbox", "integrity", "source_evaluation_id", "started_unix", "log_tail"),
)


def gene_row(gene: Gene, base: BaseTree) -> Row:
    """Return the columns GENE, then the gene's diff and the lines it adds and removes."""
    changes = (render_diff(base, [gene]), *lines_changed(base, gene))
    words = (plain(gene.title), plain(gene.hypothesis))
    return (gene.gene_id, *words, gene.category.value, gene.origin.value, gene.allele_of, *changes)


def edit_rows(gene: Gene, base: BaseTree) -> list[Row]:
    """Return a row of gene_edits for each edit."""
    return [_edit_row(gene.gene_id, edit, base.under(edit), i) for i, edit in enumerate(gene.edits)]


def gene_of(row: Row, edits: Sequence[Row], requires: Sequence[Row]) -> Gene:
    """Return the gene of a row of GENE, its edits (path, start, end, replacement, kind) and what it requires."""
    gene_id, title, hypothesis, category, origin, allele_of = row
    needed = tuple(name for (name,) in requires)
    written = tuple(
        Edit(path, start, end, text, WHOLE_FILE.get(kind, Kind.SPAN)) for path, start, end, text, kind in edits
    )
    return Gene(gene_id, title, hypothesis, Category(category), Origin(origin), written, allele_of, needed)


def individual_row(individual: Individual) -> Row:
    """Return the columns INDIVIDUAL."""
    name, genotype_id, operator = individual.individual_id, individual.genotype.genotype_id, individual.operator.value
    return (name, genotype_id, operator, individual.generation, individual.birth, individual.island)


def individual_of(row: Row, genotype: Genotype, parents: Sequence[Row]) -> Individual:
    """Return the individual of a row of INDIVIDUAL."""
    name, _, operator, generation, birth, island = row
    ancestry = tuple(parent for (parent,) in parents)
    return Individual(name, genotype, Operator(operator), ancestry, generation, birth, island)


def evaluation_row(e: Evaluation) -> Row:
    """Return the columns EVALUATION."""
    what = (e.evaluation_id, e.genotype.genotype_id, e.rung, e.seed, e.split, e.replicate, e.status.value, e.score)
    cost = (e.depth, e.train_seconds, e.wall_seconds, e.tokens, e.flops, e.peak_memory_bytes, e.n_params)
    where = (e.device, e.kernel, e.sandbox, e.integrity)
    return (*what, *cost, *where, e.source_evaluation_id, e.started_at, plain(e.log_tail))


def evaluation_of(row: Row, genotype: Genotype, curve: Sequence[Row]) -> Evaluation:
    """Return the evaluation of a row of EVALUATION and its curve (step, tokens, seconds, train_loss)."""
    evaluation_id, _, rung, seed, split, replicate, status, *rest = row
    points = tuple(Point(*point) for point in curve)
    return Evaluation(evaluation_id, genotype, rung, seed, split, replicate, Status(status), *rest, curve=points)


def curve_rows(evaluation: Evaluation) -> list[Row]:
    """Return the columns CURVE for each point that is kept."""
    points = thin(list(evaluation.curve))
    return [(evaluation.evaluation_id, p.step, p.tokens, p.seconds, p.train_loss) for p in points]


def call_row(call: LlmCall, run_id: str) -> Row:
    """Return a row of llm_calls."""
    tokens = (call.input_tokens, call.output_tokens, call.cache_read_tokens, call.cache_write_tokens)
    error = None if call.error is None else plain(call.error)
    who = (call.call_id, run_id, call.individual_id, call.purpose, call.model)
    return (*who, *tokens, call.usd, call.seconds, call.status, error)


def effect_row(e: Effect, analysis_id: str, run_id: str) -> Row:
    """Return a row of effects, all but the time."""
    numbers = (e.estimate, e.se, e.ci_low, e.ci_high, e.n, e.p_value, e.q_value)
    return (analysis_id, run_id, e.kind, e.gene_a, e.gene_b, *numbers, e.verdict, e.depth, e.rung, e.design)


def plain(text: str) -> str:
    """Return text that UTF-8 can hold: a lone surrogate, as logs and models write them, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _edit_row(gene_id: str, edit: Edit, text: str, position: int) -> Row:
    span = "insert" if edit.start == edit.end else "replace" if edit.replacement else "delete"
    kind = span if edit.kind is Kind.SPAN else edit.kind.value
    first = text.count("\n", 0, edit.start) + 1
    last = first + text.count("\n", edit.start, max(edit.start, edit.end - 1))
    lines = (gene_id, kind, edit.path, first, last)
    return (*lines, text[edit.start : edit.end], edit.replacement, edit.start, edit.end, position)
