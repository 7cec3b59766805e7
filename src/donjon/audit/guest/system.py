# SPDX-License-Identifier: Apache-2.0
"""The facts of a Linux guest, from its file tree: release, users, sshd's keys, agent, units, configuration.

Source: os-release(5), passwd(5), shadow(5), crypt(5), machine-id(5), sshd(8), qemu-ga(8), systemd.unit(5).
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from posixpath import dirname

from donjon.audit.fact import Fact, Unseen
from donjon.audit.facts.guests import Account, AgentSetup, HostKey
from donjon.audit.facts.platform import Release
from donjon.audit.guest.tree import GuestTree

_HASHES = {
    "y": "yescrypt",
    "gy": "gost-yescrypt",
    "7": "scrypt",
    "2a": "bcrypt",
    "2b": "bcrypt",
    "2y": "bcrypt",
    "6": "sha512",
    "5": "sha256",
    "1": "md5",
    "3": "nt",
    "sha1": "sha1",
}
IDENTITIES = {
    "machine-id": "/etc/machine-id",
    "dbus machine-id": "/var/lib/dbus/machine-id",
    "iscsi initiator": "/etc/iscsi/initiatorname.iscsi",
    "nvme host": "/etc/nvme/hostid",
    "random seed": "/var/lib/systemd/random-seed",
}
CONFIGS = (
    "/etc/passwd", "/etc/group", "/etc/sudoers", "/etc/sudoers.d/*", "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*",
    "/etc/pam.d/*", "/etc/security/*", "/etc/fstab", "/etc/hosts", "/etc/hosts.allow", "/etc/hosts.deny",
    "/etc/crontab", "/etc/cron.d/*", "/etc/sysctl.conf", "/etc/sysctl.d/*", "/etc/modprobe.d/*",
    "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/yum.repos.d/*", "/etc/systemd/system/*",
    "/etc/ld.so.preload", "/etc/ld.so.conf.d/*", "/etc/profile", "/etc/profile.d/*", "/etc/rc.local",
    "/etc/nftables.conf", "/etc/selinux/config", "/etc/default/grub", "/etc/nsswitch.conf", "/etc/login.defs",
)  # fmt: skip
LONGEST = 256 << 10
_KEY = re.compile(r"ssh_host_\w+_key")


def release(tree: GuestTree) -> Release:
    """From os-release. Raises FileNotFoundError, Unseen, ValueError."""
    try:
        text = tree.text("/etc/os-release")
    except FileNotFoundError:
        text = tree.text("/usr/lib/os-release")
    words = dict(pair.split("=", 1) for pair in shlex.split(text, comments=True) if "=" in pair)
    return Release(
        words.get("ID", ""),
        words.get("VERSION_ID", ""),
        tuple(words.get("ID_LIKE", "").split()),
        words.get("PRETTY_NAME", ""),
    )


def kernels(tree: GuestTree) -> tuple[str, ...]:
    """Versions of the kernels in /boot. Raises Unseen."""
    names = (path.rpartition("/")[2] for path, _ in tree.files("/boot"))
    return tuple(sorted(name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")))


def identities(tree: GuestTree) -> dict[str, Fact[str]]:
    """A digest of what should be a guest's own; absent if the file is not there, or says nothing."""
    return {name: tree.look(path, lambda path=path: _identity(tree, path)) for name, path in IDENTITIES.items()}  # type: ignore[misc]


def _identity(tree: GuestTree, path: str) -> str:
    if stat.S_ISLNK(tree.entry(path).mode) and path != IDENTITIES["machine-id"]:
        raise FileNotFoundError(path)
    content = tree.read(path).strip()
    if path.endswith("initiatorname.iscsi"):
        named = re.search(rb"(?m)^\s*InitiatorName\s*=\s*(\S+)", content)
        content = named[1] if named else b""
    if not content or content == b"uninitialized":
        raise FileNotFoundError(path)
    return digest(content)


def digest(content: bytes) -> str:
    """By which two values can be told to be the same, without telling them."""
    return hashlib.sha256(b"donjon identity\0" + content).hexdigest()[:32]


def host_keys(tree: GuestTree) -> tuple[HostKey, ...]:
    """The private keys of sshd. Raises Unseen."""
    found = sorted(path for path, _ in tree.files("/etc/ssh") if _KEY.fullmatch(path.rpartition("/")[2]))
    return tuple(HostKey(path, _fingerprint(tree, f"{path}.pub")) for path in found)


def _fingerprint(tree: GuestTree, path: str) -> str:
    try:
        return digest(base64.b64decode(tree.text(path).split()[1]))
    except (FileNotFoundError, Unseen, ValueError, IndexError):
        return ""


def makes_host_keys(tree: GuestTree) -> bool:
    """Whether host keys are made anew at the first boot, even if there are some. Raises Unseen."""
    for path, entry in tree.files("/etc/systemd/system"):
        enabled = any(one.endswith("/" + path.rpartition("/")[2]) for one in _wanted(tree))
        if enabled and entry.size <= LONGEST and _remakes(tree.text(path)):
            return True
    return _cloud_init_remakes(tree)


def _remakes(unit: str) -> bool:
    return "dpkg-reconfigure openssh-server" in unit or ("ssh_host_" in unit and "ssh-keygen" in unit)


def _cloud_init_remakes(tree: GuestTree) -> bool:
    """cloud-init does, unless it is switched off or told not to."""
    if not any(_there(tree, path) for path in ("/usr/bin/cloud-init", "/usr/sbin/cloud-init")):
        return False
    if _there(tree, "/etc/cloud/cloud-init.disabled"):
        return False
    texts = [tree.text(path) for path, entry in tree.files("/etc/cloud", 2) if entry.size <= LONGEST]
    return not any(re.search(r"(?im)^\s*ssh_deletekeys\s*:\s*(false|no|0)", text) for text in texts)


def accounts(tree: GuestTree) -> tuple[Account, ...]:
    """The users, each with the class of its password. Raises FileNotFoundError, Unseen, ValueError."""
    shadow = {line[0]: line[1] for line in _lines(tree.text("/etc/shadow"), 2)}
    found = []
    for name, password, uid, _, _, _, shell, *_ in _lines(tree.text("/etc/passwd"), 7):
        kind = password_class(shadow.get(name, "!") if password == "x" else password)  # noqa: S105 -- not a password
        found.append(Account(name, int(uid), kind, shell))
    if not found:
        raise ValueError("no user is in it")
    return tuple(found)


def _lines(text: str, fields: int) -> Iterator[list[str]]:
    lines = (line.split(":") for line in text.splitlines())
    return (line for line in lines if len(line) >= fields and line[0] and not line[0].startswith(("#", "+", "-")))


def password_class(field: str) -> str:
    """How a password is hashed, or "empty" or "locked"; nothing of the hash itself."""
    if not field:
        return "empty"
    if field[0] in "!*":
        return "locked"
    if field[0] == "$":
        return _HASHES.get(field.split("$")[1], "unknown hash")
    return "des" if len(field) in {13, 20} else "locked"


def authorized_keys(tree: GuestTree) -> dict[str, int]:
    """File -> keys that may log in, of all users that have a home. Raises FileNotFoundError, Unseen."""
    homes = {line[5].rstrip("/") for line in _lines(tree.text("/etc/passwd"), 7)}
    found = {}
    for home in sorted(home for home in homes if home.startswith("/") and len(home) > 1):
        for name in ("authorized_keys", "authorized_keys2"):
            if count := _keys_in(tree, f"{home}/.ssh/{name}"):
                found[f"{home}/.ssh/{name}"] = count
    return found


def _keys_in(tree: GuestTree, path: str) -> int:
    try:
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in tree.text(path).splitlines())
    except FileNotFoundError:
        return 0


def agent(tree: GuestTree) -> AgentSetup:
    """What QEMU's agent may do. Raises FileNotFoundError: it is not installed; Unseen; ValueError."""
    if not any(_there(tree, path) for path in ("/usr/sbin/qemu-ga", "/usr/bin/qemu-ga", "/sbin/qemu-ga")):
        raise FileNotFoundError("qemu-ga")
    allowed, blocked = [], []
    for text in _agent_texts(tree):
        allowed += _listed(text, r"allow-?rpcs|ALLOW_RPCS?|whitelist|-a")
        blocked += _listed(text, r"block-?rpcs|blacklist|BLACKLIST_RPC|BLOCK_RPCS?|-b")
    return AgentSetup(tuple(sorted(set(allowed))), tuple(sorted(set(blocked))))


def _agent_texts(tree: GuestTree) -> Iterator[str]:
    single = ("/etc/qemu/qemu-ga.conf", "/etc/qemu-ga/qemu-ga.conf", "/etc/sysconfig/qemu-ga")
    drop_ins = [path for path, _ in tree.files("/etc/systemd/system/qemu-guest-agent.service.d")]
    for path in (*single, "/etc/default/qemu-guest-agent", "/etc/systemd/system/qemu-guest-agent.service", *drop_ins):
        try:
            text = tree.text(path)
        except FileNotFoundError:
            continue
        yield "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))


def _listed(text: str, keys: str) -> list[str]:
    """Commands after "blacklist=", "--block-rpcs=", "BLACKLIST_RPC=", "-b "."""
    pattern = rf"(?:^|[\s\"'-])(?:{keys})[ \t]*[= \t][ \t]*[\"']?([a-z][a-z0-9,-]*)"
    return [name for found in re.findall(pattern, text, re.MULTILINE) for name in found.split(",") if name]


def units(tree: GuestTree) -> tuple[str, ...]:
    """Names of the units that the guest's administrator or packages have enabled. Raises Unseen."""
    return tuple(sorted({path.rpartition("/")[2] for path in _wanted(tree)}))


def _wanted(tree: GuestTree) -> list[str]:
    below = tree.below("/etc/systemd/system", 2)
    return [path for path, _ in below if dirname(path).endswith((".wants", ".requires"))]


def configs(tree: GuestTree) -> dict[str, str]:
    """SHA-256 of the files that decide who gets in and what runs. Raises Unseen."""
    found = {}
    for folder in sorted({dirname(pattern) for pattern in CONFIGS}):
        for path, entry in tree.files(folder):
            if entry.size <= LONGEST and any(fnmatchcase(path, pattern) for pattern in CONFIGS):
                found[path] = hashlib.sha256(tree.read(path)).hexdigest()
    return found


def _there(tree: GuestTree, path: str) -> bool:
    """Raises Unseen."""
    try:
        tree.entry(path)
    except FileNotFoundError:
        return False
    return True
