# SPDX-License-Identifier: Apache-2.0
"""Profiles: what the operator says of an installation, against which hosts are judged."""

from __future__ import annotations

import ipaddress
from datetime import date
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct, field

from donjon.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks(Struct, frozen=True, forbid_unknown_fields=True):
    """Networks by role, as CIDR; and the addresses of managers and peers. An empty role is one that was not told."""

    management: tuple[str, ...] = ()
    migration: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    backup: tuple[str, ...] = ()
    guest: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError if one is no network."""
        for role in self.__struct_fields__:
            self.of(role)

    def of(self, role: str) -> tuple[Network, ...]:
        """The networks of a role."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in getattr(self, role))


class Allow(Struct, frozen=True, forbid_unknown_fields=True):
    """What is approved; patterns with * and ? where names are meant."""

    admins: tuple[str, ...] = ("root",)
    packages: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    listeners: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    passthrough: tuple[str, ...] = ()
    raw_arguments: tuple[str, ...] = ()
    shared_disks: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    trunks: tuple[str, ...] = ()
    unmanaged_vms: tuple[str, ...] = ()
    no_backup: tuple[str, ...] = ()
    guest_agent: tuple[str, ...] = ()


class Ages(Struct, frozen=True, forbid_unknown_fields=True):
    """How old things may be, in days; `restore_point_hours` in hours."""

    restore_point_hours: int = 24
    drill: int = 30
    update_metadata: int = 7
    advisories: int = 14
    gold_image: int = 90
    certificate_left: int = 30
    password: int = 365
    login: int = 90
    leftover_hours: int = 24


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers that decide."""

    backing_chain: int = 8
    memory_ratio: float = 1.0
    agent_addresses: int = 256
    console_log_mib: int = 128
    key_hosts: int = 10


class LogServer(Struct, frozen=True, forbid_unknown_fields=True):
    """Where hosts send their logs, by syslog over TLS; `ca`: file on the hosts with whoever signed its certificate."""

    host: str
    port: int = 6514
    ca: str = "/etc/ssl/certs/ca-certificates.crt"


class Attestation(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person vouches for: control it answers, who, when, and until when (at most 365 days later)."""

    control: str
    owner: str
    signed: date
    expires: date
    statement: str = ""


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator says of an installation.

    `hosts`: letters of the kinds of host it is for, "" for what is found. `tenants`: tenant -> patterns of VM names.
    `baseline`: pattern of host names -> path -> SHA-256 of the approved file, "" for one that must not be there.
    """

    name: str
    description: str = ""
    hosts: str = ""
    multi_tenant: bool = False
    high_assurance: bool = False
    networks: Networks = field(default_factory=Networks)
    allow: Allow = field(default_factory=Allow)
    ages: Ages = field(default_factory=Ages)
    limits: Limits = field(default_factory=Limits)
    image_roots: tuple[str, ...] = ("/var/lib/libvirt/images", "/var/lib/xen/images", "/OVS/Repositories")
    tenants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    clones: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Path of a gold image -> patterns of the names of the VMs made of it."""
    no_drift: tuple[str, ...] = (
        "/etc/sudoers",
        "/etc/sudoers.d/*",
        "/etc/pam.d/*",
        "/etc/ssh/sshd_config",
        "/etc/ssh/sshd_config.d/*",
        "/etc/ld.so.preload",
    )
    """Configuration of clones that must be as in their gold image."""
    support_ends: dict[str, date] = field(default_factory=dict)
    """Last day of security updates by release, as "debian-12": over what donjon knows."""
    attestations: tuple[Attestation, ...] = ()
    baseline: dict[str, dict[str, str]] = field(default_factory=dict)
    log_server: LogServer | None = None
    """For fixes: hosts whose logs stay at home are told to send them there."""
    time_servers: tuple[str, ...] = ()
    """For fixes: hosts whose clock follows nobody are told to follow these."""
    grub_password: str = ""
    """For fixes: what `grub-mkpasswd-pbkdf2` prints, "grub.pbkdf2.sha512..."; the password itself is nowhere."""

    def attested(self, control: str, today: date) -> Attestation | None:
        """A person's word on a control that is valid today."""
        return next((one for one in self.attestations if one.control == control and valid(one, today)), None)

    def tenant_of(self, vm: str) -> str:
        """Whose VM this is; "" if the profile does not say."""
        return next((tenant for tenant, names in self.tenants.items() if matches(vm, names)), "")


def valid(one: Attestation, today: date) -> bool:
    """Made already, not run out, and not for more than a year."""
    return one.signed <= today <= one.expires and (one.expires - one.signed).days <= 365


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether the name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def profile_names() -> list[str]:
    """The profiles that donjon ships."""
    return sorted(
        Path(one.name).stem for one in (files("donjon.audit") / "profiles").iterdir() if one.name.endswith("toml")
    )


def load_profile(name_or_path: str) -> Profile:
    """A profile that donjon ships, or one in a TOML file.

    Raises:
        ConfigError: there is none of this name, or the file makes no sense.
    """
    try:
        if name_or_path in profile_names():
            text = (files("donjon.audit") / "profiles" / f"{name_or_path}.toml").read_bytes()
        else:
            text = Path(name_or_path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot load profile {name_or_path}: {error.strerror}",
            hint=f"name a TOML file, or one of: {', '.join(profile_names())}",
        ) from error
    try:
        return msgspec.toml.decode(text, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot load profile {name_or_path}: {error}",
            hint="`donjon audit profile show kvm-single` prints all that a profile can say",
        ) from error
