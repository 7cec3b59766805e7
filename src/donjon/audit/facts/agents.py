# SPDX-License-Identifier: Apache-2.0
"""Agents of the management plane: ovs-agent and its access rule, xend, donjon's own listener."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Agents(Struct, frozen=True):
    """Facts of agents."""


def read_agents(bundle: Bundle) -> Agents:  # noqa: ARG001
    """From the bundle."""
    return Agents()
