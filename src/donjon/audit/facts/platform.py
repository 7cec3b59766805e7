# SPDX-License-Identifier: Apache-2.0
"""Which host this is, what runs VMs on it, and when it was looked at."""

from __future__ import annotations

import hashlib
import shlex
from datetime import UTC, datetime

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived


class Release(Struct, frozen=True):
    """The operating system: `id` and `version` of os-release ("debian", "12"), its relatives, and its full name."""

    id: str
    version: str
    like: tuple[str, ...]
    pretty: str


class Platform(Struct, frozen=True):
    """`id` stays the same between audits; `kinds` are letters: K, X, O (see `donjon.audit.catalogue.Control`)."""

    id: str
    name: str
    kinds: Fact[str]
    release: Fact[Release]
    kernel: Fact[str]
    machine: Fact[str]
    cmdline: Fact[tuple[str, ...]]
    taken: Fact[datetime]


def read_platform(bundle: Bundle) -> Platform:
    """From uname, os-release, /proc/cmdline and the probe "hypervisors"."""
    machine_id = bundle.output("machine-id")
    identity = machine_id.value.strip() if isinstance(machine_id, Known) else ""
    name = bundle.manifest.host
    return Platform(
        id=hashlib.sha256((identity or name).encode()).hexdigest()[:16],
        name=name,
        kinds=_kinds(bundle),
        release=_release(bundle),
        kernel=derived(bundle.output("uname"), lambda text: text.split()[2]),
        machine=derived(bundle.output("machine"), str.strip),
        cmdline=derived(bundle.output("cmdline"), _words),
        taken=_taken(bundle.manifest.started),
    )


def _words(text: str) -> tuple[str, ...]:
    if not text.strip():
        raise ValueError("it is empty")
    return tuple(text.split())


def _taken(started: str) -> Fact[datetime]:
    try:
        return Known(datetime.fromisoformat(started).astimezone(UTC), "manifest.json")
    except ValueError:
        return Unknown("the bundle does not say when it was taken")


def _kinds(bundle: Bundle) -> Fact[str]:
    """The probe prints a word for each that is there: libvirt-qemu, xl, oracle-vm."""
    letters = {"libvirt-qemu": "K", "xl": "X", "oracle-vm": "O"}

    def parse(text: str) -> str:
        kinds = {letters[word] for word in text.split()}
        return "".join(sorted(kinds - {"X"} if "O" in kinds else kinds))

    return derived(bundle.output("hypervisors"), parse)


def _release(bundle: Bundle) -> Fact[Release]:
    """os-release; before that, the sentence of Oracle VM, Oracle Linux and Red Hat: "NAME release VERSION"."""
    text = bundle.text("/etc/os-release")
    if isinstance(text, Known):
        return derived(text, _os_release)
    for path, identity in (("/etc/ovs-release", "ovs"), ("/etc/oracle-release", "ol"), ("/etc/redhat-release", "rhel")):
        sentence = bundle.text(path)
        if isinstance(sentence, Known):
            return derived(sentence, lambda line, identity=identity: _sentence(line, identity))  # type: ignore[misc]
    return Absent("/etc/os-release") if isinstance(text, Absent) else text


def _os_release(text: str) -> Release:
    words = dict(pair.split("=", 1) for pair in shlex.split(text, comments=True) if "=" in pair)
    return Release(
        words.get("ID", ""),
        words.get("VERSION_ID", ""),
        tuple(words.get("ID_LIKE", "").split()),
        words.get("PRETTY_NAME", ""),
    )


def _sentence(text: str, identity: str) -> Release:
    _, _, version = text.partition(" release ")
    return Release(identity, version.split()[0], ("rhel",), text.strip())
