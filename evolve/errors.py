"""What ends a command with one sentence, and the exit code of each.

Exception
|-- population.mistakes.Mistake     a user's mistake: exit code 2
|   |-- TargetMistake               a target that cannot be used
|   |   |-- UnknownTarget           no bundled target and no file of that name
|   |   |-- UnknownPreset           the target has no such preset
|   |   |-- NoPresetFits            `auto`, and every preset asks for GPUs that are not here
|   |   |-- UnknownVariable         --set of a name that the target does not declare
|   |   |-- BadToml                 not TOML
|   |   |-- UnknownKey              a key that means nothing here
|   |   |-- MissingKey              a key that must be there
|   |   |-- WrongValue              a value of the wrong type or outside its range
|   |   |-- NoRungs                 nothing to run
|   |   |-- UnknownPlaceholder      {name} that nobody fills in
|   |   |-- EmptyPlaceholder        {depth}, {tokens} or {eval_tokens} that a rung does not state
|   |   |-- TakenVariable           a variable named like a built-in placeholder
|   |   |-- RootMissing             no such directory
|   |   |-- GlobOutside             a glob that leaves the root
|   |   |-- GlobWithoutFiles        an editable glob that matches nothing
|   |   |-- EditableAndFrozen       a file that is both
|   |   |-- BadRegex                a metric's regex that does not compile or has no group
|   |   `-- MetricSource            file and regex: one without a judge, none with one
|   |-- SettingMistake              a setting that cannot be used
|   |   |-- NotAnAssignment         --set without a `=`
|   |   |-- UnknownSetting          no setting and no variable of that name
|   |   |-- WrongSetting            a value of the wrong type or outside its range
|   |   |-- BadRunToml              a run.toml that cannot be read
|   |   `-- TooFewEvaluations       a limit below what the noise floor and the confirmation take
|   |-- NothingToMove               no numeric constant in the editable files, and nobody else breeds
|   |-- NoCache                     the cache folder cannot be made
|   |-- LineageExists               a new lineage would write over an old one
|   |-- NoLineage                   nothing has been recorded there
|   |-- LineageBroken               a file that is damaged, held by another program, or cannot be written
|   |-- BadQuery                    SQL that cannot be answered
|   `-- ...                         beside the code that raises them: fitness/mistakes.py,
|                                   population/{genes,compose,patches,transplant}.py, evolve/{lineage,run_directory,
|                                   runlock,views,git,changes,grounds,importing,verifying,injecting,inbox,exporting}.py
`-- OnlyFailures                    nothing could be scored: exit code 3
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evolve.checking import Complaint, suggestion
from population.mistakes import Mistake


class OnlyFailures(Exception):
    """Every evaluation failed, so there is nothing to compare."""

    def __init__(self, target: str, rung: str, status: str, log_tail: str) -> None:
        super().__init__(
            f'the unpatched base of {target} could not be scored on rung "{rung}": it ended as {status}; mend the'
            f" target's commands first. Its last lines:\n{log_tail.strip() or '(no output)'}"
        )


def exit_code(error: Mistake | OnlyFailures) -> int:
    """Return the exit code of a command that ends with this."""
    return 3 if isinstance(error, OnlyFailures) else 2


class TargetMistake(Mistake):
    """A target that cannot be used."""


class UnknownTarget(TargetMistake):
    """No bundled target and no file of that name."""

    def __init__(self, name: str, bundled: Iterable[str]) -> None:
        super().__init__(
            f'no target "{name}": it is neither a file nor a bundled target ({", ".join(bundled)});'
            " give one of these names or the path of a TOML file"
        )


class UnknownPreset(TargetMistake):
    """The target has no such preset."""

    def __init__(self, path: Path, preset: str, presets: Iterable[str]) -> None:
        known = ", ".join(presets)
        remedy = f"choose one of: auto, {known}" if known else "it has none, so leave --preset out"
        super().__init__(f'{path} has no preset "{preset}"; {remedy}')


class NoPresetFits(TargetMistake):
    """`auto`, and every preset asks for GPUs that are not here."""

    def __init__(self, path: Path, presets: Iterable[str], gpus: str) -> None:
        super().__init__(
            f"every preset of {path} for `auto` ({', '.join(presets)}) asks for a GPU that is not here ({gpus});"
            " name a preset with --preset to use it all the same"
        )


class UnknownVariable(TargetMistake):
    """--set of a name that the target does not declare."""

    def __init__(self, path: Path, name: str, known: Iterable[str]) -> None:
        super().__init__(f'{path} declares no variable "{name}" under [variables]; {suggestion(name, known)}')


class BadToml(TargetMistake):
    """Not TOML."""

    def __init__(self, path: Path, why: Exception) -> None:
        super().__init__(f"{path} is not valid TOML: {why}")


class UnknownKey(TargetMistake):
    """A key that means nothing here."""

    def __init__(self, path: Path, complaint: Complaint, known: Iterable[str]) -> None:
        super().__init__(f'{path}: unknown key "{complaint.where}"; {suggestion(complaint.key, known)}')


class MissingKey(TargetMistake):
    """A key that must be there."""

    def __init__(self, path: Path, where: str) -> None:
        super().__init__(f'{path}: "{where}" is missing and has no default; add it')


class WrongValue(TargetMistake):
    """A value of the wrong type or outside its range."""

    def __init__(self, path: Path, where: str, value: object, rule: str) -> None:
        super().__init__(f'{path}: "{where}" {rule}, not {value!r}')


class NoRungs(TargetMistake):
    """Nothing to run."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} has no rungs, so nothing could be run; add a [rungs.NAME] table, cheapest first")


class UnknownPlaceholder(TargetMistake):
    """A {name} that nobody fills in."""

    def __init__(self, path: Path, where: str, name: str, known: Iterable[str]) -> None:
        super().__init__(
            f'{path}: "{where}" uses {{{name}}}, which nobody fills in; {suggestion(name, known)}'
            " (or declare it under [variables])"
        )


class EmptyPlaceholder(TargetMistake):
    """A placeholder that has no value."""

    def __init__(self, path: Path, where: str, name: str, why: str) -> None:
        super().__init__(f'{path}: "{where}" uses {{{name}}}, but {why}')


class TakenVariable(TargetMistake):
    """A variable named like a built-in placeholder."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(f'{path}: the variable "{name}" has the name of a built-in placeholder; choose another')


class RootMissing(TargetMistake):
    """No such directory."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(f"{path}: root is {root}, which is no directory; `root` is relative to the TOML file")


class GlobOutside(TargetMistake):
    """A glob that leaves the root."""

    def __init__(self, path: Path, pattern: str) -> None:
        super().__init__(f'{path}: the glob "{pattern}" leaves the root; globs are relative to it, without `..`')


class EditableAndFrozen(TargetMistake):
    """A file that is both."""

    def __init__(self, path: Path, both: str) -> None:
        super().__init__(f"{path}: {both} is both editable and frozen; narrow one of the globs")


class BadRegex(TargetMistake):
    """A metric's regex that does not compile or has no group."""

    def __init__(self, path: Path, regex: str, why: str) -> None:
        super().__init__(f"{path}: metric.regex {regex!r} {why}; it needs one group, around the number")


class MetricSource(TargetMistake):
    """File and regex: one without a judge, none with one."""

    def __init__(self, path: Path, has_judge: bool) -> None:
        rule = (
            "has a judge, which reports the metric, so [metric] may have neither `file` nor `regex`"
            if has_judge
            else "has no judge, so [metric] must have one of `file` and `regex`, and not both"
        )
        super().__init__(f"{path} {rule}")


class SettingMistake(Mistake):
    """A setting that cannot be used."""


class NotAnAssignment(SettingMistake):
    """--set without a `=`."""

    def __init__(self, text: str) -> None:
        super().__init__(f'--set takes key=value, not "{text}"')


class UnknownSetting(SettingMistake):
    """No setting and no variable of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f'no setting is called "{name}"; {suggestion(name, known)}')


class WrongSetting(SettingMistake):
    """A value of the wrong type or outside its range."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f'the setting "{name}" {rule}, not {value!r}')


class BadRunToml(SettingMistake):
    """A run.toml that cannot be read."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path} is not the run.toml of a run: {why}")


class TooFewEvaluations(SettingMistake):
    """A limit below what the noise floor and the confirmation take."""

    def __init__(self, limit: int, needed: int) -> None:
        super().__init__(
            f"{limit} evaluations are too few: noise floor, replicates and confirmation alone take {needed}; raise"
            " --max-evaluations, or lower null_genes, replicate_seeds or confirm_seeds with --set"
        )


class LineageExists(Mistake):
    """A new lineage would write over an old one."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"{run_dir} already holds a lineage; continue that run or choose another directory")


class NoLineage(Mistake):
    """Nothing has been recorded there."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"there is no lineage at {path}; if a run was started there, `evolve resume` publishes it")


class BadQuery(Mistake):
    """SQL that cannot be answered."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the lineage cannot answer that: {reason}")


class LineageBroken(Mistake):
    """A file of the lineage is damaged, held by another program, or cannot be written."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the lineage cannot be used: {reason}; what was recorded before is not touched")


class NothingToMove(Mistake):
    """No numeric constant in the editable files, and nobody else breeds."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"the editable files of {target} hold no numeric constant that its rungs do not pass as a flag, so there is"
            " nothing to move; name other files in `editable`"
        )


class NoCache(Mistake):
    """The cache folder cannot be made."""

    def __init__(self, folder: Path, error: OSError) -> None:
        super().__init__(f"the cache folder {folder} cannot be made ({error.strerror}); set XDG_CACHE_HOME to another")
