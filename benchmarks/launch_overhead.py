"""What it costs to start a child: from a fork server, plain and with torch preloaded, against a new interpreter."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fitness.child import Spec
from fitness.launch import ForkServer, child_environment

RESULT = Path(__file__).parent / "results" / "launch_overhead.json"


def milliseconds(action: Callable[[], object], times: int) -> dict[str, float | int]:
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - began))
    deciles = statistics.quantiles(taken, n=10)
    return {
        "n": times,
        "median_ms": round(deciles[4], 1),
        "p10_ms": round(deciles[0], 1),
        "p90_ms": round(deciles[8], 1),
    }


def forked(preload: tuple[str, ...], code: str, folder: Path, times: int) -> tuple[float, dict[str, float | int]]:
    (folder / "main.py").write_text(code)
    began = time.perf_counter()
    server = ForkServer(preload)
    start_s = time.perf_counter() - began
    spec = Spec(
        [sys.executable, "main.py"],
        str(folder),
        str(folder / "log"),
        60,
        child_environment(server.env, folder, folder, {}),
    )
    try:
        return round(start_s, 2), milliseconds(lambda: server.spawn(spec).ended(), times)
    finally:
        server.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_s, plain = forked((), "pass", folder, 100)
        torch_s, torch = forked(("torch",), "import torch", folder, 100)
        _, dynamo = forked(("torch", "torch._dynamo"), "import torch._dynamo", folder, 50)
        cold = milliseconds(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True), 5)
        bare = milliseconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 20)
    figures = {
        "machine": {
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
            "python": sys.version.split()[0],
        },
        "fork_server_start_s": {"plain": plain_s, "torch": torch_s},
        "child_of_fork_server": {"trivial": plain, "torch": torch, "torch_dynamo": dynamo},
        "new_interpreter": {"trivial": bare, "import_torch": cold},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
