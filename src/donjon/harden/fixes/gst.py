# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area GST: see the catalogue."""

from __future__ import annotations

import re

from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Document, fix, words
from donjon.harden.editors import Rewrite

_GRAPHICS = re.compile(r"<graphics type='(?:vnc|spice)'.*?(?:/>|</graphics>)", re.DOTALL)
_LISTEN = re.compile(r"""(<listen type='address' address=|\slisten=)(['"])[^'"]*\2""")


def definition(vm: str, rewrite: Rewrite) -> Document:
    """The definition of a VM (UUID or name) that holds from its next start on is to be what `rewrite` makes of it."""
    read = words("virsh", "dumpxml", "--inactive", "--security-info", "--domain", vm)
    return Document(f"definition of {vm}", read, 'virsh define --validate --file "$FILE"', rewrite)


@fix("GST-01")
def console_on_loopback(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """VNC and SPICE listen on loopback; the VM must be restarted for it."""
    if "K" not in need(host.platform.kinds) or not result.subject:
        return None
    return Change(
        f"the console of {result.name} listens on loopback only",
        (definition(result.subject, lambda xml: _GRAPHICS.sub(_on_loopback, xml)),),
        guests=(result.name,),
        note="in force when the VM is started the next time; reach its console through ssh",
    )


def _on_loopback(graphics: re.Match[str]) -> str:
    return _LISTEN.sub(r"\1'127.0.0.1'", graphics[0])
