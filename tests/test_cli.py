"""The commands, typed as a person would, on the landscape: output, exit codes, one sentence for a mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = ("run", "--target", "landscape", "--generations", "2", "--run-dir", "r")


def evolve(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "100"}
    command = [sys.executable, "-m", "evolve", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    ended = evolve(folder, *RUN)
    assert ended.returncode == 0, ended.stderr
    (folder / "said").write_text(ended.stdout)
    return folder


def test_a_run_says_noise_floor_verdict_and_what_to_try_next(done: Path) -> None:
    said = (done / "said").read_text()
    assert "noise floor   seed sd" in said
    assert "paired sd, null genes" in said
    assert re.search(r"verdict|nothing beat the noise", said)
    assert "evolve genes r" in said


def test_the_next_commands_that_a_run_prints_work(done: Path) -> None:
    said = (done / "said").read_text()
    commands = re.findall(r"^(?:next)? +evolve (.*)$", said, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', command)]
        ended = evolve(done, *words)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout


def test_status_as_json_has_the_promised_shape(done: Path) -> None:
    found = json.loads(evolve(done, "status", "r", "--json").stdout)
    assert {"run_id", "status", "generation", "births", "evaluations", "baseline", "best", "usd"} <= found.keys()
    assert found["status"] == "finished"
    assert found["births"] == 24
    assert {"mean", "sd", "n"} <= found["baseline"].keys()
    assert {"genotype_id", "n_genes", "mean", "se", "gain"} <= found["best"].keys()


def test_genes_and_show_speak_of_the_same_gene(done: Path) -> None:
    listed = json.loads(evolve(done, "genes", "r", "--json").stdout)
    gene = listed[0]["gene_id"]
    shown = json.loads(evolve(done, "show", gene[:10], "--run", "r", "--json").stdout)
    assert shown["gene_id"] == gene
    assert shown["diff"].startswith("diff --git a/knobs.py")
    assert "KNOB" in evolve(done, "genes", "r").stdout.upper()


def test_sql_answers_in_every_format(done: Path) -> None:
    query = "SELECT status, count(*) AS n FROM evaluations GROUP BY status"
    assert "(1 row)" in evolve(done, "sql", query, "--run", "r").stdout
    assert evolve(done, "sql", query, "--run", "r", "--format", "csv").stdout.startswith("status,n\nok,")
    assert json.loads(evolve(done, "sql", query, "--run", "r", "--format", "json").stdout)[0]["status"] == "ok"


def test_resuming_a_finished_run_runs_nothing_again(done: Path) -> None:
    count = ("sql", "SELECT count(*) AS n FROM evaluations", "--run", "r", "--format", "csv")
    before = evolve(done, *count).stdout
    assert evolve(done, "resume", "r").returncode == 0
    assert evolve(done, *count).stdout == before


def test_baseline_leaves_a_run_directory_with_a_noise_floor(tmp_path: Path) -> None:
    ended = evolve(tmp_path, "baseline", "--target", "landscape", "--seeds", "6", "--run-dir", "b")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(evolve(tmp_path, "sql", "FROM noise_floor", "--run", "b", "--format", "json").stdout)
    assert {(row["kind"], row["n"]) for row in rows if row["rung"] == "full"} == {("baseline", 10), ("null", 8)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--target", "nowhere"), 'no target "nowhere"'),
        (("run", "--target", "landscape", "--set", "populaton=3"), "population"),
        (("run", "--target", "landscape", "--preset", "d12"), 'no preset "d12"'),
        (("run", "--target", "landscape", "--generations", "-1"), "generations"),
        (("status",), "no run directory"),
        (("resume", "elsewhere"), "no run directory"),
        (("sql", "SELECT 1"), "no run directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ended = evolve(tmp_path, *words)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_mistakes_about_a_run_that_is_there_are_sentences_too(done: Path) -> None:
    for words, said in (
        (("sql", "DELETE FROM genes", "--run", "r"), "read-only"),
        (("sql", "SELEC 1", "--run", "r"), "syntax"),
        (("show", "zzzz", "--run", "r"), "zzzz"),
        (RUN, "already holds a run"),
    ):
        ended = evolve(done, *words)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_target_whose_base_fails_ends_with_exit_code_3_and_its_log(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("LR = 0.1\nraise SystemExit('no data here')\n")
    (tmp_path / "t.toml").write_text(
        'name = "broken"\neditable = ["train.py"]\n[metric]\nname = "loss"\ndirection = "minimize"\nfile = "r.json"\n'
        '[rungs.only]\ncommand = ["{python}", "train.py"]\ntimeout_s = 5\nseeds = [0, 1]\n'
    )
    ended = evolve(tmp_path, "run", "--target", "t.toml", "--run-dir", "r")
    assert ended.returncode == 3
    assert "no data here" in ended.stderr
    assert evolve(tmp_path, "status", "r").stdout.startswith("run           r: failed")


def test_every_command_has_help_with_examples(tmp_path: Path) -> None:
    commands = re.findall(r"^  (\w+) ", evolve(tmp_path, "--help").stdout.split("Commands:")[1], re.MULTILINE)
    assert set(commands) == {
        "run",
        "resume",
        "status",
        "genes",
        "show",
        "sql",
        "baseline",
        "doctor",
        "import",
        "inject",
        "export",
    }
    for command in commands:
        said = evolve(tmp_path, command, "--help").stdout
        assert "Examples:" in said
        assert f"evolve {command}" in said


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command, quiet = [sys.executable, "-m", "evolve", *words], subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=quiet, stderr=quiet)


def evaluated(folder: Path) -> int:
    found = evolve(folder, "status", "r", "--json")
    return json.loads(found.stdout)["evaluations"] if found.returncode == 0 else 0


def test_ctrl_c_ends_in_order_and_resume_goes_on(tmp_path: Path) -> None:
    live = start(tmp_path, "run", "--target", "landscape", "--generations", "5", "--run-dir", "r")
    while evaluated(tmp_path) < 20 and live.poll() is None:
        time.sleep(0.1)
    live.send_signal(signal.SIGINT)
    assert live.wait(timeout=20) == 0
    assert evolve(tmp_path, "status", "r").stdout.startswith("run           r: stopped")
    assert evolve(tmp_path, "resume", "r").returncode == 0
    assert json.loads(evolve(tmp_path, "status", "r", "--json").stdout)["births"] == 60


def test_a_live_run_has_one_writer(tmp_path: Path) -> None:
    live = start(tmp_path, "run", "--target", "landscape", "--generations", "50", "--run-dir", "r")
    while not (tmp_path / "r" / "lineage.duckdb").exists() and live.poll() is None:
        time.sleep(0.05)
    second = evolve(tmp_path, "resume", "r")
    live.kill()
    live.wait()
    assert second.returncode == 2
    assert f"in use by process {live.pid}" in second.stderr


def test_1_2_and_4_workers_give_the_same_lineage(tmp_path: Path) -> None:
    born = "SELECT birth, operator, generation, genotype_id FROM individuals ORDER BY birth"
    scored = "SELECT genotype_id, rung, seed, split, status, score FROM evaluations ORDER BY ALL"
    told = set()
    for workers in ("1", "2", "4"):
        words = ("run", "--target", "landscape", "--generations", "2", "--workers", workers, "--run-dir", f"r{workers}")
        assert evolve(tmp_path, *words, "--set", "lag=6").returncode == 0
        asked = [evolve(tmp_path, "sql", q, "--run", f"r{workers}", "--format", "csv").stdout for q in (born, scored)]
        told.add("".join(asked))
        shutil.rmtree(tmp_path / "cache")  # or the second run would be read from it
    assert len(told) == 1
    assert len(told.pop().splitlines()) > 60


def test_a_new_run_never_touches_a_directory_with_other_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine" / "base").mkdir(parents=True)
    (tmp_path / "mine" / "target.toml").write_text("precious")
    ended = evolve(tmp_path, "run", "--target", "landscape", "--run-dir", "mine")
    assert ended.returncode == 2
    assert "mine is not empty" in ended.stderr
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["base", "lock", "target.toml"]
    assert (tmp_path / "mine" / "target.toml").read_text() == "precious"


def test_an_emptied_run_toml_is_not_a_run_with_defaults(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "r", tmp_path / "r")
    (tmp_path / "r" / "run.toml").write_text("")
    ended = evolve(tmp_path, "resume", "r")
    assert ended.returncode == 2
    assert "it lacks target, preset" in ended.stderr


def test_a_damaged_database_is_one_sentence(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "r", tmp_path / "r")
    for name, command in (("lineage.duckdb", "status"), ("engine.duckdb", "resume")):
        (tmp_path / "r" / name).unlink()
        (tmp_path / "r" / name).write_bytes(b"no database" * 1000)
        ended = evolve(tmp_path, command, "r")
        assert ended.returncode == 2
        assert "the lineage cannot be used" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_target_with_nothing_to_move_says_so_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('loss: 1')\n")
    (tmp_path / "t.toml").write_text(
        'name = "still"\neditable = ["train.py"]\n[metric]\nname = "loss"\ndirection = "minimize"\n'
        'regex = "^loss: (.*)"\n[rungs.only]\ncommand = ["{python}", "train.py"]\ntimeout_s = 5\nseeds = [0, 1]\n'
    )
    ended = evolve(tmp_path, "run", "--target", "t.toml", "--run-dir", "r")
    assert ended.returncode == 2
    assert "nothing to move" in ended.stderr


def test_an_impatient_second_ctrl_c_is_no_traceback_and_loses_nothing(tmp_path: Path) -> None:
    live = start(tmp_path, "run", "--target", "landscape", "--generations", "5", "--run-dir", "r")
    while evaluated(tmp_path) < 10 and live.poll() is None:
        time.sleep(0.1)
    for _ in range(3):
        live.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert live.wait(timeout=20) in (0, 130)
    assert evolve(tmp_path, "resume", "r").returncode == 0
