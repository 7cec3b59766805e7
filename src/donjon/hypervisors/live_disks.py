# SPDX-License-Identifier: Apache-2.0
"""What donjon needs of a hypervisor to run a guest from a backup: fetch its disks, watch it, and make it go again."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class LiveDisks(Protocol):
    """Guests of one's own, known by UUID. Every method raises HostError if the host is out of reach or refuses."""

    def destroy(self, uuid: str) -> None:
        """Pull the guest's plug; succeeds if it is off, or unknown."""
        ...

    def undefine(self, uuid: str) -> None:
        """Forget the VM, with its firmware's variables, saved memory, checkpoints and snapshots; its disks stay.

        Succeeds if it is unknown.

        Raises:
            HostError: it is still on.
        """
        ...

    def begin_pull(self, uuid: str, target: str) -> None:
        """Begin to copy into the disk's own image all that it has from the images behind it."""
        ...

    def pull_progress(self, uuid: str, target: str) -> tuple[int, int] | None:
        """How far that is: done and in all, in a unit of the hypervisor's; None if it is over, or was never begun."""
        ...

    def cancel_pull(self, uuid: str, target: str) -> None:
        """Stop copying; what was copied stays. Succeeds if nothing is being copied."""
        ...

    def screenshot(self, uuid: str) -> bytes:
        """What the guest's first screen shows, as PNG.

        Raises:
            HostError: it is off or has no screen.
        """
        ...

    def console_path(self, uuid: str) -> Path | None:
        """The file on the host that gets what the guest says on its serial console, if that is a file."""
        ...

    def create_isolated_network(self, name: str) -> None:
        """A network of its own bridge, without uplink, addresses or forwarding; succeeds if there is one of that name.

        Raises:
            RefusedError: guests of this connection cannot have networks, or the one of that name is another kind.
        """
        ...

    def delete_network(self, name: str) -> None:
        """Take such a network away; succeeds if there is none."""
        ...
