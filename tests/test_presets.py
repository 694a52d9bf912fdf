"""Which GPUs are here, by a fake nvidia-smi, which preset `auto` is then, and what the bundled presets hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from evolve import hardware
from evolve.doctor import as_text, diagnose
from evolve.hardware import cuda_gpus, described, usable_gpus
from evolve.presets import choose_preset
from evolve.target_files import load_target, skip_flags
from evolve.target_tables import target_path
from fitness.gpus import Gpu
from population.mistakes import Mistake

H100, A100, RTX = ("NVIDIA H100 80GB HBM3", 81559), ("NVIDIA A100-PCIE-40GB", 40960), ("NVIDIA RTX 4000", 20475)
SMALL, TINY = ("NVIDIA GeForce RTX 3080", 10240), ("NVIDIA T1000", 4096)
TOOL = """#!/bin/sh
case "$1" in
    --query-gpu=name,memory.total) printf '{rows}' ;;
    --query-gpu=uuid) printf '{uuids}' ;;
    *) exit 2 ;;
esac
"""
Model = tuple[str, int]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a machine with these GPUs in place of this one."""

    def give(*models: Model, visible: str | None = None) -> None:
        rows = "".join(f"{name}, {mib} MiB\\n" for name, mib in models)
        uuids = "".join(f"GPU-{i}{i}aa-{i}\\n" for i in range(len(models)))
        tool = tmp_path / "nvidia-smi"
        tool.write_text(TOOL.format(rows=rows, uuids=uuids))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return give


def test_gpus_come_with_name_and_memory_in_the_order_of_nvidia_smi(machine) -> None:
    machine(H100, A100)
    assert cuda_gpus() == (Gpu("0", H100[0], 85.5), Gpu("1", A100[0], 42.9))


def test_memory_that_nvidia_smi_does_not_know_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GB10, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda_gpus() == (Gpu("0", "NVIDIA GB10", None),)
    assert described(cuda_gpus()) == "1 x NVIDIA GB10 (memory unknown)"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert cuda_gpus() == ()


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("", []),
        (" ", []),
        ("-1", []),
        ("2", ["2"]),
        ("3,0", ["3", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("1,9,2", ["1"]),  # as CUDA does: what is no GPU ends the list
        ("1,-1,2", ["1"]),
        ("1,1", ["1"]),
        ("GPU-22aa-2,GPU-00aa-0", ["GPU-22aa-2", "GPU-00aa-0"]),
        ("GPU-33", ["GPU-33aa-3"]),
        ("GPU-", []),  # the beginning of several
        ("GPU-99,1", []),
        ("GPU-11aa-1,3", ["GPU-11aa-1", "3"]),
        ("MIG-abc", ["MIG-abc"]),
    ],
)
def test_gpus_are_those_of_cuda_visible_devices_by_number_or_uuid(machine, visible: str, found: list[str]) -> None:
    machine(H100, H100, A100, A100, visible=visible)
    assert [gpu.visible_as for gpu in cuda_gpus()] == found


def test_a_gpu_named_by_uuid_keeps_its_own_name_and_memory(machine) -> None:
    machine(H100, A100, visible="GPU-11")
    assert cuda_gpus() == (Gpu("GPU-11aa-1", A100[0], 42.9),)


def test_runs_leave_a_small_gpu_alone_where_another_has_enough_memory(machine) -> None:
    machine(TINY, H100)
    assert [gpu.visible_as for gpu in usable_gpus(70)] == ["1"]
    assert [gpu.visible_as for gpu in usable_gpus(None)] == ["0", "1"]
    machine(TINY, SMALL)
    assert [gpu.visible_as for gpu in usable_gpus(70)] == ["0", "1"]


def test_without_nvidia_smi_gpus_are_their_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nodes = [Path(f"/dev/nvidia{i}") for i in (10, 2)]
    monkeypatch.setattr(hardware.Path, "glob", lambda *_: nodes)
    assert cuda_gpus() == (Gpu("0", "nvidia2"), Gpu("1", "nvidia10"))


@pytest.mark.parametrize(
    ("models", "chosen"),
    [
        ([H100] * 8, "d12"),
        ([H100] * 4, "d12"),
        ([H100] * 3, "d12-screen"),
        ([H100], "d12-screen"),
        ([H100] * 3 + [A100], "d12-screen"),
        ([A100] * 8, "d8"),
        ([RTX], "d6"),
        ([SMALL], "d4"),
        ([TINY], "cpu"),
        ([], "cpu"),
    ],
)
def test_auto_goes_by_memory_and_count(machine, models: list[Model], chosen: str) -> None:
    machine(*models)
    assert choose_preset("nanochat").name == chosen


def test_auto_counts_only_visible_gpus(machine) -> None:
    machine(*[H100] * 8, visible="5,6")
    assert choose_preset("nanochat").name == "d12-screen"
    machine(*[H100] * 8, visible="")
    assert choose_preset("nanochat").name == "cpu"


def test_the_choice_says_what_it_needs_and_what_is_here_and_the_doctor_shows_it(machine, tmp_path: Path) -> None:
    machine(*[H100] * 2, A100)
    choice = choose_preset("nanochat")
    assert (choice.name, choice.needs) == ("d12-screen", "1 GPU of 70 GB or more")
    assert choice.here == "2 x NVIDIA H100 80GB HBM3 (85.5 GB), 1 x NVIDIA A100-PCIE-40GB (42.9 GB)"
    said = as_text(diagnose(tmp_path, tmp_path))
    assert f"device: {choice.here}; `--preset auto` of nanochat is d12-screen, which needs {choice.needs}" in said


# files of one's own

FILE = """
name = "toy"
editable = ["*.py"]
[metric]
name = "loss"
direction = "minimize"
file = "r.json"
[rungs.full]
command = ["{python}", "score.py", "{gpus}"]
timeout_s = 5
seeds = [0]
"""
CPU_FIRST = "[presets.cpu.rungs.full]\n[presets.big.rungs.full]\ngpus = 2\n"


@pytest.fixture
def toy(tmp_path: Path):
    (tmp_path / "model.py").write_text("x = 1\n")

    def write(more: str, head: str = "") -> Path:
        path = tmp_path / "toy.toml"
        path.write_text(head + FILE + more)
        return path

    return write


def test_without_an_order_presets_that_want_gpus_are_tried_first(machine, toy) -> None:
    for models, chosen in (([TINY] * 2, "big"), ([TINY], "cpu"), ([], "cpu")):
        machine(*models)
        assert choose_preset(toy(CPU_FIRST)).name == chosen


def test_the_order_of_the_file_counts_and_what_it_leaves_out_is_only_chosen_by_name(machine, toy) -> None:
    machine(TINY, TINY)
    path = toy(CPU_FIRST, 'auto = ["cpu"]\n')
    assert choose_preset(path).name == "cpu"
    assert choose_preset(path, "big").name == "big"


def test_an_order_with_an_unknown_preset_is_one_sentence(machine, toy) -> None:
    machine()
    with pytest.raises(Mistake, match=r'"auto" must list presets of this file \(cpu, big\), not \'bigg\''):
        choose_preset(toy(CPU_FIRST, 'auto = ["bigg"]\n'))


def test_a_machine_that_no_preset_fits_is_one_sentence(machine, toy) -> None:
    machine(TINY)
    path = toy("[presets.big]\nneeds = { gpu_memory_gb = 70 }\n[presets.big.rungs.full]\ngpus = 1\n")
    with pytest.raises(Mistake, match=r"every preset .* \(big\) asks for a GPU that is not here \(1 x NVIDIA T1000"):
        choose_preset(path)
    assert choose_preset(path, "big").name == "big"


@pytest.mark.parametrize(
    ("needs", "sentence"),
    [
        ("{ gpu = 1 }", 'unknown key "presets.big.needs.gpu"; did you mean "gpus"'),
        ("{ gpus = 0 }", '"presets.big.needs.gpus" must be 1 or more, not 0'),
        ("{ gpu_memory_gb = -1 }", '"presets.big.needs.gpu_memory_gb" must be above 0'),
    ],
)
def test_every_mistake_in_needs_is_one_sentence(toy, needs: str, sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        load_target(toy(f"[presets.big]\nneeds = {needs}\n"), "big")


def test_all_gpus_are_those_that_are_here_at_least_one(machine, toy) -> None:
    path = toy('[presets.big]\nneeds = { gpu_memory_gb = 70 }\n[presets.big.rungs.full]\ngpus = "all"\n')
    for models, gpus in (([H100] * 8, 8), ([H100, H100, TINY], 2), ([TINY], 1), ([], 1)):
        machine(*models)
        assert load_target(path, "big").rungs[0].gpus == gpus
    assert load_target(path, "big").rungs[0].compiles


# the bundled presets

NANOCHAT = tomllib.loads(target_path("nanochat").read_text())
ON_GPUS = [name for name in NANOCHAT["presets"] if name != "cpu"]
STEPS = {  # preset -> steps and tokens of a step of its last rung
    "d4": (462, 2**18),
    "d6": (929, 2**18),
    "d8": (1680, 2**18),
    "d12-screen": (80, 2**19),
    "d12": (320, 2**19),
    "d12-full": (2205, 2**19),
    "d16": (4704, 2**19),
    "d20": (4357, 2**20),
    "d24": (7308, 2**20),
}
GFLOP = {4: 0.085, 6: 0.177, 8: 0.315, 12: 0.802, 16: 1.66, 20: 3.0, 24: 4.95}  # a token
H100_FLOPS = 0.802e9 * 2**19 / 0.96


@pytest.fixture(params=ON_GPUS)
def preset(request: pytest.FixtureRequest, machine) -> str:
    machine(*[H100] * 4)
    return request.param


def test_a_preset_trains_a_fixed_number_of_whole_steps(preset: str) -> None:
    steps, batch = STEPS[preset]
    assert load_target("nanochat", preset).rungs[-1].tokens == steps * batch


def test_a_preset_takes_enough_shards_and_not_many_more(preset: str) -> None:
    target = load_target("nanochat", preset)
    used = (target.rungs[-1].tokens or 0) / 55e6
    assert 1.1 * used <= int(target.variables["shards"]) <= 1.2 * used + 1.1


def test_time_limits_are_several_times_what_an_h100_needs_and_still_limits(preset: str) -> None:
    for rung in load_target("nanochat", preset).rungs:
        expected = (rung.tokens or 0) * GFLOP[rung.depth or 0] * 1e9 / H100_FLOPS
        assert 600 + 3 * expected <= rung.timeout_s <= 1800 + 40 * expected


def test_judging_costs_little_and_sees_millions_of_tokens(preset: str) -> None:
    for rung in load_target("nanochat", preset).rungs:
        assert 4 * 2**20 <= (rung.eval_tokens or 0) <= max(4 * 2**20, 0.1 * (rung.tokens or 0))


def test_a_step_divides_into_whole_passes_on_one_gpu_and_on_all(preset: str) -> None:
    target = load_target("nanochat", preset)
    pass_tokens = int(target.variables["device_batch_size"]) * int(target.variables["sequence_len"])
    assert STEPS[preset][1] % (pass_tokens * target.rungs[-1].gpus) == 0


def test_rungs_pass_only_scale(preset: str) -> None:
    scale = {"--processes", "--depth", "--max-seq-len", "--device-batch-size", "--device-type", "--seed"}
    assert skip_flags(load_target("nanochat", preset)) <= scale


def test_a_smaller_batch_is_set_from_outside_and_its_data_is_the_same(preset: str) -> None:
    target = load_target("nanochat", preset, {"device_batch_size": "2"})
    assert target.variables["device_batch_size"] == "2"
    assert not any("{device_batch_size}" in word for word in target.prepare)


def test_the_deepest_preset_takes_all_gpus_and_the_others_one_a_run(preset: str) -> None:
    for rung in load_target("nanochat", preset).rungs:
        assert rung.gpus == (4 if preset == "d24" else 1)
        assert rung.compiles


def test_the_cpu_preset_wants_no_gpu_and_compiles_nothing() -> None:
    for rung in load_target("nanochat", "cpu").rungs:
        assert (rung.gpus, rung.compiles, rung.depth, rung.eval_tokens) == (0, False, 2, 55000)
        assert "cuda" not in rung.command


def test_every_file_of_the_program_is_editable_or_frozen() -> None:
    root = Path(__file__).parent.parent
    files = {path.relative_to(root).as_posix() for path in (root / "nanochat").glob("*.py")}
    assert files == {*NANOCHAT["editable"], *NANOCHAT["frozen"]}


def test_every_bundled_preset_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "targets.md").read_text()
    for name in NANOCHAT["presets"]:
        assert f"| `{name}` |" in page
