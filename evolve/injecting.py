"""Injecting: a person's patch becomes a gene that waits in the inbox of a run, live or not.

Mistake
  +- NoPatchFile   a patch that cannot be read
  +- NoTitle       a gene without a name
  +- Unparsable    a patch after which a file is no Python any more
  +- AlreadyBorn   a gene that the run has borne
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evolve.grounds import base_of_run
from evolve.inbox import offer
from evolve.run_directory import RunDirectory
from population.compose import compose, syntax_error
from population.genes import BaseTree, Category, Gene, Origin, gene_from_edits
from population.mistakes import Mistake
from population.patches import locate

STDIN = "-"


class NoPatchFile(Mistake):
    """A patch that cannot be read."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"the patch {name} cannot be read: {why}; give a text file in UTF-8, or - for standard input")


class NoTitle(Mistake):
    """A gene without a name."""

    def __init__(self) -> None:
        super().__init__("--title is empty; say in a few words what the patch changes")


class Unparsable(Mistake):
    """A patch after which a file is no Python any more."""

    def __init__(self, title: str, error: str) -> None:
        super().__init__(f"after the patch '{title}' a file does not parse: {error}; mend the patch")


class AlreadyBorn(Mistake):
    """A gene that the run has borne."""

    def __init__(self, gene_id: str, birth: int) -> None:
        super().__init__(
            f"this patch is already in the run as {gene_id} (birth {birth}), so it is not born again; "
            f"`evolve show {gene_id}` says what came of it"
        )


def inject(run: RunDirectory, patch: str, title: str, stdin: Callable[[], bytes]) -> Gene:
    """Put the gene of a patch, a file or `-`, into the inbox of a run and return it."""
    gene = gene_of(base_of_run(run), _text(patch, stdin), title)
    if born := offer(run, [gene]):
        raise AlreadyBorn(gene.gene_id, born[gene.gene_id])
    return gene


def gene_of(base: BaseTree, patch: str, title: str) -> Gene:
    """Return the gene that a person's patch makes of the base."""
    words = " ".join(title.split())
    if not words:
        raise NoTitle
    gene = gene_from_edits(
        base,
        locate(base, patch),
        title=words,
        hypothesis="A person put it forward.",
        category=Category.OTHER,
        origin=Origin.HUMAN,
    )
    files = compose(base, [gene])
    if error := syntax_error({path: text for path, text in files.items() if text != base.files.get(path)}):
        raise Unparsable(words, error)
    return gene


def _text(patch: str, stdin: Callable[[], bytes]) -> str:
    try:
        return (stdin() if patch == STDIN else Path(patch).read_bytes()).decode()
    except OSError as error:
        raise NoPatchFile(patch, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise NoPatchFile(patch, "it is not UTF-8 text") from error
