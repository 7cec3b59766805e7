# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area RES: see the catalogue.

Source: Linux, Documentation/admin-guide/mm/ksm.rst: writing 2 to "run" separates what was merged.
"""

from __future__ import annotations

from donjon.audit.fact import Known
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, fix
from donjon.harden.units import switched_off

_RUN = '"$ROOT/sys/kernel/mm/ksm/run"'
_MERGERS = ("ksmtuned.service", "ksm.service")


@fix("RES-01")
def memory_not_merged(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Pages that guests share by kernel samepage merging are given back to each, if there is memory for them.

    Services that would merge them again are switched off.
    """
    enough = """\
shared=$(cat "$ROOT/sys/kernel/mm/ksm/pages_sharing")
free=$(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' "$ROOT/proc/meminfo")
if [ $((shared * 4)) -ge "$free" ]; then
    echo "there is no memory for $((shared * 4)) KiB of pages that guests share"
    exit 1
fi"""
    units = host.units.all.value if isinstance(host.units.all, Known) else {}
    mergers = [name for name in _MERGERS if name in units and (units[name].starts or units[name].active)]
    off = [switched_off(host, *mergers)] if mergers else []
    unmerge = Command("give shared pages back", f"echo 2 >{_RUN}", f'cat "$BEFORE" >{_RUN}', f"cat {_RUN}")
    return Change("the memory of guests is not merged", (*off, unmerge), preview=enough)
