# SPDX-License-Identifier: Apache-2.0
"""All that donjon needs of a hypervisor whose guests it backs up while they run."""

from __future__ import annotations

from typing import Protocol

from donjon.hypervisors.agent import GuestAgent
from donjon.hypervisors.hot_backup import HotBackup
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.live_disks import LiveDisks


class LiveHypervisor(Hypervisor, HotBackup, LiveDisks, GuestAgent, Protocol):
    """A host's VMs, a moment of their disks, and what their agents do."""
