# SPDX-License-Identifier: Apache-2.0
"""The collector: one POSIX sh script, assembled of its tools, the probes of all areas, and its end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from donjon import __version__

_HERE = files("donjon.audit.collect")
_PARTS = ("head.sh", "tail.sh", "redact.awk")
_STARTED = "started=$(date -u +%Y-%m-%dT%H:%M:%S+00:00)"


@cache
def script() -> str:
    """The whole collector: `sh -s` reads it, and a tar of the bundle is what it prints."""
    probes = sorted(_HERE.joinpath("probes").iterdir(), key=lambda entry: entry.name)
    return assembled(entry.read_text(encoding="utf-8") for entry in probes if entry.name.endswith(".sh"))


def assembled(fragments: Iterable[str]) -> str:
    """A collector with these probes.

    It is one function, so that a script that arrives cut short does nothing at all. It knows its own checksum, which is
    that of everything but its first line.
    """
    head, tail, redactor = (_HERE.joinpath(name).read_text(encoding="utf-8") for name in _PARTS)
    parts = ["main() {", _STARTED, f"redactor={_quoted(redactor)}", head, *fragments, tail, "}", "main", ""]
    body = "\n".join(parts)
    sha256 = hashlib.sha256(body.encode()).hexdigest()
    return f"collector=donjon-{__version__} sha256={sha256}\n{body}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
