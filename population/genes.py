"""Genes and the base tree they are anchored to: an edit is a span of one base file, a gene is one idea."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Category(StrEnum):
    """What part of the recipe a gene touches."""

    ARCHITECTURE = "architecture"
    ATTENTION = "attention"
    INITIALISATION = "initialisation"
    OPTIMISER = "optimiser"
    SCHEDULE = "schedule"
    REGULARISATION = "regularisation"
    SYSTEMS = "systems"
    OTHER = "other"


class Origin(StrEnum):
    """Who wrote a gene."""

    LLM = "llm"
    KNOB = "knob"
    HUMAN = "human"
    IMPORT = "import"
    MERGE = "merge"


@dataclass(frozen=True)
class BaseTree:
    """The unpatched editable text of the target: path -> text, newlines untouched."""

    files: Mapping[str, str]

    @cached_property
    def base_id(self) -> str:
        """Return 16 hex digits: a hash of every path and text."""
        return tree_id(self.files)


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Replace characters [start, end) of base file `path` by `replacement`. start == end inserts."""

    path: str
    start: int
    end: int
    replacement: str


@dataclass(frozen=True)
class Gene:
    """One idea: canonical edits that only make sense together. `gene_id` hashes path, edits and base file, nothing else."""

    gene_id: str
    title: str
    hypothesis: str
    category: Category
    origin: Origin
    edits: tuple[Edit, ...]
    allele_of: str | None = None
    requires: tuple[str, ...] = ()


def tree_id(files: Mapping[str, str]) -> str:
    """Return 16 hex digits that identify these paths and texts."""
    digest = hashlib.sha256()
    for path in sorted(files):
        text = files[path].encode()
        digest.update(f"{path}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:16]
