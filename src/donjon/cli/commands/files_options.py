# SPDX-License-Identifier: Apache-2.0
"""Options of `donjon files`: which files, and what unlocks them."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.passwords import read_password_file
from donjon.errors import ConfigError

Spec = Annotated[
    str,
    Parameter(
        metavar="VM[@WHEN]:[/PATH]",
        help="Restore point and path: /VOLUME/etc/hosts, or /etc/hosts if only one volume has it; without a path, "
        "the volumes.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What unlocks encrypted volumes."""

    luks_passphrase_file: Annotated[tuple[Path, ...], Parameter(metavar="FILE", negative_iterable="")] = ()
    """File whose first line is the passphrase of an encrypted volume; may be repeated."""

    luks: bool = False
    """Ask for the passphrase of encrypted volumes."""


KEYS = Keys()


def read_passphrases(keys: Keys, warn: Callable[[str], None]) -> list[str]:
    """What may unlock encrypted volumes. Raises ConfigError: a file cannot be read, or nobody can be asked."""
    passphrases = [read_password_file(path, warn) for path in keys.luks_passphrase_file]
    if keys.luks:
        if not sys.stdin.isatty():
            raise ConfigError("cannot ask for a passphrase: there is no terminal", hint="say --luks-passphrase-file")
        passphrases.append(getpass.getpass("passphrase of the encrypted volumes: "))
    return passphrases
