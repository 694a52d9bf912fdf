"""Settings: --set, what `auto` becomes, and run.toml there and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evolve import settings as module
from evolve.settings import RunSettings, apply_sets, read_run_toml, resolve, workers_for, write_run_toml
from evolve.target_files import load_target
from evolve.target_tables import target_path
from fitness.gpus import Gpu
from population.mistakes import Mistake


def test_sets_are_applied_in_order_with_their_types() -> None:
    changed = apply_sets(
        RunSettings(),
        ["generations=3", "generations=4", "max_hours=1.5", "target=a=b.toml", "instance=7"],
        ["instance"],
    )
    assert changed == replace(
        RunSettings(), generations=4, max_hours=1.5, target="a=b.toml", variables={"instance": "7"}
    )


@pytest.mark.parametrize("unset", ["auto", "none", "None"])
def test_a_limit_is_taken_away_again(unset: str) -> None:
    assert apply_sets(RunSettings(workers=3), [f"workers={unset}"]).workers is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("generations", 'takes key=value, not "generations"'),
        ("=3", 'takes key=value, not "=3"'),
        ("generatons=3", 'no setting is called "generatons"; did you mean "generations"'),
        ("instanc=3", 'no setting is called "instanc"; did you mean "instance"'),
        ("variables=3", 'no setting is called "variables"'),
        ("zzz=3", "known: confirm_seeds, generations, instance, keep_checkpoints, lag, max_evaluations"),
        ("generations=x", "\"generations\" must be a whole number, not 'x'"),
        ("generations=1.5", "\"generations\" must be a whole number, not '1.5'"),
        ("generations=auto", "\"generations\" must be a whole number, not 'auto'"),
        ("population=1", "\"population\" must be 2 or more, not '1'"),
        ("max_hours=0", '"max_hours" must be above 0'),
        ("max_hours=inf", '"max_hours" must be finite'),
        ("seed=-1", '"seed" must be 0 or more'),
        ("keep_checkpoints=perhaps", '"keep_checkpoints" must be a valid boolean'),
        ("operator=magic", "\"operator\" must be 'auto' or 'local', not 'magic'"),
    ],
)
def test_every_wrong_set_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(Mistake) as caught:
        apply_sets(RunSettings(), [text], ["instance"])
    assert sentence in str(caught.value)


def test_resolving_leaves_no_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 5)
    resolved, target = resolve(RunSettings(target="landscape", variables={"instance": "3"}))
    assert "auto" not in (resolved.preset, resolved.operator)
    assert (resolved.workers, resolved.target, resolved.variables) == (5, "landscape", {"instance": "3"})
    assert target == load_target("landscape", variables={"instance": "3"})


def test_resolving_is_done_once_and_for_all() -> None:
    resolved, target = resolve(RunSettings(target="landscape"))
    assert resolve(resolved) == (resolved, target)


def test_a_target_of_ones_own_is_recorded_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = target_path("landscape").read_text().replace('root = "landscape"', "")
    (tmp_path / "mine.toml").write_text(text)
    for name in ("knobs.py", "score.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    assert resolve(RunSettings(target="mine.toml"))[0].target == str(tmp_path.resolve() / "mine.toml")


@pytest.mark.parametrize(("threads", "workers"), [(1, 5), (2, 2), (9, 1)])
def test_workers_are_what_fits_on_the_cores(monkeypatch: pytest.MonkeyPatch, threads: int, workers: int) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 5)
    assert workers_for(replace(load_target("landscape"), threads=threads)) == workers


@pytest.mark.parametrize(
    ("wanted", "workers"), [((1.0,), 3), ((0.5,), 6), ((1.0, 3.0), 3), ((2.0,), 1), ((0.0, 1.0), 3)]
)
def test_workers_are_what_the_gpus_hold_for_a_target_that_wants_them(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[float, ...], workers: int
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 64)
    monkeypatch.setattr(module, "usable_gpus", lambda _: tuple(Gpu(str(i), "H100") for i in range(3)))
    target = load_target("landscape")
    rungs = tuple(replace(target.rungs[0], name=f"r{gpus}", gpus=gpus) for gpus in wanted)
    assert workers_for(replace(target, rungs=rungs)) == workers


def test_a_preset_that_wants_more_gpus_than_are_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_gpus", lambda _: ())
    with pytest.raises(
        Mistake, match=r'The rung "screen" of nanochat wants 1 CUDA GPU\(s\) and this process may use 0'
    ):
        resolve(RunSettings(preset="d12"))


@pytest.mark.parametrize(
    "settings",
    [RunSettings(), RunSettings(max_hours=2.5, max_evaluations=9, workers=1, variables={"a": 'quote " and \n line'})],
)
def test_settings_survive_run_toml(tmp_path: Path, settings: RunSettings) -> None:
    write_run_toml(tmp_path / "run.toml", settings)
    assert read_run_toml(tmp_path / "run.toml") == settings
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("generations =", "is not the run.toml of a run: Invalid value"),
        (
            "generatons = 3",
            'is not the run.toml of a run: no setting is called "generatons"; did you mean "generations"',
        ),
        ("offspring = 0", '"offspring" must be 1 or more, not 0'),
        ('generations = "3"', "\"generations\" must be a whole number, not '3'"),
        ("workers = true", '"workers" must be a whole number, not True'),
        ("[variables]\ninstance = 3", '"variables" must be text in quotes'),
    ],
)
def test_every_bad_run_toml_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(Mistake) as caught:
        read_run_toml(path)
    assert sentence in str(caught.value)


def test_a_missing_run_toml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"is not the run.toml of a run: .*No such file"):
        read_run_toml(tmp_path / "run.toml")
