# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area GLD: a gold image that is as it was sealed stays so."""

from __future__ import annotations

from donjon.audit.fact import Unseen, need
from donjon.audit.facts.guests import Gold
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Permissions, fix


@fix("GLD-02")
def gold_is_read_only(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Nobody writes to a sealed image; one that was changed must be examined and sealed again."""
    gold = next((one for one in host.gold or () if one.path == result.subject), None)
    if gold is None or not _as_sealed(gold):
        raise Unseen("it was changed since it was sealed: examine it, and seal it again")
    used = [vm.name for vm in need(host.domains.all) for disk in vm.disks if disk.source == gold.path]
    if need(gold.in_use) or used:
        raise Unseen(f"it is in use by {', '.join(used) or 'a program that writes to it'}: make a clone for that")
    return Change(f"nobody writes to {gold.path}", (Permissions(gold.path, at_most=0o7555),))


def _as_sealed(gold: Gold) -> bool:
    seal, now = need(gold.seal), need(gold.stamp)
    same = (now.size, now.mtime_ns, now.inode) == (seal.stamp.size, seal.stamp.mtime_ns, seal.stamp.inode)
    return same and need(gold.sha256) == seal.sha256 and not need(gold.dirty, absent=False)
