"""Children of the fork server: what they inherit, what they leave, and that nothing of them survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fitness_cases import eventually, is_alive

from fitness.child import Spec
from fitness.launch import ForkServer, KeeperLost, Running, child_environment, wait_for
from fitness.mistakes import PreloadFailed

DEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("demon", "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
while not os.path.exists("demon") or not open("demon").read():
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    one = ForkServer()
    yield one
    one.close()


def spec(server: ForkServer, folder: Path, code: str, timeout_s: float = 10, **changes: object) -> Spec:
    (folder / "main.py").write_text(code)
    env = child_environment(server.env, folder, folder, {})
    plain = Spec([sys.executable, "main.py", "argument"], str(folder), str(folder / "log"), timeout_s, env)
    return replace(plain, **changes)  # type: ignore[arg-type]


def number_in(path: Path) -> int:
    assert eventually(lambda: path.exists() and bool(path.read_text()), 5)
    return int(path.read_text())


def test_a_demon_that_called_setsid_and_forked_twice_is_dead_after_the_timeout(
    server: ForkServer, tmp_path: Path
) -> None:
    ended = server.spawn(spec(server, tmp_path, DEMON + "time.sleep(60)", timeout_s=1)).ended()
    assert ended.timed_out
    assert not is_alive(number_in(tmp_path / "demon"))


def test_a_chain_of_forks_that_never_stands_still_is_ended(server: ForkServer, tmp_path: Path) -> None:
    code = "import os\nopen('main', 'w').write(str(os.getpid()))\nwhile True:\n    if os.fork(): os._exit(0)\n"
    assert server.spawn(spec(server, tmp_path, code)).ended().code == 0
    assert not is_alive(number_in(tmp_path / "main"))


def test_a_demon_does_not_outlive_a_child_that_ended_well(server: ForkServer, tmp_path: Path) -> None:
    ended = server.spawn(spec(server, tmp_path, DEMON)).ended()
    assert ended.code == 0
    assert not is_alive(number_in(tmp_path / "demon"))


def test_a_child_that_ignores_signals_is_killed_in_time(server: ForkServer, tmp_path: Path) -> None:
    code = "import signal, time\nfor s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    ended = server.spawn(spec(server, tmp_path, code, timeout_s=0.5)).ended()
    assert ended.timed_out
    assert ended.wall_s < 2


def test_a_child_whose_handle_is_forgotten_is_killed(server: ForkServer, tmp_path: Path) -> None:
    child: Running | None = server.spawn(spec(server, tmp_path, DEMON + "time.sleep(60)"))
    demon = number_in(tmp_path / "demon")
    assert is_alive(demon)
    assert child is not None
    child = None
    assert eventually(lambda: not is_alive(demon))


def test_a_killed_child_says_so(server: ForkServer, tmp_path: Path) -> None:
    child = server.spawn(spec(server, tmp_path, "import time; time.sleep(60)"))
    child.kill()
    ended = child.ended()
    assert ended.killed
    assert not ended.ok


ENGINE = """
import sys, time
from pathlib import Path
from fitness.child import Spec
from fitness.launch import ForkServer, child_environment
folder = Path(sys.argv[1])
server = ForkServer()
child = server.spawn(Spec([sys.executable, "main.py"], str(folder), str(folder / "log"), 60,
                          child_environment(server.env, folder, folder, {})))
(folder / "server").write_text(str(server.pid))
time.sleep(60)
"""


def test_killing_the_engine_kills_everything_within_two_seconds(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(DEMON + "open('main', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path)])
    pids = [number_in(tmp_path / name) for name in ("demon", "main", "server")]
    pids.append(parent(pids[1]))
    assert all(is_alive(pid) for pid in pids)
    engine.kill()
    engine.wait()
    assert eventually(lambda: not any(is_alive(pid) for pid in pids), 2)


def test_killing_the_keeper_leaves_no_orphan(server: ForkServer, tmp_path: Path) -> None:
    child = server.spawn(spec(server, tmp_path, DEMON + "open('main', 'w').write(str(os.getpid()))\ntime.sleep(60)"))
    main, demon = number_in(tmp_path / "main"), number_in(tmp_path / "demon")
    os.kill(parent(main), signal.SIGKILL)
    with pytest.raises(KeeperLost):
        child.ended()
    assert eventually(lambda: not is_alive(main) and not is_alive(demon), 3)


def test_a_fork_server_that_was_killed_is_started_again_and_its_children_go_on(tmp_path: Path) -> None:
    server = ForkServer()
    try:
        child = server.spawn(spec(server, tmp_path, "import time\nopen('main', 'w').write('1')\ntime.sleep(0.5)"))
        assert number_in(tmp_path / "main") == 1
        before = server.pid
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda: not is_alive(before))
        assert server.spawn(spec(server, tmp_path, "print('hello')", log=str(tmp_path / "second"))).ended().ok
        assert server.pid != before
        assert child.ended().ok
    finally:
        server.close()


def test_closing_kills_all_children_fast(tmp_path: Path) -> None:
    server = ForkServer()
    child = server.spawn(spec(server, tmp_path, DEMON + "time.sleep(60)"))
    demon = number_in(tmp_path / "demon")
    began = time.monotonic()
    server.close()
    server.close()
    assert child.ended().killed
    assert time.monotonic() - began < 2
    assert not is_alive(demon)
    assert not is_alive(server.pid)


def test_endless_output_is_cut_to_head_and_tail(server: ForkServer, tmp_path: Path) -> None:
    code = "import sys\nprint('first')\nwhile True: sys.stdout.write('x' * 9999 + chr(10))"
    ended = server.spawn(spec(server, tmp_path, code, timeout_s=0.7, log_bytes=50_000)).ended()
    assert ended.timed_out
    text = (tmp_path / "log").read_text()
    assert text.startswith("first\n")
    assert "bytes left out ...]" in text
    assert 50_000 <= len(text) < 50_100


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 5000, 70_000, 1_000_000])
def test_a_log_keeps_its_first_and_last_bytes_exactly(server: ForkServer, tmp_path: Path, size: int) -> None:
    code = f"import sys\nsys.stdout.write(''.join(chr(97 + i % 26) for i in range({size})))"
    assert server.spawn(spec(server, tmp_path, code, log_bytes=100)).ended().ok
    whole = "".join(chr(97 + i % 26) for i in range(size))
    text = (tmp_path / "log").read_text()
    left_out = f"\n[... {size - 100} bytes left out ...]\n"
    assert text == (whole if size <= 100 else whole[:50] + left_out + whole[-50:])


CANARY = "a-secret-that-must-not-leak"
LOOK = """
import os, subprocess, sys
def environ(pid): return open(f"/proc/{pid}/environ", "rb").read().decode()
keeper = os.getppid()
server = int(open(f"/proc/{keeper}/stat").read().rpartition(")")[2].split()[1])
print("SERVER", environ(server)); print("KEEPER", environ(keeper)); print("CHILD", environ("self"))
print("OS", dict(os.environ)); sys.stdout.flush()
subprocess.run(["env"]); subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"])
"""


def test_no_secret_of_the_engine_is_in_any_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("PYTHONPATH", f"/{CANARY}")
    server = ForkServer()
    try:
        assert server.spawn(spec(server, tmp_path, LOOK)).ended().ok
        assert server.spawn(spec(server, tmp_path, "", argv=["env"], out=str(tmp_path / "out"))).ended().ok
    finally:
        server.close()
    text = (tmp_path / "log").read_text() + (tmp_path / "out").read_text()
    assert "PYTHONHASHSEED" in text
    assert CANARY not in text
    assert "ANTHROPIC" not in text


def test_a_child_has_its_workspace_first_and_only_its_own_files_open(server: ForkServer, tmp_path: Path) -> None:
    code = """
import os, resource, sys
print(sys.argv, sys.path[0] == os.getcwd() == os.environ["PYTHONPATH"], sys.stdin.read() == "")
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3], len(os.listdir("/proc/self/fd")))
print(os.getsid(0) == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE), os.environ["OMP_NUM_THREADS"])
"""
    assert server.spawn(spec(server, tmp_path, code)).ended().ok
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["['main.py', 'argument'] True True", "[0, 1, 2] 4", "True (0, 0) 1"]


@pytest.mark.parametrize(
    ("code", "status", "printed"),
    [
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('bad luck')", 1, "bad luck\n"),
        ("import atexit; atexit.register(print, 'bye')", 0, "bye\n"),
        ("import threading, time\nthreading.Timer(0.1, print, ['late']).start()", 0, "late\n"),
        ("import sys; sys.stdout.write('no newline')", 0, "no newline"),
        ("import os; os.abort()", -6, ""),
        ("import os; os._exit(3)", 3, ""),
        ("import multiprocessing as m; p = m.Process(target=print, args=[1]); p.start(); p.join()", 0, "1\n"),
    ],
)
def test_a_python_child_ends_as_python_would(
    server: ForkServer, tmp_path: Path, code: str, status: int, printed: str
) -> None:
    assert server.spawn(spec(server, tmp_path, code)).ended().code == status
    assert (tmp_path / "log").read_text() == printed


def test_usage_of_descendants_is_counted(server: ForkServer, tmp_path: Path) -> None:
    inner = "x = bytearray(90_000_000); sum(range(4_000_000))"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}])"
    ended = server.spawn(spec(server, tmp_path, code)).ended()
    assert ended.max_rss_bytes > 90_000_000
    assert ended.cpu_s > 0.05


def test_two_children_run_at_the_same_time(server: ForkServer, tmp_path: Path) -> None:
    meet = "import os, time\nopen(NAME, 'w').close()\nwhile not os.path.exists(OTHER): time.sleep(0.01)\n"
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    codes = [f"NAME, OTHER = {str(tmp_path / f'{x}1')!r}, {str(tmp_path / f'{y}1')!r}\n{meet}" for x, y in ("ab", "ba")]
    children = [server.spawn(spec(server, folder, code)) for folder, code in zip(folders, codes, strict=True)]
    assert wait_for(children, 5)
    assert all(child.ended().ok for child in children)


def test_a_full_disk_is_an_error_of_the_machine_and_not_of_the_child(server: ForkServer, tmp_path: Path) -> None:
    child = server.spawn(spec(server, tmp_path, "print('x')", log="/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        child.ended()


def test_a_preload_module_is_imported_once_and_shared(tmp_path: Path) -> None:
    server = ForkServer(("decimal",))
    try:
        code = "import sys\nprint('decimal' in sys.modules, 'fitness' in sys.modules)"
        assert server.spawn(spec(server, tmp_path, code)).ended().ok
    finally:
        server.close()
    assert (tmp_path / "log").read_text().startswith("True")


def test_a_preload_module_that_is_missing_is_the_users_mistake() -> None:
    with pytest.raises(PreloadFailed, match=r"no_such_module.*can not be imported: No module named"):
        ForkServer(("no_such_module",))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
