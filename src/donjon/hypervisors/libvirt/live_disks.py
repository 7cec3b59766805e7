# SPDX-License-Identifier: Apache-2.0
"""Runs guests from a backup through libvirt: fetches their disks, watches them, and makes them go again.

Source: libvirt.org/html/libvirt-libvirt-domain.html#virDomainBlockPull, #virDomainUndefineFlags.
"""

from __future__ import annotations

from pathlib import Path

from donjon.errors import HostError
from donjon.hypervisors.libvirt import networks
from donjon.hypervisors.libvirt.calls import LibvirtError, libvirt_module, told
from donjon.hypervisors.libvirt.connection import Connection
from donjon.hypervisors.libvirt.job_xml import console_file
from donjon.hypervisors.libvirt.pictures import as_png

_PIECE = 64 * 1024
_LARGEST_PICTURE = 256 << 20
_UNDEFINE = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "NVRAM", "CHECKPOINTS_METADATA")


class LibvirtLiveDisks:
    """Guests of one's own on one libvirt connection."""

    _connection: Connection

    def destroy(self, uuid: str) -> None:
        """Pull the guest's plug."""
        domain = self._connection.known_domain(uuid)
        if domain is None or not domain.is_active():
            return
        try:
            with told(f"turn off {domain.name}"):
                domain.handle.destroy()
        except LibvirtError as error:
            if not error.means_gone and not error.is_a("OPERATION_INVALID"):  # It went by itself.
                raise

    def undefine(self, uuid: str) -> None:
        """Forget the VM; its disks stay."""
        domain = self._connection.known_domain(uuid)
        if domain is None:
            return
        if domain.is_active():
            raise HostError(f"cannot undefine {domain.name}: it is on", hint="turn it off first")
        flags = 0
        for name in _UNDEFINE:
            flags |= getattr(libvirt_module(), f"VIR_DOMAIN_UNDEFINE_{name}", 0)
        try:
            with told(f"undefine {domain.name}"):
                domain.handle.undefineFlags(flags)
        except LibvirtError as error:
            if not error.means_gone:
                raise

    def begin_pull(self, uuid: str, target: str) -> None:
        """Begin to copy into the disk's own image all that it has from the images behind it."""
        domain = self._connection.domain(uuid)
        with told(f"fetch the disk {target} of {domain.name}"):
            domain.handle.blockPull(target, 0, 0)

    def pull_progress(self, uuid: str, target: str) -> tuple[int, int] | None:
        """Bytes done and in all."""
        domain = self._connection.domain(uuid)
        with told(f"look at the disk {target} of {domain.name}"):
            info = domain.handle.blockJobInfo(target, 0)
        if not info or info["type"] != libvirt_module().VIR_DOMAIN_BLOCK_JOB_TYPE_PULL:
            return None
        return int(info["cur"]), int(info["end"])

    def cancel_pull(self, uuid: str, target: str) -> None:
        """Stop copying, and wait until nothing is copied."""
        domain = self._connection.known_domain(uuid)
        if domain is None or not domain.is_active() or self.pull_progress(uuid, target) is None:
            return
        try:
            with told(f"stop fetching the disk {target} of {domain.name}"):
                domain.handle.blockJobAbort(target, 0)
        except LibvirtError:
            if domain.is_active() and self.pull_progress(uuid, target) is not None:  # Else it was done just now.
                raise

    def screenshot(self, uuid: str) -> bytes:
        """What the guest's first screen shows, as PNG."""
        domain = self._connection.domain(uuid)
        picture = bytearray()
        with told(f"take a picture of the screen of {domain.name}"):
            stream = self._connection.handle.newStream()
            domain.handle.screenshot(stream, 0, 0)
            while piece := stream.recv(_PIECE):
                picture += piece
                if len(picture) > _LARGEST_PICTURE:
                    stream.abort()
                    raise HostError(f"cannot take a picture of the screen of {domain.name}: it does not end")
            stream.finish()
        return as_png(bytes(picture))

    def console_path(self, uuid: str) -> Path | None:
        """The file on the host that gets what the guest says on its serial console, if that is a file."""
        domain = self._connection.domain(uuid)
        path = console_file(domain.definition(live=True))
        return None if path is None else Path(path)

    def create_isolated_network(self, name: str) -> None:
        """A network of its own bridge, without uplink, addresses or forwarding."""
        networks.create_isolated(self._connection, name)

    def delete_network(self, name: str) -> None:
        """Take such a network away."""
        networks.delete(self._connection, name)
