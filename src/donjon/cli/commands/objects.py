# SPDX-License-Identifier: Apache-2.0
"""A look at what the repository is made of."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.cli.session import Session
from donjon.repository.objects import show as show_object

Kind = Literal["config", "snapshot", "index", "key", "lock", "masterkey", "pack", "blob", "tree"]


@dataclass(frozen=True, slots=True)
class Content(Result):
    """An object's content; in base64 in JSON."""

    kind: str
    id: str
    content: bytes

    def show(self, page: Page) -> None:
        """Nothing: it was written as it is."""


def cat(
    kind: Kind,
    id: Annotated[str, Parameter(help="The object's, or its first digits; none for config and masterkey.")] = "",
    /,
    *,
    common: Common = COMMON,
    program: Given,
) -> Content | None:
    """Print one object of the repository.

    Of a pack, the bytes as they are stored; everything else decrypted. `masterkey` prints the secret that all else
    depends on: whoever has it needs no password.

    Examples:
        donjon cat config

        donjon cat snapshot 3f2a9c11
    """
    parts = show_object(Session(common, program).open_repository(), kind, id)
    if common.json:
        return Content(kind, id, b"".join(parts))
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    return None
