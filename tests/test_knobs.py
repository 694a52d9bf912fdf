"""Knobs: which constants are found, where they move to, and the genes that move them."""

import ast
import random
import statistics

import pytest

from population.compose import compose, conflict, syntax_error
from population.genes import BaseTree, Category, Edit, Origin, gene_from_edits
from population.knobs import find_knobs, knob_gene, move, moved_by, moves, null_genes, number_text


def base(text, **others):
    return BaseTree({"a.py": text, **others})


def found(text, *skip_flags):
    return [(knob.name, knob.text) for knob in find_knobs(base(text), frozenset(skip_flags))]


@pytest.mark.parametrize(
    ("text", "knobs"),
    [
        ("CAP = 20", [("CAP", "20")]),
        ("SLOPE: float = -0.5", [("SLOPE", "-0.5")]),
        ("BATCH = 2**19", [("BATCH", "19")]),
        ("def f(x, eps=1e-8, *, k=3): pass", [("eps", "1e-8"), ("k", "3")]),
        ("def f():\n    rate = 0.1", [("rate", "0.1")]),
        ("f(x, lr=0.02)", [("lr", "0.02")]),
        ("g = {'lr': 0.02, 'kind': 'adam'}", [("lr", "0.02")]),
        ("f(betas=(0.8, 0.95))", [("betas[0]", "0.8"), ("betas[1]", "0.95")]),
        ("def f(x):\n    return 20 * tanh(x / 20)", [("f: return 20 * tanh(x / 20)", "20")] * 2),
        ("init(w, 0.02)", [("init(w, 0.02)", "0.02")]),
        ("x *= 0.5", [("x *= 0.5", "0.5")]),
        ("add('--matrix-lr', type=float, default=0.02)", [("matrix_lr", "0.02")]),
        ("p.add_argument('-d', '--decay', default=0.0, help='0.1')", [("decay", "0.0")]),
    ],
)
def test_a_number_that_somebody_chose_is_a_knob(text, knobs):
    assert found(text) == knobs


@pytest.mark.parametrize(
    "text",
    [
        "x = y[..., :32]",
        "x = y[-3]",
        "x = sum(y, dim=-1)",
        "x = y.chunk(2, dim=1)",
        "x = zeros(8, 128)",
        "x = torch.arange(0, n, 4)",
        "shape = (8, 128)",
        "x = n % 64 + n // 8",
        "x = y**2 + z**0.5",
        "x = 1.0 - y",
        "x = min(y, 1.0)",
        "flag = True",
        "steps = -1",
        "first = 0",
        "assert x < 0.5",
        "x = f'{y * 100.0:.3f}'",
        "MASK = 0xFF",
        "PI = 3.14159265",
        "text = '0.5'",
        "names = {5: 'five'}",
        "x: Literal[5] = y",
        "add('--n', type=int, nargs=3, choices=[4, 8], default=-1)",
        "total = 0.0\ntotal += y",
        "best = 1e9\nbest = min(best, y)",
        "best = 1e9\nfor best in y: pass",
        "@cached(size=128)\ndef f(): pass",
        "x = 'a' if y == 5 else 'b'",
        "for i in range(5): pass",
        "x = (",
    ],
)
def test_structure_state_and_sentinels_are_no_knobs(text):
    assert found(text) == []


def test_a_flag_that_the_preset_passes_is_skipped():
    text = "add('--depth', default=12)\nadd('--matrix-lr', default=0.02)\n"
    assert found(text, "--depth") == [("matrix_lr", "0.02")]
    assert found(text, "matrix-lr") == [("depth", "12")]


def test_a_field_that_every_call_of_its_class_gives_is_skipped():
    config = "class Config:\n    width: int = 64\n    cap: float = 20.0\n    base: float = 1e4\n"
    names = [k.name for k in find_knobs(base(config, **{"b.py": "m.Config(768, cap=y)\n"}))]
    assert names == ["base"]
    assert [k.name for k in find_knobs(base(config))] == ["width", "cap", "base"]
    assert find_knobs(base(config, **{"b.py": "Config(**y)\n"})) == ()


def test_a_name_is_state_only_in_its_own_scope():
    assert found("rate = 0.1\ndef f(y):\n    rate = y\n") == [("rate", "0.1")]
    assert found("def f(self):\n    self.n = 5\ndef g(self):\n    self.n += 1\n") == []


def test_spans_are_characters_whatever_comes_before():
    text = "# é\r\ns = 'é'; lr = -0.02\r\n\r\ndef f(ü, eps=1e-8): pass"
    assert [text[k.start : k.end] for k in find_knobs(base(text))] == ["-0.02", "1e-8"]


@pytest.mark.parametrize("module", [ast, random, statistics], ids=lambda module: module.__name__)
def test_in_a_real_file_each_span_holds_the_value_it_claims(module):
    with open(module.__file__, encoding="utf-8", newline="") as file:
        text = file.read()
    knobs = find_knobs(base(text))
    assert knobs
    assert all(ast.literal_eval(text[k.start : k.end]) == ast.literal_eval(k.text) == k.value for k in knobs)


def test_files_that_are_not_python_have_no_knobs():
    assert find_knobs(BaseTree({"a.txt": "lr = 0.02\n"})) == ()


def knob(text):
    (only,) = find_knobs(base(f"x = {text}\n"))
    return only


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.02", [0.01, 0.014, 0.016, 0.025, 0.028, 0.04]),
        ("-2.5", [-5.0, -3.5, -3.12, -2.0, -1.75, -1.25]),
        ("1e-10", [5e-11, 7e-11, 8e-11, 1.25e-10, 1.4e-10, 2e-10]),
        ("0.95", [0.9, 0.93, 0.9375, 0.96, 0.965, 0.975]),
        ("0.8", [0.6, 0.72, 0.75, 0.84, 0.86, 0.9]),
        ("1.02", [1.01, 1.014, 1.016, 1.025, 1.028, 1.04]),
        ("0.6", [0.3, 0.42, 0.48, 0.75, 0.84]),
        ("0.5", [0.25, 0.35, 0.4, 0.625, 0.7, 1.0]),
        ("0.0", [0.01, 0.02, 0.05, 0.1]),
        ("300", [150, 210, 240, 375, 420, 600]),
        ("3", [2, 4, 6]),
        ("1", [2]),
        ("64", [32, 128]),
        ("2**19", [18, 20]),
    ],
)
def test_a_knob_moves_on_the_scale_that_suits_it(text, values):
    assert list(moves(knob(text))) == values
    assert {type(value) for value in moves(knob(text))} == {type(values[0])}


@pytest.mark.parametrize(
    ("number", "text"), [(0.028, "0.028"), (5e-11, "5e-11"), (2e-7, "2e-7"), (1e16, "1e16"), (20000.0, "20000.0")]
)
def test_numbers_are_written_short(number, text):
    assert number_text(number) == text
    assert ast.literal_eval(text) == number


def test_a_drawn_move_is_one_of_the_moves_and_repeats_with_its_seed():
    drawn = {move(knob("0.02"), random.Random(k)) for k in range(60)}
    assert drawn == {number_text(value) for value in moves(knob("0.02"))}
    assert move(knob("0.02"), random.Random(7)) == move(knob("0.02"), random.Random(7))


SOURCE = "add('--matrix-lr', default=0.02)\nbeta = 0.95\nBATCH = 2**19\nslope = -1.5\n"


def test_every_move_of_every_knob_is_a_gene_that_parses_and_is_recognised():
    tree = base(SOURCE)
    knobs = find_knobs(tree)
    for each in knobs:
        for value in moves(each):
            gene = knob_gene(tree, each, number_text(value))
            assert syntax_error(compose(tree, [gene])) is None
            assert [knob for knob in knobs if moved_by(gene, knob)] == [each]
            assert (gene.origin, gene.allele_of) == (Origin.KNOB, None)
    assert len(knobs) == 4


def test_titles_say_what_moved_where():
    tree = base(SOURCE)
    lr, _, batch, slope = find_knobs(tree)
    titles = [knob_gene(tree, each, text).title for each, text in [(lr, "0.03"), (batch, "20"), (slope, "-2.0")]]
    assert titles == ["matrix_lr 0.02 -> 0.03", "BATCH 2**19 -> 2**20", "slope -1.5 -> -2.0"]


def test_a_knob_moved_again_is_an_allele_located_on_the_base():
    tree = base(SOURCE)
    lr = find_knobs(tree)[0]
    first = knob_gene(tree, lr, "0.03")
    second = knob_gene(tree, lr, "0.04", first)
    assert second.allele_of == first.gene_id
    assert second.gene_id == knob_gene(tree, lr, "0.04").gene_id
    assert second.title == "matrix_lr 0.02 -> 0.04"
    assert conflict(first, second)
    assert not {0.02, 0.03} & set(moves(lr, first))
    assert 0.06 in moves(lr, first)


def test_an_allele_keeps_the_other_edits_of_its_gene():
    tree = base(SOURCE)
    lr, beta, *_ = find_knobs(tree)
    edits = [Edit("a.py", lr.start, lr.end, "0.03"), Edit("a.py", beta.start, beta.end, "0.9")]
    idea = gene_from_edits(
        tree, edits, title="idea", hypothesis="", category=Category.OPTIMISER, origin=Origin.LLM, requires=("r",)
    )
    child = knob_gene(tree, beta, "0.85", idea)
    assert {edit.replacement for edit in child.edits} == {"0.03", "0.85"}
    assert (child.category, child.requires, child.title) == (Category.OPTIMISER, ("r",), "idea; beta 0.95 -> 0.85")


@pytest.mark.parametrize("replacement", ["0.02 * scale", "scale", "'0.5'", "(0.03)"])
def test_an_expression_in_the_place_of_a_knob_does_not_move_it(replacement):
    tree = base(SOURCE)
    lr = find_knobs(tree)[0]
    edit = Edit("a.py", lr.start, lr.end, replacement)
    gene = gene_from_edits(tree, [edit], title="t", hypothesis="", category=Category.OTHER, origin=Origin.LLM)
    assert not moved_by(gene, lr)


def test_null_genes_differ_compose_and_hardly_change_a_number():
    tree = base("a = 0.02\nb = 1e-10\nc = 3\nd = 1.0\n", **{"b.py": "e = 0.0\nf = 0.95\n"})
    knobs = find_knobs(tree)
    genes = null_genes(tree, knobs, 7)
    assert len({gene.gene_id for gene in genes}) == 7
    assert {edit.path for gene in genes[:2] for edit in gene.edits} == {"a.py", "b.py"}
    for gene in genes:
        old = next(each for each in knobs if moved_by(gene, each))
        (edit,) = gene.edits
        assert 0 < abs(float(edit.replacement) / old.value - 1) < 1e-5
    assert genes == null_genes(tree, knobs, 7)


def test_without_a_float_there_are_no_null_genes():
    tree = base("n = 5\n")
    assert null_genes(tree, find_knobs(tree), 3) == []
