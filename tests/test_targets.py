"""Targets: what a TOML file becomes, and the one sentence for every mistake in it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from evolve import hardware, target_files, target_tables
from evolve.target_files import load_target, skip_flags
from evolve.target_tables import BUNDLED, bundled_targets, target_path
from fitness.target import Metric
from population.mistakes import Mistake

WHOLE = """\
name = "toy"
editable = ["*.py"]
frozen = ["data/*"]
preload = ["json"]
threads = 2

[metric]
name = "loss"
direction = "minimize"
file = "result.json"

[variables]
width = 64

[prepare]
command = ["{python}", "prepare.py", "{data}"]

[rungs.screen]
command = ["{python}", "score.py", "--seed={seed}", "--width", "{width}"]
timeout_s = 20
seeds = [0]

[rungs.full]
command = ["{python}", "score.py", "--seed", "{seed}", "--depth", "{depth}", '{"json": 1}']
timeout_s = 60.5
seeds = [0, 1]
depth = 4
gpus = 0.5
memory_gb = 2
env = { MODE = "slow" }
"""

PRESETS = """
[presets.cpu]
description = "small"
threads = 1
variables = { width = 8 }

[presets.cpu.rungs.full]
timeout_s = 5
gpus = 0

[presets.big.rungs.full]
timeout_s = 600
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("model.py", "data/text.txt", "score.md"):
        (tmp_path / name).write_text("x = 1\n")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_target_with_everything_it_says(folder: Path) -> None:
    target = load_target(write(folder, WHOLE))
    assert (target.name, target.root, target.threads, target.preload) == ("toy", folder.resolve(), 2, ("json",))
    assert target.metric == Metric("loss", "minimize", file="result.json")
    assert target.variables == {"width": "64"}
    assert target.prepare == ("{python}", "prepare.py", "{data}")
    assert [rung.name for rung in target.rungs] == ["screen", "full"]
    full = target.rung("full")
    assert (full.seeds, full.depth, full.gpus, full.memory_gb, full.timeout_s) == ((0, 1), 4, 0.5, 2.0, 60.5)
    assert full.env == {"MODE": "slow"}


def test_flags_that_a_rung_passes_are_found_with_and_without_an_equals_sign(folder: Path) -> None:
    assert skip_flags(load_target(write(folder, WHOLE))) == {"--seed", "--width", "--depth"}


def test_a_variable_is_overridden_and_an_unknown_one_is_refused(folder: Path) -> None:
    path = write(folder, WHOLE)
    assert load_target(path, variables={"width": "128"}).variables == {"width": "128"}
    with pytest.raises(Mistake, match=r'no variable "widht".*did you mean "width"\?'):
        load_target(path, variables={"widht": "128"})


def test_the_root_can_be_given_for_a_file_kept_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = write(tmp_path_factory.mktemp("run"), WHOLE)
    assert load_target(copy, root=folder).root == folder


def test_a_presets_rungs_are_the_ladder_and_inherit_what_they_leave_out(folder: Path) -> None:
    target = load_target(write(folder, WHOLE + PRESETS), "cpu")
    assert [rung.name for rung in target.rungs] == ["full"]
    assert (target.rungs[0].timeout_s, target.rungs[0].seeds, target.rungs[0].depth) == (5.0, (0, 1), 4)
    assert (target.threads, target.variables) == (1, {"width": "8"})


def test_a_target_without_presets_has_the_empty_one(folder: Path) -> None:
    path = write(folder, WHOLE)
    assert load_target(path, "") == load_target(path)


ANY = """
[rungs."*"]
timeout_s = 9
memory_gb = 1

[presets.small.rungs."*"]
depth = 1

[presets.small.rungs.screen]
timeout_s = 1

[presets.small.rungs.more]
command = ["{python}"]
seeds = [3]
"""


def test_what_no_rung_of_that_name_says_comes_from_the_rung_called_star(folder: Path) -> None:
    path = write(folder, WHOLE + ANY)
    screen, more = load_target(path, "small").rungs
    assert (screen.name, screen.timeout_s, screen.depth, screen.memory_gb, screen.seeds) == ("screen", 1, 1, 1, (0,))
    assert (more.name, more.timeout_s, more.depth, more.command) == ("more", 9, 1, ("{python}",))
    path = write(folder, (WHOLE + ANY).replace("presets.small.rungs.screen", "presets.small.rungs.full"))
    assert load_target(path, "small").rungs[0].memory_gb == 2  # of [rungs.full], which is nearer than [rungs."*"]


def test_a_preset_with_nothing_but_a_star_has_the_rungs_of_the_file(folder: Path) -> None:
    path = write(folder, WHOLE + '[presets.deep.rungs."*"]\ndepth = 24\n')
    assert [(rung.name, rung.depth) for rung in load_target(path, "deep").rungs] == [("screen", 24), ("full", 24)]


@pytest.mark.parametrize(("compile", "expected"), [("", True), ("compile = false", False), ("compile = true", True)])
def test_a_rung_with_a_gpu_compiles_unless_it_says_otherwise(folder: Path, compile: str, expected: bool) -> None:
    target = load_target(write(folder, WHOLE.replace("gpus = 0.5", f"gpus = 0.5\n{compile}")))
    assert [rung.compiles for rung in target.rungs] == [False, expected]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "toy"', 'name = "toy', "is not valid TOML: .*line 1"),
        ('name = "toy"\n', "", '"name" is missing'),
        ('name = "toy"', 'name = "a b"', '"name" must match .*, not .a b.'),
        ("threads = 2", "thread = 2", 'unknown key "thread"; did you mean "threads"'),
        ("threads = 2", "threads = 0", '"threads" must be 1 or more, not 0'),
        ("timeout_s = 20", "timeout = 20", r'unknown key "rungs.screen.timeout"; did you mean "timeout_s"'),
        ("timeout_s = 20", 'timeout_s = "20s"', "\"rungs.screen.timeout_s\" must be a number, not '20s'"),
        ("timeout_s = 20", "timeout_s = 0", r'"rungs.screen.timeout_s" must be above 0'),
        ("timeout_s = 20", "", '"rungs.screen.timeout_s" is missing'),
        ("seeds = [0]", "seeds = 0", r'"rungs.screen.seeds" must be a list'),
        ("seeds = [0]", "seeds = [true]", r'"rungs.screen.seeds.0" must be a whole number, not True'),
        ("seeds = [0]", "seeds = []", r'"rungs.screen.seeds" must not be empty'),
        ("gpus = 0.5", "gpus = 1.5", '"rungs.full.gpus" must be a number of whole GPUs, a share of one .*, not 1.5'),
        ("gpus = 0.5", 'gpus = "both"', '"rungs.full.gpus" must be .* or "all", not \'both\''),
        ("gpus = 0.5", "gpus = true", '"rungs.full.gpus" must be .*, not True'),
        ("gpus = 0.5", "gpus = -1", '"rungs.full.gpus" must be .*, not -1'),
        ("seeds = [0, 1]", "seeds = [1, 1]", r'"rungs.full.seeds" must not repeat a seed, not \[1, 1\]'),
        ("minimize", "minimise", "\"metric.direction\" must be 'minimize' or 'maximize', not 'minimise'"),
        ('file = "result.json"', "", "must have one of `file` and `regex`"),
        ('file = "result.json"', 'file = "a"\nregex = "(b)"', "must have one of `file` and `regex`"),
        ('file = "result.json"', 'file = "a"\n[judge]\ncommand = ["a"]', "has a judge"),
        ('file = "result.json"', 'regex = "loss: (["', "does not compile"),
        ('file = "result.json"', 'regex = "loss"', "has 0 groups; it needs one group"),
        ('file = "result.json"', 'fil = "a"', 'unknown key "metric.fil"; did you mean "file"'),
        (
            '"--width", "{width}"',
            '"--width", "{widht}"',
            r'"rungs.screen.command" uses \{widht\}.*did you mean "width"',
        ),
        ('"--width", "{width}"', '"{depth}"', r'uses \{depth\}, but rung "screen" has no `depth`'),
        ('command = ["{python}", "prepare.py", "{data}"]', "", '"prepare.command" is missing'),
        ('"prepare.py", "{data}"', '"{data}", "{seed}"', r'"prepare.command" uses \{seed\}, which nobody fills in'),
        ("[prepare]", "[feeder]", r"uses \{data\}, but nothing is prepared"),
        ("[prepare]", "[perpare]", 'unknown key "perpare"; did you mean "prepare"'),
        ("width = 64", "seed = 64", 'the variable "seed" has the name of a built-in placeholder'),
        ('editable = ["*.py"]', 'editable = ["*.rs"]', "pattern '\\*.rs' matches no file"),
        ('editable = ["*.py"]', 'editable = ["../*.py"]', r'the glob "../\*.py" leaves the root'),
        ('editable = ["*.py"]', 'editable = ["/etc/*"]', 'the glob "/etc/\\*" leaves the root'),
        ('editable = ["*.py"]', 'editable = ["**/*.py", "data/*"]', "data/text.txt is both editable and frozen"),
        ('name = "toy"', 'name = "toy"\nroot = "nowhere"', "root is .*nowhere, which is no directory"),
    ],
)
def test_every_mistake_is_one_sentence(folder: Path, old: str, new: str, sentence: str) -> None:
    assert old in WHOLE
    path = write(folder, WHOLE.replace(old, new, 1))
    with pytest.raises(Mistake) as caught:
        load_target(path)
    assert re.search(sentence, str(caught.value)), str(caught.value)


def test_a_file_without_rungs_is_refused(folder: Path) -> None:
    with pytest.raises(Mistake, match=r"has no rungs.*add a \[rungs.NAME\] table"):
        load_target(write(folder, WHOLE[: WHOLE.index("[rungs.screen]")]))


def test_an_unknown_preset_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(Mistake, match='has no preset "d12"; choose one of: auto, cpu, big'):
        load_target(write(folder, WHOLE + PRESETS), "d12")
    with pytest.raises(Mistake, match="it has none, so leave --preset out"):
        load_target(write(folder, WHOLE), "d12")


def test_an_unknown_target_lists_the_bundled_ones() -> None:
    with pytest.raises(Mistake, match=r'no target "landscpe".*landscape'):
        target_path("landscpe")


def test_bundled_targets_are_found_by_name_and_load() -> None:
    assert "landscape" in bundled_targets()
    assert target_path("landscape") == BUNDLED / "landscape.toml"
    for name in bundled_targets():
        assert load_target(name).rungs


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1)])
def test_usable_cores_respect_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(hardware, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert hardware.usable_cores() == cores


PAGE = (Path(__file__).parent.parent / "docs" / "targets.md").read_text()
DOCUMENTED = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", DOCUMENTED, ids=lambda text: tomllib.loads(text)["name"])
def test_every_target_in_the_documentation_loads(tmp_path: Path, text: str) -> None:
    raw = tomllib.loads(text)
    root = tmp_path / raw.get("root", ".")
    root.mkdir(exist_ok=True)
    for name in (*raw["editable"], *raw["frozen"]):
        (root / name).write_text("x = 1\n")
    for preset in raw.get("presets", {"": {}}):
        assert load_target(write(tmp_path, text), preset).rungs


def test_the_documented_landscape_is_the_bundled_one() -> None:
    documented = next(text for text in DOCUMENTED if 'name = "landscape"' in text)
    assert tomllib.loads(documented) == tomllib.loads(target_path("landscape").read_text())


def test_every_key_of_a_rung_and_every_placeholder_is_documented() -> None:
    for name in target_tables.RungTable.model_fields:
        assert f"`{name}`" in PAGE
    for name in target_files.PLACEHOLDERS:
        assert f"`{{{name}}}`" in PAGE


def test_every_dependency_is_explained() -> None:
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    page = (root / "docs" / "dependencies.md").read_text()
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        name = re.match(r"[\w-]+", requirement)
        assert name
        assert f"[{name[0]}](" in page
