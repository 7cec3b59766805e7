# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area NET: see the catalogue."""

from __future__ import annotations

from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Chain, Change, fix


@fix("NET-09")
def nothing_forwarded(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The host forwards nothing between networks; what stays on one bridge is no forwarding, but may come by here.

    Source: Linux, Documentation/networking/ip-sysctl.rst, bridge-nf-call-iptables.
    """
    bridges = [link.name for link in need(host.network.links).values() if link.kind == "bridge"]
    within = tuple(f'iifname "{name}" oifname "{name}" accept' for name in bridges)
    return Change(
        "the host forwards no packets",
        (Chain("NET-09", within, hook="forward", policy="drop"),),
        note="guests on routed or NAT networks lose their connection to the outside",
    )
