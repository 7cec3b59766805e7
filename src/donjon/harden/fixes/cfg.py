# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area CFG: see the catalogue."""

from __future__ import annotations

from donjon.audit.fact import Known
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Permissions, fix

OTHERS = 0o007


@fix("CFG-01")
def private_libvirt_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Others can neither read nor write libvirt's configuration; its owner stays."""
    return _nobody_else(result)


@fix("CFG-02")
def private_xen_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Others can neither read nor write the definitions of Xen guests."""
    return _nobody_else(result)


@fix("CFG-03")
def private_oracle_vm_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Others can neither read nor write the configuration of the Oracle VM agent."""
    return _nobody_else(result)


@fix("CFG-04")
def private_keys(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A private key is its owner's; a group that could read it still can, unless that group is root's."""
    if not result.subject.startswith("/"):
        return None
    seen = host.paths.at(result.subject)
    group_reads = isinstance(seen, Known) and seen.value.gid != 0 and seen.value.mode & 0o040
    mode = 0o640 if group_reads else 0o600
    return Change(f"{result.subject} is private", (Permissions(result.subject, at_most=mode),))


@fix("CFG-11")
def no_way_in_for_others(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Others cannot write to a folder on the way to images, configurations and sockets."""
    if not result.subject.startswith("/"):
        return None
    return Change(f"others cannot write to {result.subject}", (Permissions(result.subject, at_most=0o7775),))


def _nobody_else(result: Result) -> Change | None:
    if not result.subject.startswith("/"):
        return None
    wanted = Permissions(result.subject, at_most=0o7777 & ~OTHERS & ~0o020)
    return Change(f"nobody else has access to {result.subject}", (wanted,))
