"""A real git repository in a temporary directory, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class GitRepo:
    """A repository with a checkout."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self("init", "--quiet", "--initial-branch=main", *options)
        self("config", "user.name", "Ada")
        self("config", "user.email", "ada@example.org")

    def __call__(self, *words: str) -> str:
        """Run a git command and return what it printed."""
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        ended = subprocess.run(["git", *words], cwd=self.path, env=environment, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        return ended.stdout.decode().strip()

    def commit(self, files: Mapping[str, str | bytes | None], message: str) -> str:
        """Write files (None removes one), commit everything, and return the commit."""
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self("add", "--all")
        self("-c", "core.autocrlf=false", "commit", "--quiet", "--message", message)
        return self("rev-parse", "HEAD")

    def state(self) -> tuple[str, ...]:
        """Return everything of the user's that must stay as it is."""
        return (
            self("rev-parse", "HEAD"),
            self("symbolic-ref", "HEAD"),
            self("status", "--porcelain", "--ignored"),
            self("ls-files", "--stage"),
            self("stash", "list"),
        )
