# SPDX-License-Identifier: Apache-2.0
"""Options that every verb has, and types that several verbs' options share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from donjon.wiring import Program

EVERYWHERE = Group("Options of every verb", sort_key=100)


@Parameter(name="*", group=EVERYWHERE)
@dataclass(frozen=True, slots=True)
class Common:
    """Which repository, how it is opened, and what is said meanwhile."""

    repo: Annotated[str | None, Parameter(name=["--repo", "-r"], metavar="PLACE")] = None
    """Repository: a directory, or a name from the configuration (else $DONJON_REPOSITORY)."""

    password_file: Annotated[str | None, Parameter(metavar="FILE")] = None
    """File whose first line is the password (else $DONJON_PASSWORD_FILE)."""

    password_command: Annotated[str | None, Parameter(metavar="COMMAND")] = None
    """Program that prints the password (else $DONJON_PASSWORD_COMMAND, $DONJON_PASSWORD, or a prompt)."""

    config: Annotated[str | None, Parameter(metavar="FILE")] = None
    """Configuration file (else $DONJON_CONFIG, ~/.config/donjon/config.toml, /etc/donjon/config.toml)."""

    json: bool = False
    """Print one JSON object."""

    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"])] = False
    """Say nothing but answers, warnings and errors."""

    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"])] = False
    """Show where an unexpected error came from."""


COMMON = Common()

Connect = Annotated[
    str | None, Parameter(metavar="URI", help="libvirt's address (else $LIBVIRT_DEFAULT_URI, qemu:///system).")
]

NoLock = Annotated[
    bool, Parameter(help="Take no lock: for storage that cannot be written; nobody may prune meanwhile.")
]

if TYPE_CHECKING:
    Given = Program
else:
    Given = Annotated[Any, Parameter(parse=False)]
    """The program a command runs in; not from the command line."""
