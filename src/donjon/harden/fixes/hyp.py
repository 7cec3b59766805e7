# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area HYP: see the catalogue."""

from __future__ import annotations

from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, fix
from donjon.harden.editors import assignments
from donjon.harden.services import libvirt_restarted


@fix("HYP-06")
def confined_by_default(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Guests are confined unless their definition says otherwise; running ones stay as they are."""
    values = {"security_default_confined": "1", "security_require_confined": "1"}
    return Change(
        "libvirt refuses unconfined guests",
        (Edit("/etc/libvirt/qemu.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
        note="a guest whose definition turns confinement off does not start any more",
    )
