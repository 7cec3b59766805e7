# SPDX-License-Identifier: Apache-2.0
"""donjon itself: its version, and how a shell completes its words."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon import __version__
from donjon.cli.app import make_app
from donjon.cli.options import COMMON, Common
from donjon.cli.page import Page
from donjon.cli.result import Result

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True, slots=True)
class Version(Result):
    """Which donjon, and which version of restic's repository format it writes."""

    version: str
    python: str
    repository_format: int

    def show(self, page: Page) -> None:
        """One line."""
        page.line(f"donjon {self.version} (Python {self.python}, repository format {self.repository_format})")


@dataclass(frozen=True, slots=True)
class Completion(Result):
    """A script to be sourced by a shell."""

    shell: str
    script: str

    def show(self, page: Page) -> None:
        """As it is."""
        page.raw(self.script)


def version(*, common: Common = COMMON) -> Version:
    """Show which donjon this is.

    Examples:
        donjon version --json
    """
    del common
    return Version(__version__, platform.python_version(), 2)


def completion(shell: Annotated[Shell, Parameter(help="Whose.")], /, *, common: Common = COMMON) -> Completion:
    """Print a completion script for a shell.

    Examples:
        donjon completion bash > /etc/bash_completion.d/donjon

        donjon completion zsh > ~/.zfunc/_donjon

        donjon completion fish > ~/.config/fish/completions/donjon.fish
    """
    del common
    return Completion(shell, make_app().generate_completion(shell=shell))
