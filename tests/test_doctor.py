"""The doctor tells the truth about a machine, and no secrets."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest

from evolve import doctor
from evolve.doctor import Finding, as_json, as_text, diagnose
from evolve.presets import Choice
from fitness.gpus import Gpu

Usage = namedtuple("Usage", "total used free")


def found(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with nothing of note: no GPU, no bubblewrap, no key, room on the disk."""
    monkeypatch.setattr(doctor, "cuda_gpus", lambda: ())
    nothing, one = Choice("cpu", "no GPU"), Choice("d12", "1 GPU")
    monkeypatch.setattr(doctor, "choose_preset", lambda _: one if doctor.cuda_gpus() else nothing)
    monkeypatch.setattr(doctor, "_version", lambda _: "2.13.0+cpu")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(doctor.os, "environ", {})
    return monkeypatch


def test_on_a_plain_machine_only_the_missing_sandbox_wants_a_look(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = diagnose(tmp_path / "runs", tmp_path / "cache")
    assert [finding.name for finding in findings if not finding.ok] == ["sandbox"]
    assert all(finding.fix for finding in findings if not finding.ok)
    assert found(findings, "device").what == "no CUDA GPU; `--preset auto` of nanochat is cpu, which needs no GPU"


def test_an_installed_bubblewrap_is_not_called_a_sandbox(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor.shutil, "which", lambda _: "/usr/bin/bwrap")
    sandbox = found(diagnose(tmp_path, tmp_path), "sandbox")
    assert not sandbox.ok
    assert "/usr/bin/bwrap and not used yet" in sandbox.what


def test_a_key_is_named_and_never_shown(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor.os, "environ", {"ANTHROPIC_API_KEY": "sk-secret", "ANTHROPIC_BASE_URL": ""})
    findings = diagnose(tmp_path, tmp_path)
    assert found(findings, "API key").what.startswith("ANTHROPIC_API_KEY set;")
    assert "sk-secret" not in as_text(findings) + json.dumps(as_json(findings))


def test_a_torch_that_can_not_use_the_gpu_wants_a_look(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor, "cuda_gpus", lambda: (Gpu("0", "NVIDIA H100", 85.5),))
    findings = diagnose(tmp_path, tmp_path)
    assert "install a CUDA build" in found(findings, "python").fix
    said = found(findings, "device").what
    assert said == "1 x NVIDIA H100 (85.5 GB); `--preset auto` of nanochat is d12, which needs 1 GPU"


def test_a_missing_torch_wants_a_look(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor, "_version", lambda _: None)
    assert not found(diagnose(tmp_path, tmp_path), "python").ok


def test_versions_are_read_from_the_installation() -> None:
    assert doctor._version("pytest") == pytest.__version__
    assert doctor._version("no-such-package") is None


def test_a_full_disk_wants_a_look(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**9))
    runs = found(diagnose(tmp_path / "not" / "yet", tmp_path), "disk for runs")
    assert (runs.ok, runs.what) == (False, f"1.0 GB free at {tmp_path}")


def test_a_folder_that_is_not_writable_wants_a_look(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(doctor.os, "access", lambda *_: False)
    assert "not writable" in found(diagnose(tmp_path, tmp_path), "disk for the cache").what


def test_prepared_data_is_counted(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "none prepared" in found(diagnose(tmp_path, tmp_path), "data").what
    (tmp_path / "data" / "abc.tmp").mkdir(parents=True)
    assert "none prepared" in found(diagnose(tmp_path, tmp_path), "data").what
    (tmp_path / "data" / "abc").mkdir()
    assert found(diagnose(tmp_path, tmp_path), "data").what.startswith("1 prepared set(s)")


def test_findings_become_json() -> None:
    findings = as_json([Finding("a", True, "fine"), Finding("b", False, "broken", "mend it")])
    assert findings[1] == {"name": "b", "ok": False, "what": "broken", "fix": "mend it"}
    assert json.loads(json.dumps(findings)) == findings


def test_findings_become_text() -> None:
    findings = [Finding("a", True, "fine"), Finding("b", False, "broken", "mend it")]
    assert as_text(findings) == "ok    a: fine\nLOOK  b: broken\n      -> mend it"
