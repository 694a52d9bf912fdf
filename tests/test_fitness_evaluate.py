"""Evaluations of the tiny target: real children, and every ending a status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fitness_cases import ALONE, RECIPE, TINY, bench, edited, job, running, score, with_rung

from fitness.evaluate import evaluate
from fitness.launch import ForkServer
from fitness.target import Metric
from population.individuals import Status


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    one = ForkServer()
    yield one
    one.close()


def test_the_base_is_trained_by_the_feeder_and_scored_by_the_judge(server: ForkServer, tmp_path: Path) -> None:
    found = score(server, tmp_path, TINY).evaluation
    assert found.status is Status.OK, found.log_tail
    assert found.score is not None
    assert 0 < found.score < 2
    assert (found.tokens, found.train_seconds, found.n_params, found.flops) == (8, 0.25, 1, 2.0)
    assert (found.integrity, found.device, found.log_tail) == ("judged", "cpu", "")
    assert [point.step for point in found.curve] == list(range(1, 9))


def test_a_patched_constant_changes_the_score_and_the_empty_patch_set_does_not(
    server: ForkServer, tmp_path: Path
) -> None:
    base, again = (score(server, tmp_path / name, TINY).evaluation.score for name in "ab")
    patched = score(server, tmp_path / "c", TINY, edited("RATE = 0.5", "RATE = 0.25")).evaluation.score
    assert base == again
    assert patched is not None
    assert patched != base


def test_only_log_events_and_patch_are_kept(server: ForkServer, tmp_path: Path) -> None:
    score(server, tmp_path, TINY)
    home = tmp_path / "evaluations" / "e1"
    assert sorted(path.name for path in home.iterdir()) == ["events.jsonl", "log.txt", "patch.diff"]
    log = (home / "log.txt").read_text()
    assert log.startswith("trained with seed 0\n")
    assert "\n--- server ---\n" in log
    assert (home / "patch.diff").read_text() == "the patch\n"
    assert json.loads((home / "events.jsonl").read_text().splitlines()[-1])["checkpoint"] == "model.json"


def test_the_server_sees_base_genes_and_checkpoint_and_nothing_else(server: ForkServer, tmp_path: Path) -> None:
    leaves = edited("    return learnt\n", "    open('smuggled', 'w').close()\n    return learnt\n")
    assert score(server, tmp_path, TINY, leaves).evaluation.status is Status.OK
    assert "server sees ['model.json', 'tiny']" in (tmp_path / "evaluations/e1/log.txt").read_text()


def test_the_snapshot_of_the_base_is_never_changed(server: ForkServer, tmp_path: Path) -> None:
    score(server, tmp_path, TINY, edited("RATE = 0.5", "RATE = 0.9"))
    names = {str(path.relative_to(tmp_path / "base")) for path in (tmp_path / "base").rglob("*") if path.is_file()}
    assert names == {
        f"tiny/{name}.py" for name in ("__init__", "recipe", "channel", "train", "feeder", "serve", "judge")
    }
    assert "RATE = 0.5\n" in (tmp_path / "base" / RECIPE).read_text()


def test_text_that_does_not_parse_is_patch_failed_without_a_process(server: ForkServer, tmp_path: Path) -> None:
    outcome = score(server, tmp_path, TINY, edited("RATE = 0.5", "RATE = = 0.5"))
    assert outcome.evaluation.status is Status.PATCH_FAILED
    assert "tiny/recipe.py does not parse: invalid syntax" in outcome.evaluation.log_tail
    assert outcome.repeatable


@pytest.mark.parametrize("path", ["../out.py", "/tmp/out.py", "new.py", "tiny", ""])
def test_a_path_that_is_no_file_of_the_base_is_patch_failed(server: ForkServer, tmp_path: Path, path: str) -> None:
    found = score(server, tmp_path, TINY, {path: "pass\n"}).evaluation
    assert found.status is Status.PATCH_FAILED
    assert "genes may touch nothing else" in found.log_tail
    assert not (tmp_path / "evaluations/out.py").exists()


@pytest.mark.parametrize("where", ["train(batches):", "predict(learnt, x):"])
def test_an_exception_in_training_or_server_is_crashed_with_the_candidates_own_traceback(
    server: ForkServer, tmp_path: Path, where: str
) -> None:
    outcome = score(server, tmp_path, TINY, edited(f"def {where}\n", f"def {where}\n    1 / 0\n"))
    assert outcome.evaluation.status is Status.CRASHED
    assert "ZeroDivisionError: division by zero" in outcome.evaluation.log_tail
    assert 'File "tiny/recipe.py"' in outcome.evaluation.log_tail
    assert str(tmp_path) not in outcome.evaluation.log_tail
    assert "runpy" not in outcome.evaluation.log_tail
    assert outcome.repeatable


def test_training_longer_than_the_limit_is_timed_out(server: ForkServer, tmp_path: Path) -> None:
    target = with_rung(TINY, timeout_s=0.5)
    outcome = score(server, tmp_path, target, edited("    learnt = 0.0\n", "    import time; time.sleep(60)\n"))
    assert outcome.evaluation.status is Status.TIMED_OUT
    assert outcome.evaluation.wall_seconds < 10
    assert not outcome.repeatable


def test_a_server_that_hangs_is_timed_out(server: ForkServer, tmp_path: Path) -> None:
    hangs = edited("    return learnt * x\n", "    import time; time.sleep(60)\n")
    assert score(server, tmp_path, with_rung(TINY, timeout_s=0.7), hangs).evaluation.status is Status.TIMED_OUT


def test_memory_beyond_the_rungs_limit_is_out_of_memory(server: ForkServer, tmp_path: Path) -> None:
    target = with_rung(TINY, memory_gb=0.25)
    found = score(server, tmp_path, target, edited("    learnt = 0.0\n", "    learnt = [0.0] * 10**8\n")).evaluation
    assert found.status is Status.OUT_OF_MEMORY
    assert "MemoryError" in found.log_tail


def test_a_kill_that_was_not_ours_is_out_of_memory(server: ForkServer, tmp_path: Path) -> None:
    target, files = running("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    outcome = score(server, tmp_path, target, files)
    assert outcome.evaluation.status is Status.OUT_OF_MEMORY
    assert not outcome.repeatable


def test_a_trainer_that_says_so_is_diverged_whatever_its_exit_code(server: ForkServer, tmp_path: Path) -> None:
    code = 'open("events.jsonl", "w").write(\'{"step": 3}\\n{"status": "diverged"}\\n\')\nraise SystemExit(3)\n'
    target, files = running(code)
    outcome = score(server, tmp_path, target, files)
    assert (outcome.evaluation.status, outcome.repeatable) == (Status.DIVERGED, True)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400])
def test_a_score_that_is_not_finite_is_diverged(server: ForkServer, tmp_path: Path, number: str) -> None:
    target, files = running(f"open('result.json', 'w').write('{{\"loss\": {number}}}')\n")
    found = score(server, tmp_path, target, files).evaluation
    assert (found.status, found.score) == (Status.DIVERGED, None)


def test_predictions_that_are_not_finite_are_diverged(server: ForkServer, tmp_path: Path) -> None:
    found = score(server, tmp_path, TINY, edited("return learnt * x", "return float('nan')")).evaluation
    assert found.status is Status.DIVERGED


def test_a_trainer_that_asks_for_more_than_its_budget_is_over_budget(server: ForkServer, tmp_path: Path) -> None:
    code = """    learnt, channel = 0.0, batches.gi_frame.f_locals["channel"]
    for _ in range(20):
        channel.send("next")
        channel.receive()
"""
    greedy = edited("    learnt = 0.0\n", code)
    found = score(server, tmp_path, TINY, greedy).evaluation
    assert found.status is Status.OVER_BUDGET
    assert "asked for too much" in found.log_tail


def test_what_the_judge_calls_cheating_is_cheated(server: ForkServer, tmp_path: Path) -> None:
    found = score(server, tmp_path, TINY, edited("return learnt * x", "return 'peek'")).evaluation
    assert found.status is Status.CHEATED
    assert "the server asked for targets" in found.log_tail


def test_a_child_that_closes_its_channel_fails_alone(server: ForkServer, tmp_path: Path) -> None:
    code = "    import os; os.close(int(os.environ['EVOLVE_CHANNEL']))\n    raise SystemExit\n"
    closes = edited("    return learnt * x\n", code)
    found = score(server, tmp_path, TINY, closes).evaluation
    assert found.status is Status.CRASHED
    assert found.wall_seconds < 9
    assert score(server, tmp_path, TINY).evaluation.status is Status.OK


def test_a_feeder_that_fails_is_not_held_against_the_candidate_for_good(server: ForkServer, tmp_path: Path) -> None:
    target = replace(TINY, feeder=("{python}", "-m", "tiny.nothing"))
    outcome = score(server, tmp_path, target)
    assert outcome.evaluation.status is Status.CRASHED
    assert not outcome.repeatable


def test_a_checkpoint_outside_the_workspace_is_refused(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("7")
    for name in ("../../../secret", "link", "missing", "tiny"):
        leaves = f"""    import atexit, json, os
    os.symlink("/etc/passwd", "link")
    last = json.dumps(dict(checkpoint={name!r}))
    atexit.register(lambda: open("events.jsonl", "a").write(last))
    return learnt
"""
        found = score(server, tmp_path, TINY, edited("    return learnt\n", leaves)).evaluation
        assert found.status is Status.CRASHED
        assert "the checkpoint can not be read" in found.log_tail
    assert (tmp_path / "secret").read_text() == "7"


def test_garbage_in_events_is_passed_over_and_the_curve_is_thinned(server: ForkServer, tmp_path: Path) -> None:
    code = r"""
import json
with open("events.jsonl", "w") as f:
    f.write('[1]\n{"step": -1, "train_loss": 1}\n{"step": 1, "train_loss": NaN}\n\x00\n')
    f.write('{"step": true, "train_loss": 2}\n')
    for step in range(1000):
        f.write(json.dumps({"step": step, "train_loss": 1.5, "tokens": "many", "seconds": 1e400}) + "\n")
    f.write("[" * 100000 + "\n")
json.dump({"loss": 1.0}, open("result.json", "w"))
"""
    target, files = running(code)
    found = score(server, tmp_path, target, files).evaluation
    assert found.status is Status.OK, found.log_tail
    assert len(found.curve) == 200
    assert (found.curve[0].step, found.curve[-1].step, found.curve[5].tokens) == (0, 999, None)


def test_a_metric_is_read_from_the_last_matching_line_of_the_log(server: ForkServer, tmp_path: Path) -> None:
    target, files = running("print('loss: 3')\nprint('loss: 2.5')\n")
    target = replace(target, metric=Metric("loss", "minimize", regex="^loss: *([0-9.eE+-]+)"))
    found = score(server, tmp_path, target, files).evaluation
    assert (found.score, found.integrity) == (2.5, "self_reported")


def test_a_command_without_a_number_is_crashed_and_says_where_it_was_expected(
    server: ForkServer, tmp_path: Path
) -> None:
    target, files = running("pass\n")
    found = score(server, tmp_path, target, files).evaluation
    assert found.status is Status.CRASHED
    assert "the file 'result.json' has no number 'loss'" in found.log_tail


@pytest.mark.parametrize("name", ["a b", "a'b", "a;b", "a$b", "größe", '"', "a\nb", "--help"])
def test_run_directories_may_have_any_name(server: ForkServer, tmp_path: Path, name: str) -> None:
    assert score(server, tmp_path / name, TINY).evaluation.status is Status.OK


def test_an_evaluation_that_was_cut_off_is_run_again_in_a_clean_directory(server: ForkServer, tmp_path: Path) -> None:
    left = tmp_path / "evaluations" / "e1" / "train"
    left.mkdir(parents=True)
    (left / "locked").mkdir(mode=0o000)
    assert score(server, tmp_path, TINY).evaluation.status is Status.OK
    assert not left.exists()


def test_newlines_and_bytes_of_a_patched_file_are_exact(server: ForkServer, tmp_path: Path) -> None:
    code = "raw = open(__file__, 'rb').read()\njson.dump({'loss': len(raw)}, open('result.json', 'w'))"
    text = f"import json\r\nx = 'é'\r\n{code}"
    target, files = running(text)
    assert score(server, tmp_path, target, files).evaluation.score == len(text.encode())


def test_other_programs_than_python_are_run_too(server: ForkServer, tmp_path: Path) -> None:
    target = with_rung(ALONE, command=("sh", "-c", "echo '{\"loss\": '$1'}' > result.json", "sh", "{seed}"))
    assert score(server, tmp_path, target).evaluation.score == 0.0
    missing = score(server, tmp_path, with_rung(ALONE, command=("no-such-program",))).evaluation
    assert missing.status is Status.CRASHED
    assert "cannot run 'no-such-program': No such file or directory" in missing.log_tail


def test_an_installed_copy_of_the_target_can_not_win(server: ForkServer, tmp_path: Path) -> None:
    """The project is installed in this environment, so a workspace with its own `population` must hide that one."""
    root = tmp_path / "root"
    (root / "population").mkdir(parents=True)
    (root / "population/__init__.py").write_text("LOSS = 42\n")
    code = "import json, population\njson.dump({'loss': population.LOSS}, open('result.json', 'w'))\n"
    (root / "run.py").write_text(code)
    target = with_rung(ALONE, command=("{python}", "-m", "run"))
    target = replace(target, root=root, editable=("run.py",), frozen=("**/*",))
    with_preload = ForkServer(("population.individuals",))
    try:
        table = bench(target, tmp_path)
        found = evaluate(replace(job(), files=table.base_files), table, with_preload).evaluation
    finally:
        with_preload.close()
    assert found.score == 42.0


def test_a_file_that_a_gene_adds_is_there_and_one_that_it_deletes_is_not(server: ForkServer, tmp_path: Path) -> None:
    code = "import json, os\njson.dump({'loss': float(os.path.exists('tiny/recipe.py'))}, open('result.json', 'w'))\n"
    target = replace(with_rung(ALONE, command=("{python}", "tiny/recipe_new.py")), editable=("tiny/recipe*.py",))
    found = evaluate(replace(job(), files={"tiny/recipe_new.py": code}), bench(target, tmp_path), server).evaluation
    assert (found.status, found.score) == (Status.OK, 0.0)


def test_the_environment_of_a_rung_reaches_its_command(server: ForkServer, tmp_path: Path) -> None:
    code = "import json, os\njson.dump({'loss': float(os.environ['LOSS'])}, open('result.json', 'w'))\n"
    target, files = running(code)
    assert "LOSS" not in os.environ
    assert score(server, tmp_path, with_rung(target, env={"LOSS": "1.25"}), files).evaluation.score == 1.25


FIRST = '{"device": "cuda", "attention": "fa3", "batch_tokens": 4, "flops_per_token": 10.5, "world_size": 1}'
REPORTS = "import json\nopen('events.jsonl', 'w').write(LINES)\njson.dump({'loss': 1.0}, open('result.json', 'w'))\n"


def test_the_kernel_is_what_the_first_line_of_events_says(server: ForkServer, tmp_path: Path) -> None:
    target, files = running(f"LINES = {FIRST!r}\n{REPORTS}")
    assert score(server, tmp_path, target, files).evaluation.kernel == "fa3"


@pytest.mark.parametrize("name", ['"a b"', '"\\u001b[31m"', f'"{"x" * 33}"', "7", '["fa3"]', "null", '""', '"fä3"'])
def test_a_kernel_that_is_no_plain_name_is_not_believed(server: ForkServer, tmp_path: Path, name: str) -> None:
    target, files = running(f"LINES = {FIRST.replace(chr(34) + 'fa3' + chr(34), name)!r}\n{REPORTS}")
    found = score(server, tmp_path, target, files).evaluation
    assert (found.status, found.kernel) == (Status.OK, None)


SAYS_FLOPS = """    import json
    batches.gi_frame.f_locals["events"].write(json.dumps({"flops_per_token": %s}) + "\\n")
    learnt = 0.0
"""


@pytest.mark.parametrize(("said", "flops"), [("10.5", 84.0), ("-1", None), ("float('inf')", None), ("'many'", None)])
def test_flops_are_tokens_handed_out_times_what_the_candidate_says_of_one(
    server: ForkServer, tmp_path: Path, said: str, flops: float | None
) -> None:
    """The judge of the tiny target counts FLOPs itself unless training fails, so training fails here."""
    files = edited("    learnt = 0.0\n", SAYS_FLOPS % said)
    files[RECIPE] = files[RECIPE].replace("    return learnt\n", "    raise SystemExit(1)\n")
    found = score(server, tmp_path, TINY, files).evaluation
    assert (found.status, found.tokens, found.flops) == (Status.CRASHED, 8, flops)


def test_flops_that_the_judge_counts_are_believed_before_the_candidates(server: ForkServer, tmp_path: Path) -> None:
    found = score(server, tmp_path, TINY, edited("    learnt = 0.0\n", SAYS_FLOPS % "10.5")).evaluation
    assert (found.status, found.flops) == (Status.OK, 2.0)


@pytest.mark.parametrize("reason", ["the loss is nan", "x" * 10**6, "\x1b[2J"])
def test_why_a_training_diverged_reaches_the_log(server: ForkServer, tmp_path: Path, reason: str) -> None:
    last = {"status": "diverged", "step": 3, "train_loss": None, "reason": reason}
    target, files = running(
        f"print('hello')\nopen('events.jsonl', 'w').write({json.dumps(last)!r})\nraise SystemExit(3)\n"
    )
    found = score(server, tmp_path, target, files).evaluation
    assert found.status is Status.DIVERGED
    assert found.log_tail.startswith("hello\n")
    assert found.log_tail.endswith(reason[:500].replace("\x1b", ""))


def test_no_checkpoint_is_kept_unless_it_is_asked_for(server: ForkServer, tmp_path: Path) -> None:
    score(server, tmp_path / "plain", TINY)
    assert not list((tmp_path / "plain").rglob("model.json"))
    table = replace(bench(TINY, tmp_path / "kept"), keep_checkpoints=True)
    assert evaluate(job(), table, server).evaluation.status is Status.OK
    names = sorted(path.name for path in (tmp_path / "kept/evaluations/e1").iterdir())
    assert names == ["events.jsonl", "log.txt", "model.json", "patch.diff"]


@pytest.mark.parametrize(
    "name", ["log.txt", "patch.diff", "train", "../e1/log.txt", "sub/model", "/etc/passwd", "scratch"]
)
def test_a_kept_checkpoint_takes_no_other_files_place(server: ForkServer, tmp_path: Path, name: str) -> None:
    lines = json.dumps({"checkpoint": name})
    code = (
        "import json, os\nos.mkdir('sub')\n[open(n, 'w').write('x') for n in ('log.txt', 'patch.diff', 'sub/model')]\n"
    )
    target, files = running(f"{code}LINES = {lines!r}\n{REPORTS}")
    table = replace(bench(target, tmp_path), keep_checkpoints=True)
    assert evaluate(job(files), table, server).evaluation.status is Status.OK
    home = tmp_path / "evaluations/e1"
    assert sorted(path.name for path in home.iterdir()) == ["events.jsonl", "log.txt", "patch.diff"]
    assert (home / "patch.diff").read_text() == "the patch\n"
    assert (home / "log.txt").read_text() == ""
