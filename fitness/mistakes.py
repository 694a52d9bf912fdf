"""What a user can get wrong about scoring, one class each.

Mistake (population)
├── EmptyGlob            a target's pattern matches no file
├── NotText              an editable file is not UTF-8
├── UnknownPlaceholder   a command names something that is not filled in here
├── PreloadFailed        a module of `preload` can not be imported
├── PrepareFailed        the target's `prepare` command failed
├── TooFewGpus           a rung wants more GPUs than there are
└── MachineFailed        the disk is full, or this machine refuses another process
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from population.mistakes import Mistake


class EmptyGlob(Mistake):
    """A pattern of `editable` or `frozen` that matches nothing."""

    def __init__(self, pattern: str, root: Path) -> None:
        super().__init__(
            f"The target's pattern {pattern!r} matches no file under {root}; "
            "patterns are relative to the target's root, correct it or take it out."
        )


class NotText(Mistake):
    """An editable file that is not text."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"The editable file {path} is not UTF-8 text; only text can carry genes, make it frozen.")


class UnknownPlaceholder(Mistake):
    """A placeholder without a value."""

    def __init__(self, name: str, argument: str, known: Iterable[str]) -> None:
        super().__init__(
            f"The placeholder {{{name}}} in {argument!r} has no value on this rung; "
            f"known here are {', '.join(sorted(known))}; add it to the target's [variables] or correct it."
        )


class PreloadFailed(Mistake):
    """A preload module that does not import."""

    def __init__(self, modules: Iterable[str], reason: str) -> None:
        super().__init__(
            f"The target's preload modules ({', '.join(modules)}) can not be imported: {reason}; "
            "install them in this environment or take them out of `preload`."
        )


class PrepareFailed(Mistake):
    """A `prepare` command that did not end well."""

    def __init__(self, ending: str, log_tail: str) -> None:
        super().__init__(
            f"The target's prepare command {ending}, and nothing can be scored without its data; "
            f"its last lines were:\n{log_tail.strip() or '(no output)'}"
        )


class TooFewGpus(Mistake):
    """A rung that wants more GPUs than there are."""

    def __init__(self, target: str, rung: str, wanted: int, there: int) -> None:
        super().__init__(
            f'The rung "{rung}" of {target} wants {wanted} CUDA GPU(s) and this process may use {there}; '
            "choose another --preset (`evolve doctor` shows what is here), or mend CUDA_VISIBLE_DEVICES or `gpus`."
        )


class MachineFailed(Mistake):
    """A failure of this machine, which says nothing about any candidate."""

    def __init__(self, error: OSError) -> None:
        where = f" ({error.filename})" if error.filename else ""
        super().__init__(
            f"This machine can not go on scoring: {error.strerror or error}{where}; "
            "free some disk space, memory or processes, then resume the run."
        )
