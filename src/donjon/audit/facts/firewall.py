# SPDX-License-Identifier: Apache-2.0
"""Packet filter rules in one model: nftables and iptables, running and stored."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Firewall(Struct, frozen=True):
    """Facts of the firewall."""


def read_firewall(bundle: Bundle) -> Firewall:  # noqa: ARG001
    """From the bundle."""
    return Firewall()
