# SPDX-License-Identifier: Apache-2.0
"""What is inside guests and gold images, read from their disks without mounting them; never a secret itself."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from donjon.audit.fact import Fact, Unknown
from donjon.audit.facts.packages import Packages
from donjon.audit.facts.platform import Release

NOT_READ = Unknown("no disk of it was read")


def not_read() -> Unknown:
    """What is said of a guest before anybody looked."""
    return NOT_READ


class Account(Struct, frozen=True):
    """A user. `password`: "locked", "empty", or how it is hashed ("yescrypt", "sha512", "md5", ...); never the hash."""

    name: str
    uid: int
    password: str
    shell: str = ""

    @property
    def usable(self) -> bool:
        """Whether somebody can log in with a password, or without one."""
        return self.password != "locked"  # noqa: S105 -- not a password


class Secret(Struct, frozen=True):
    """Where a secret lies and which rule found it; not `certain`: something that looks like one."""

    path: str
    rule: str
    certain: bool = True


class HostKey(Struct, frozen=True):
    """A private key of the guest's sshd; `fingerprint` is a digest of the public key, "" if there is none."""

    path: str
    fingerprint: str = ""


class GuestLink(Struct, frozen=True):
    """An interface inside the guest. `kind`: ethernet, vlan (of `parent`), bond (of `members`)."""

    name: str
    mac: str = ""
    kind: str = "ethernet"
    parent: str = ""
    vlan: int = 0
    members: tuple[str, ...] = ()


class AgentSetup(Struct, frozen=True):
    """What the guest's agent is allowed to do. Empty `allowed`: all that is not `blocked`."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def allows(self, command: str) -> bool:
        """Whether the agent does this when it is asked."""
        return command not in self.blocked and (not self.allowed or command in self.allowed)


class Guest(Struct, frozen=True):
    """What a guest's disks say of it.

    `identities`: "machine-id", "iscsi initiator", ... -> a digest of the value; absent if the file is not there or is
    empty, as in an image that is yet to be cloned. `leftovers`: what a guest left behind that ran before, as
    "PATH: WHAT". `configs`: path -> SHA-256. `units`: what systemd starts. `kernels`: versions in /boot.
    """

    source: str = ""
    notes: tuple[str, ...] = ()
    release: Fact[Release] = field(default_factory=not_read)
    packages: Packages = field(default_factory=lambda: Packages(NOT_READ, NOT_READ))
    kernels: Fact[tuple[str, ...]] = field(default_factory=not_read)
    identities: dict[str, Fact[str]] = field(default_factory=dict)
    host_keys: Fact[tuple[HostKey, ...]] = field(default_factory=not_read)
    makes_host_keys: Fact[bool] = field(default_factory=not_read)
    accounts: Fact[tuple[Account, ...]] = field(default_factory=not_read)
    authorized_keys: Fact[dict[str, int]] = field(default_factory=not_read)
    secrets: Fact[tuple[Secret, ...]] = field(default_factory=not_read)
    leftovers: Fact[tuple[str, ...]] = field(default_factory=not_read)
    agent: Fact[AgentSetup] = field(default_factory=not_read)
    units: Fact[tuple[str, ...]] = field(default_factory=not_read)
    configs: Fact[dict[str, str]] = field(default_factory=not_read)
    links: Fact[tuple[GuestLink, ...]] = field(default_factory=not_read)


class FileStamp(Struct, frozen=True):
    """By which a file is known again; times in nanoseconds since 1970."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Seal(Struct, frozen=True):
    """What was written down and signed when a gold image was finished.

    `sha256` of the bytes of the disk, whatever its `format`; `size` of the disk, in bytes. `sealed` in UTC.
    """

    path: str
    format: str
    sha256: str
    size: int
    stamp: FileStamp
    builder: str
    sealed: datetime
    guest: Guest
    schema: int = 1


class Signature(Struct, frozen=True):
    """Whether the signature of a seal is good, and by which key; if it is not, `reason` says why."""

    good: bool
    key: str = ""
    reason: str = ""


class Reference(Struct, frozen=True):
    """Something outside of the image that it needs: "backing file", "data file"; `there`: whether it exists."""

    kind: str
    target: str
    there: bool


class Gold(Struct, frozen=True):
    """A gold image, its seal, how it is now, and what is inside.

    `seal` is absent if the register does not know the image. `stamp` and `sha256` are how it is now; `in_use`:
    a program has it open for writing; `dirty`: a qcow2 image that was not closed in order; `writable` by its mode.
    """

    path: str
    seal: Fact[Seal] = field(default_factory=not_read)
    signature: Fact[Signature] = field(default_factory=not_read)
    sha256: Fact[str] = field(default_factory=not_read)
    stamp: Fact[FileStamp] = field(default_factory=not_read)
    in_use: Fact[bool] = field(default_factory=not_read)
    dirty: Fact[bool] = field(default_factory=not_read)
    writable: Fact[bool] = field(default_factory=not_read)
    references: Fact[tuple[Reference, ...]] = field(default_factory=not_read)
    guest: Guest = field(default_factory=Guest)
