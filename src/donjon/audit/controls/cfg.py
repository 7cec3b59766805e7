# SPDX-License-Identifier: Apache-2.0
"""Rules of the area CFG: critical configuration files, keys, hooks, sockets, drift; see the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from posixpath import dirname

from donjon.audit.bundle import PathInfo, Paths
from donjon.audit.control import Context, control
from donjon.audit.controls import cfg_guests  # noqa: F401 -- its rules are registered with these
from donjon.audit.controls.modes import ancestors, followed, not_roots_alone, others_read, others_write
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.baseline import Hook
from donjon.audit.facts.domain import Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.libvirt import Settings
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

PRIVATE_OF_LIBVIRT = re.compile(
    r"/etc/libvirt/(qemu\.conf|qemu/[^/]*\.xml|(xen|libxl|lxc)/[^/]*\.xml|secrets|passwd\.db)"
)
KEY_FOLDERS = (
    *(f"/etc/pki/{name}" for name in ("libvirt/private", "qemu")),
    *(f"/etc/pki/libvirt-{name}" for name in ("vnc", "spice", "migrate", "nbd", "backup", "chardev")),
    "/etc/ovs-agent/cert",
    "/etc/ssh",
)
KEY = re.compile(r"(^|/)(ssh_host_\w+_key|[\w.-]*key[\w.-]*\.pem|[\w.-]+\.key)$")
KEY_OWNERS = frozenset({"root", "qemu", "libvirt-qemu"})
KEY_GROUPS = frozenset({"root", "qemu", "libvirt-qemu", "tss", "ssh_keys"})
CONFIG_FOLDERS = (
    "/etc/libvirt",
    "/etc/libvirt/qemu",
    "/etc/libvirt/hooks",
    "/etc/xen",
    "/etc/ovs-agent",
    "/run/libvirt",
)
SERVICES = frozenset({"qemu", "libvirt-qemu"})
"""Accounts that own what libvirt makes for QEMU."""

SOCKET_FOLDERS = {
    "K": ("/run/libvirt", "/var/lib/libvirt/qemu"),
    "X": ("/run/xenstored", "/var/run/xenstored"),
    "O": ("/var/run/xenstored",),
}
WORSE_DRIFT = ("/etc/libvirt/hooks/*", "/etc/sudoers*", "/etc/ld.so.preload", "/etc/xen/scripts/*", "/etc/polkit-1/*")


@control("CFG-01")
def libvirt_configuration_is_private(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who can change libvirt's files is root at the next start; guests' definitions hold console passwords."""
    paths = _present(host.paths, "/etc/libvirt", 3)
    if not paths:
        yield not_applicable("there is no /etc/libvirt")
        return
    bad = [one for info in paths if (one := _judge_libvirt_path(host.paths, info))]
    yield from bad or [passed("only root can change libvirt's configuration, or read what is secret", paths=len(paths))]


def _present(paths: Paths, folder: str, depth: int) -> list[PathInfo]:
    """A folder and all below; nothing if it is not there."""
    here = paths.at(folder)
    if isinstance(here, Absent):
        return []
    return [need(here), *need(paths.below(folder, depth), absent=())]


def _judge_libvirt_path(paths: Paths, info: PathInfo) -> Verdict | None:
    if why := not_roots_alone(info):
        return failed(f"{info.path} can be changed by others than root: {why}", info.path, mode=info.shown)
    if info.kind != "l" and PRIVATE_OF_LIBVIRT.match(info.path) and others_read(paths, info):
        return failed(f"everybody on the host can read {info.path}", info.path, mode=info.shown)
    return None


@control("CFG-02")
def xen_configuration_is_private(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Guests' configurations hold console passwords, and what is in scripts runs as root."""
    paths = _present(host.paths, "/etc/xen", 2)
    saved = [one for one in _present(host.paths, "/var/lib/xen", 1) if "/userdata" in one.path]
    if not paths:
        yield not_applicable("there is no /etc/xen")
        return
    bad = [one for info in (*paths, *saved) if (one := _judge_xen_path(host, info))]
    yield from bad or [passed("only root can change Xen's configuration, or read guests'", paths=len(paths))]


def _judge_xen_path(host: Host, info: PathInfo) -> Verdict | None:
    if why := not_roots_alone(info):
        return failed(f"{info.path} can be changed by others than root: {why}", info.path, mode=info.shown)
    is_guest = re.search(r"^/etc/xen/[^/]*\.cfg$|^/etc/xen/auto/|/userdata", info.path)
    if info.kind != "f" or not is_guest or not others_read(host.paths, info):
        return None
    without = _has_no_password(host, info.path)
    return failed(f"everybody on the host can read {info.path}", info.path, lower=1 if without else 0, mode=info.shown)


def _has_no_password(host: Host, path: str) -> bool:
    """Nobody knows unless the definition was read; then it may have one."""
    if not isinstance(host.domains.all, Known):
        return False
    here = [vm for vm in host.domains.all.value if vm.file == path]
    return bool(here) and not any(one.has_password or one.password_unseen for vm in here for one in vm.consoles)


@control("CFG-03")
def oracle_vm_configuration_is_private(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """The agent's files let one be the manager; vm.cfg holds console passwords in the clear."""
    agent = _present(host.paths, "/etc/ovs-agent", 3)
    single = [host.paths.at(path) for path in ("/etc/xen/xend-config.sxp", "/etc/ovm.conf")]
    configs = [info for path, info in host.paths.seen.items() if re.fullmatch(r"/OVS/Repositories/.*/vm\.cfg", path)]
    unseen = [one.reason for one in single if isinstance(one, Unknown)]
    unseen += [f"{path}: {why}" for path, why in host.paths.refused.items() if path.startswith("/OVS/Repositories/")]
    everything = [*agent, *(one.value for one in single if isinstance(one, Known)), *configs]
    bad = [one for info in everything if (one := _judge_oracle_path(host.paths, info))]
    yield from bad
    if not agent:
        yield unknown("there is no /etc/ovs-agent, where Oracle VM's agent keeps its configuration")
    elif unseen:
        yield unknown(unseen[0])
    elif not bad:
        yield passed("only root can change Oracle VM's configuration, or read what is secret", paths=len(everything))


def _judge_oracle_path(paths: Paths, info: PathInfo) -> Verdict | None:
    if why := not_roots_alone(info):
        return failed(f"{info.path} can be changed by others than root: {why}", info.path, mode=info.shown)
    secret = re.search(r"/vm\.cfg$|key[^/]*\.pem$|/ovs-agent/db(/|$)|/agent\.ini$", info.path)
    if info.kind == "f" and secret and others_read(paths, info):
        return failed(f"everybody on the host can read {info.path}", info.path, mode=info.shown)
    return None


@control("CFG-04")
def private_keys_are_private(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who reads the host's key is the host, for every client and every peer."""
    folders = [*KEY_FOLDERS, *_told_folders(host)]
    keys = []
    for folder in dict.fromkeys(folders):
        below = host.paths.below(folder)
        if isinstance(below, Unknown):
            yield unknown(below.reason, folder)
        keys += (
            [one for one in need(below, absent=()) if KEY.search(one.path)] if not isinstance(below, Unknown) else []
        )
    yield from each(
        [one for one in keys if one.kind in "fl"],
        lambda info: _judge_key(host.paths, need(followed(host.paths, info))),
        subject=lambda info: info.path,
        none="no private key was found where libvirt, QEMU, sshd and Oracle VM's agent keep theirs",
    )


def _told_folders(host: Host) -> Iterator[str]:
    """Where the settings say that keys are."""
    every: list[Settings] = [need(host.libvirt.qemu, absent={})] if "K" in need(host.platform.kinds) else []
    every += need(host.libvirt.daemons, absent={}).values() if every else []
    for settings in every:
        for name, value in settings.items():
            if name.endswith("_tls_x509_cert_dir") and isinstance(value, str):
                yield value
            elif name == "key_file" and isinstance(value, str) and value:
                yield dirname(value)


def _judge_key(paths: Paths, info: PathInfo) -> Verdict:
    if info.user not in KEY_OWNERS and info.uid != 0:
        return failed(f"the private key {info.path} belongs to {info.user}", mode=info.shown)
    if others_read(paths, info) or others_write(paths, info):
        return failed(f"everybody on the host can read the private key {info.path}", mode=info.shown)
    if info.mode & 0o060 and info.group not in KEY_GROUPS and info.gid != 0:
        return failed(f"group {info.group} can read the private key {info.path}", mode=info.shown)
    return passed("the private key is private", mode=info.shown)


@control("CFG-05")
def hooks_are_known(host: Host, context: Context) -> Iterable[Verdict]:
    """A hook runs as root whenever a guest starts: a good place to stay unnoticed."""
    hooks = need(host.baseline.hooks)
    yield from each(
        hooks,
        lambda hook: _judge_hook(hook, host, context.profile),
        subject=lambda hook: hook.path,
        none="there are no hooks",
    )


def _judge_hook(hook: Hook, host: Host, profile: Profile) -> Verdict:
    info = need(host.paths.at(hook.path))
    if why := not_roots_alone(info):
        return failed(f"the hook {hook.path} can be changed by others than root: {why}", mode=info.shown)
    approved = any(hook.sha256 == one.removeprefix("sha256:") for one in profile.allow.hooks)
    by_path = any(fnmatchcase(hook.path, one) for one in profile.allow.hooks if one.startswith("/"))
    baseline = _approved(host, profile).get(hook.path)
    if approved or by_path or baseline == hook.sha256:
        return passed("the hook is approved", sha256=hook.sha256)
    if hook.package and not hook.changed:
        return passed(f"the hook is as {hook.package} brought it", sha256=hook.sha256)
    whose = f"is not as {hook.package} brought it" if hook.package else "belongs to no package"
    return failed(f"nobody approved the hook {hook.path}, which {whose}", sha256=hook.sha256, package=hook.package)


def _approved(host: Host, profile: Profile) -> dict[str, str]:
    """The baseline for this host: all whose pattern its name matches, later ones over earlier ones."""
    found: dict[str, str] = {}
    for pattern, hashes in profile.baseline.items():
        if fnmatchcase(host.platform.name, pattern):
            found |= hashes
    return found


@control("CFG-08")
def nothing_has_drifted(host: Host, context: Context) -> Iterable[Verdict]:
    """A change that nobody approved is a mistake, or somebody else."""
    approved = _approved(host, context.profile)
    if not approved:
        yield not_applicable("the profile tells no baseline for this host")
        return
    hashes = need(host.baseline.hashes)
    bad = [one for path in sorted({*approved, *hashes}) if (one := _judge_drift(path, approved.get(path), hashes))]
    yield from bad or [passed("all critical files are as approved", files=len(approved))]


def _judge_drift(path: str, approved: str | None, hashes: dict[str, str]) -> Verdict | None:
    severity = Severity.HIGH if any(fnmatchcase(path, one) for one in WORSE_DRIFT) else None
    now = hashes.get(path)
    if now == "":
        return unknown(f"{path} may not be read", path)
    if now is None:
        gone = f"{path} is approved, but gone"
        return failed(gone, path, severity=severity, approved=approved) if approved else None
    if not approved:
        return failed(f"{path} is new, and nobody approved it", path, severity=severity, sha256=now)
    if now != approved:
        return failed(f"{path} is not as approved", path, severity=severity, sha256=now, approved=approved)
    return None


@control("CFG-11")
def no_way_is_open_to_all(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who can rename a directory above an image, a file or a socket puts their own in its place."""
    vms = host.domains.all
    if isinstance(vms, Unknown):
        yield unknown(f"where images are could not be seen: {vms.reason}", "images")
    known = vms.value if isinstance(vms, Known) else ()
    sources = [disk.source for vm in known for disk in vm.disks if disk.source.startswith("/")]
    folders = {one for path in (*CONFIG_FOLDERS, *sources) for one in ancestors(path)}
    folders |= {one for one in CONFIG_FOLDERS if isinstance(host.paths.at(one), Known)}
    yield from each(sorted(folders), lambda one: _judge_folder(host.paths, one), subject=lambda one: one, none="")


def _judge_folder(paths: Paths, folder: str) -> Verdict:
    found = paths.at(folder)
    if isinstance(found, Absent):
        return not_applicable("it is not there")
    info = need(followed(paths, need(found)))
    why = not_roots_alone(info)
    if info.user in SERVICES and not (info.others & 2 and not info.mode & 0o1000):
        why = ""
    if why:
        return failed(f"who can write to {folder} can replace what is below: {why}", mode=info.shown)
    return passed("only root can replace what is below", mode=info.shown)


@control("CFG-12")
def control_sockets_are_private(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who can connect to a guest's monitor owns the guest."""
    vms = host.domains.all
    if isinstance(vms, Unknown):
        yield unknown(f"which sockets VMs have could not be seen: {vms.reason}", "VMs")
    wanted = dict(_named_sockets(vms.value if isinstance(vms, Known) else ()))
    kinds = need(host.platform.kinds)
    for folder in (one for kind in kinds for one in SOCKET_FOLDERS[kind]):
        below = host.paths.below(folder, 2)
        if isinstance(below, Unknown):
            yield unknown(below.reason, folder)
    for path, info in host.paths.seen.items():
        seen_twice = path.startswith("/var/run/") and path.removeprefix("/var") in host.paths.seen
        if info.kind == "s" and _CONTROL_SOCKET.search(path) and not seen_twice:
            wanted.setdefault(path, "")
    yield from each(
        sorted(wanted),
        lambda path: _judge_socket(host.paths, path, wanted[path]),
        subject=lambda path: path,
        none="there is no control socket",
    )


_CONTROL_SOCKET = re.compile(
    r"^/(var/)?run/libvirt/.*(admin-sock$|/qemu/|swtpm|virtiofsd|dbus)|^/var/lib/libvirt/(qemu|swtpm)/"
    r"|/xenstored/socket|monitor|/qmp|vhost-user|swtpm|virtiofsd"
)


def _named_sockets(vms: tuple[Domain, ...]) -> Iterator[tuple[str, str]]:
    """Sockets that VMs name: channels and monitors, of libvirt and behind its back."""
    for vm in vms:
        for channel in vm.channels if vm.running else ():
            if channel.kind == "unix" and channel.where.startswith("/"):
                yield channel.where, vm.name
        for argument in vm.raw_arguments if vm.running else ():
            for path in re.findall(r"unix:(/[^,]+)|\bpath=(/[^,]+\.sock[^,]*)", argument):
                yield path[0] or path[1], vm.name


def _judge_socket(paths: Paths, path: str, vm: str) -> Verdict:
    found = paths.at(path)
    if isinstance(found, Absent):
        return passed("it is gone")
    info = need(found)
    whose = f" of {vm}" if vm else ""
    if others_write(paths, info):
        return failed(f"everybody on the host can connect to the control socket{whose} {path}", mode=info.shown, vm=vm)
    if path.endswith("admin-sock") and info.mode & 0o022:
        return failed(f"others than root can connect to the admin socket {path}", mode=info.shown)
    return passed("only its owner and group can connect", mode=info.shown)
