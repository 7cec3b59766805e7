# SPDX-License-Identifier: Apache-2.0
"""What helpers and small services of the host allow: QEMU's bridge helper, SNMP.

Source: qemu-bridge-helper of QEMU's documentation, "bridge.conf"; snmpd.conf(5).
"""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived, first_known


class Footprint(Struct, frozen=True):
    """`bridge_rules`: "allow br0", "deny all", ...; `snmp_communities`: "default" if everybody knows it, else "own"."""

    bridge_rules: Fact[tuple[str, ...]]
    snmp_communities: Fact[tuple[str, ...]]


def read_footprint(bundle: Bundle) -> Footprint:
    """From the helper's file, and the probe "snmp-communities"."""
    rules = first_known(bundle.text("/etc/qemu/bridge.conf"), bundle.text("/etc/qemu-kvm/bridge.conf"))
    return Footprint(
        bridge_rules=derived(rules, _rules),
        snmp_communities=derived(bundle.output("snmp-communities"), lambda text: tuple(text.split())),
    )


def _rules(text: str) -> tuple[str, ...]:
    lines = (line.split("#")[0].split() for line in text.splitlines())
    return tuple(" ".join(words) for words in lines if words)
