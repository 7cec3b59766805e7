# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area INS: donjon changes nothing inside guests, so it says what to put there.

Source: qemu-ga(8), "block-rpcs".
"""

from __future__ import annotations

from donjon.audit.controls.ins import DANGEROUS
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, fix


@fix("INS-04")
def agent_limited(result: Result, host: Host, profile: Profile) -> Change | None:
    """The text for the guest's own configuration. Raises Unseen with it: it is the guest's administrator who acts."""
    guest = host.guests.get(result.subject)
    if guest is None:
        return None
    agent = need(guest.agent)
    blocked = dict.fromkeys([*agent.blocked, *(one for one in DANGEROUS if one not in profile.allow.guest_agent)])
    raise Unseen(f"put into the guest's /etc/qemu/qemu-ga.conf: [general] block-rpcs={','.join(blocked)}")
