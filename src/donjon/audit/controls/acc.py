# SPDX-License-Identifier: Apache-2.0
"""Rules of the area ACC: accounts, groups, sudo, Oracle VM's agent, VMs that nobody manages; see the catalogue.

Those of sshd and of libvirt's and polkit's doors are in modules of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from typing import Any

from donjon.audit.bundle import PathInfo
from donjon.audit.control import Context, control
from donjon.audit.controls import acc_libvirt, acc_ssh  # noqa: F401 -- their rules are registered with these
from donjon.audit.fact import Absent, Known, Unknown, Unseen, need
from donjon.audit.facts.accounts import USABLE, Account, Group, remote_service
from donjon.audit.facts.host import Host
from donjon.audit.facts.processes import Process
from donjon.audit.facts.sudoers import SudoRule
from donjon.audit.profile import Profile, matches
from donjon.audit.verdict import Verdict, each, failed, manual, not_applicable, passed, unknown

VENDOR_NAMES = frozenset(
    {
        "oracle",
        "ovmadmin",
        "admin",
        "administrator",
        "ubuntu",
        "debian",
        "cloud-user",
        "vagrant",
        "opc",
        "test",
        "guest",
    }
)
POWERFUL = ("root", "sudo", "wheel", "admin", "adm", "disk", "docker", "lxd", "incus-admin", "xen")
POWERFUL_OF = {"K": ("libvirt", "kvm", "qemu", "libvirt-qemu"), "X": (), "O": ("oinstall", "dba")}
OWN_SERVICES = {
    "kvm": {"qemu", "libvirt-qemu", "swtpm"},
    "qemu": {"qemu"},
    "libvirt-qemu": {"libvirt-qemu"},
    "adm": {"adm", "daemon", "syslog"},
    "root": {"root", "sync", "shutdown", "halt", "operator"},
}
"""Accounts that distributions put into these groups, and that nobody can log in to."""

DANGEROUS = (
    "virsh", "virt-*", "xl", "xm", "xenstore-*", "qemu-*", "nbdkit", "guestfish", "guestmount", "mount", "umount",
    "losetup", "kpartx", "dd", "dmsetup", "lvm", "systemctl", "vi", "vim", "nano", "emacs", "ed", "less", "more",
    "man", "find", "awk", "python*", "perl*", "sh", "bash", "dash", "zsh", "ksh", "env", "su", "sudo", "cp", "mv",
    "tee", "chmod", "chown", "install", "rsync", "tar", "docker", "podman", "usermod", "visudo", "passwd",
    "nsenter", "ovs-*", "service",
)  # fmt: skip
"""Programs with which one takes over the host or its guests."""


@control("ACC-01")
def only_root_is_root(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """An account with UID 0 is root by another name; one without a password is open to anybody."""
    users = need(host.accounts.users)
    bad = list(_root_twins(users))
    yield from bad or [passed("only root has UID 0, and no account has an empty password", accounts=len(users))]


def _root_twins(users: tuple[Account, ...]) -> Iterator[Verdict]:
    for user in users:
        if user.uid == 0 and user.name != "root":
            yield failed(f"{user.name} has UID 0, as root has", user.name, shell=user.shell, password=user.password)
        elif user.password == "empty":  # noqa: S105 -- a class of hashes
            yield failed(f"{user.name} has an empty password", user.name, shell=user.shell)


@control("ACC-02")
def passwords_are_hashed_well(host: Host, context: Context) -> Iterable[Verdict]:
    """DES and MD5 are cracked in hours; names that vendors ship are tried first."""
    users = [user for user in need(host.accounts.users) if user.password in USABLE]
    yield from each(
        users,
        lambda user: _judge_password(user, context.profile),
        subject=lambda user: user.name,
        none="no account has a password",
    )


def _judge_password(user: Account, profile: Profile) -> Verdict:
    evidence: dict[str, Any] = {"class": user.password, "set": user.changed or "not known"}
    if user.password in {"des", "md5"}:
        return failed(f"the password of {user.name} is hashed with {user.password.upper()}", **evidence)
    if user.password in {"hash", "other"}:
        return unknown(f"how the password of {user.name} is hashed could not be seen")
    if user.name in VENDOR_NAMES and not matches(user.name, profile.allow.admins):
        return failed(f"{user.name} is a name that vendors ship, and has a password", lower=1, **evidence)
    return passed(f"the password of {user.name} is hashed well", **evidence)


@control("ACC-03")
def only_admins_log_in(host: Host, context: Context) -> Iterable[Verdict]:
    """A shell on the host is for those who run it; one that nobody uses is for nobody."""
    users = [user for user in need(host.accounts.users) if user.logs_in]
    if service := remote_service(host.accounts, "passwd"):
        yield manual(f"accounts come from {service}, too: attest who of them may log in here", "nsswitch")
    yield from each(
        users,
        lambda user: _judge_login(user, host, context),
        subject=lambda user: user.name,
        none="no account has a login shell",
    )


def _judge_login(user: Account, host: Host, context: Context) -> Verdict:
    if not matches(user.name, context.profile.allow.admins):
        if user.password in USABLE or _has_keys(user, host):
            return failed(f"{user.name} can log in, but is not listed as an admin", shell=user.shell)
        return failed(f"{user.name} has a shell, but is not listed as an admin", lower=1, shell=user.shell)
    if user.uid == 0:
        return passed(f"{user.name} is listed as an admin", shell=user.shell)
    last = need(host.accounts.last_logins).get(user.name) or user.changed
    if last is None:
        return unknown(f"when {user.name} was last used could not be seen")
    days = (context.today - last).days
    if days > context.profile.ages.login:
        return failed(f"{user.name} was not used for {days} days", lower=1, shell=user.shell, last=last)
    return passed(f"{user.name} is listed as an admin, and used", shell=user.shell, last=last)


def _has_keys(user: Account, host: Host) -> bool:
    return any(key.user == user.name for key in need(host.sshd.authorized_keys))


@control("ACC-04")
def powerful_groups_are_limited(host: Host, context: Context) -> Iterable[Verdict]:
    """Who is in disk, docker or libvirt is root on this host."""
    kinds = need(host.platform.kinds)
    wanted = {*POWERFUL, *(name for kind in kinds for name in POWERFUL_OF.get(kind, ()))}
    groups = [group for name, group in sorted(need(host.accounts.groups).items()) if name in wanted]
    bad = [
        failed(
            f"{member} is in {group.name}, but is not listed as an admin",
            f"{group.name}/{member}",
            lower=1 if group.name in {"adm", "kvm"} else 0,
            group=group.name,
            member=member,
        )
        for group in groups
        for member in _strangers(group, host, context.profile)
    ]
    yield from bad or [
        passed("only admins are in groups that are as good as root", groups=[one.name for one in groups])
    ]


def _strangers(group: Group, host: Host, profile: Profile) -> list[str]:
    shells = {user.name for user in need(host.accounts.users) if user.logs_in}
    own = OWN_SERVICES.get(group.name, set()) - (shells - {"root"})
    return [name for name in group.members if name not in own and not matches(name, profile.allow.admins)]


@control("ACC-09")
def sudo_does_not_hand_out_the_host(host: Host, context: Context) -> Iterable[Verdict]:
    """Who may run virsh, mount or an editor as root owns the host and its guests."""
    if isinstance(host.accounts.sudo, Absent):
        yield not_applicable("sudo is not used here")
        return
    service = remote_service(host.accounts, "sudoers")
    if service and (service != "sss" or any(one.name.startswith("sssd") for one in need(host.processes.all))):
        yield manual(f"sudo rules come from {service}, too: attest them", "nsswitch")
    rules = need(host.accounts.sudo)
    yield from each(
        rules,
        lambda rule: _judge_sudo(rule, host, context.profile),
        subject=lambda rule: f"{rule.where} {','.join(rule.users)}{' NOPASSWD' if rule.without_password else ''}",
        none="sudoers allows nothing",
    )


def _judge_sudo(rule: SudoRule, host: Host, profile: Profile) -> Verdict:
    evidence: dict[str, Any] = {
        "commands": rule.commands,
        "password": "not asked" if rule.without_password else "asked",
    }
    powers = [command for command in rule.commands if _is_dangerous(command)]
    strangers = [name for user in rule.users for name in _sudoers(user, host, profile)]
    if powers and strangers:
        who = ", ".join(strangers)
        return failed(f"sudo lets {who} run {', '.join(powers)}, which is as good as root", **evidence)
    if powers:
        return passed("only admins may run this", **evidence)
    return passed("the commands do not hand out the host", **evidence)


def _is_dangerous(command: str) -> bool:
    """A list with exceptions ("ALL, !/bin/su") is as good as ALL; negations themselves give nothing."""
    if command.startswith("!") or command == "list":
        return False
    words = command.split()
    while words and words[0].startswith("sha"):
        words = words[1:]
    program = words[0] if words else ""
    name = program.rpartition("/")[2]
    return (
        program in {"ALL", "sudoedit"}
        or program.startswith("^")
        or program.endswith("/")
        or any(sign in program for sign in "*?[")
        or any(fnmatchcase(name, pattern) for pattern in DANGEROUS)
    )


def _sudoers(user: str, host: Host, profile: Profile) -> list[str]:
    """Who of those that a word of sudoers means is no admin."""
    if user.startswith("!"):
        return []
    if user.startswith("%"):
        name = user.lstrip("%:")
        groups = need(host.accounts.groups)
        group = groups.get(name) or next((one for one in groups.values() if name == f"#{one.gid}"), None)
        if group is None and (service := remote_service(host.accounts, "group")):
            raise Unseen(f"who is in {user} only {service} knows")
        members = group.members if group else ()
        return [f"{member} ({user})" for member in members if not matches(member, profile.allow.admins)]
    if user.startswith("#"):
        users = need(host.accounts.users)
        user = next((one.name for one in users if user == f"#{one.uid}"), user)
    return [] if matches(user, profile.allow.admins) else [user]


@control("ACC-14")
def agent_password_is_changed(host: Host, context: Context) -> Iterable[Verdict]:
    """The password that the manager and the agent share is asked once, at installation, and then forgotten."""
    if attested := context.profile.attested("ACC-14", context.today):
        yield passed(f"{attested.owner} attests when it was changed", until=attested.expires)
        return
    stores = [found.value for name in ("db", "agent.ini") if isinstance(found := _agent_file(host, name), Known)]
    if not stores:
        unseen = [one for name in ("db", "agent.ini") if isinstance(one := _agent_file(host, name), Unknown)]
        yield unknown(unseen[0].reason if unseen else "no store of the agent's password was found below /etc/ovs-agent")
        return
    newest = max(stores, key=lambda one: one.mtime)
    yield _judge_store(newest, _installed(host), context)


def _agent_file(host: Host, name: str) -> Known[PathInfo] | Absent | Unknown:
    return host.paths.at(f"/etc/ovs-agent/{name}")


def _installed(host: Host) -> date | None:
    """The day the system was installed: what the installer wrote last."""
    marks = [host.paths.at(path) for path in ("/root/anaconda-ks.cfg", "/root/install.log")]
    days = [_day(mark.value.mtime) for mark in marks if isinstance(mark, Known)]
    return max(days, default=None)


def _day(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def _judge_store(store: PathInfo, installed: date | None, context: Context) -> Verdict:
    changed = _day(store.mtime)
    evidence: dict[str, Any] = {"path": store.path, "changed": changed, "installed": installed or "not known"}
    days = (context.today - changed).days
    if days > context.profile.ages.password:
        return failed(f"the agent's password was not changed for {days} days", store.path, **evidence)
    if installed is None:
        return unknown("when the system was installed could not be seen", store.path)
    if changed <= installed:
        return failed("the agent's password is the one of the installation", store.path, **evidence)
    return passed("the agent's password was changed since the installation", store.path, **evidence)


@control("ACC-15")
def every_vm_is_managed(host: Host, context: Context) -> Iterable[Verdict]:
    """A QEMU that libvirt does not know has no label, no limits, no audit trail, and nobody's name on it."""
    yield from each(
        [one for one in need(host.processes.all) if _is_vm(one)],
        lambda process: _judge_vm(process, host, context.profile),
        subject=_vm_key,
        none="no QEMU process runs",
    )


def _is_vm(process: Process) -> bool:
    """A QEMU that runs a machine; libvirt also starts some to ask what they can do."""
    program = (process.arguments[0] if process.arguments else process.name).rpartition("/")[2]
    is_qemu = program.startswith("qemu-system-") or program in {"qemu-kvm", "qemu-dm", "kvm"}
    return is_qemu and "none" not in [_after(process, flag).partition(",")[0] for flag in ("-machine", "-M")]


def _after(process: Process, flag: str) -> str:
    at = process.arguments.index(flag) + 1 if flag in process.arguments else 0
    return process.arguments[at] if 0 < at < len(process.arguments) else ""


_DISK_FLAGS = ("-drive", "-hda", "-blockdev", "-cdrom")


def _vm_key(process: Process) -> str:
    name = _after(process, "-name").removeprefix("guest=").partition(",")[0]
    disks = [re.sub(r".*\b(?:file|filename)=([^,]+).*", r"\1", _after(process, flag)) for flag in _DISK_FLAGS]
    return name or next((disk for disk in disks if disk), f"{process.name} of UID {process.uid}")


def _judge_vm(process: Process, host: Host, profile: Profile) -> Verdict:
    uuid = _after(process, "-uuid")
    running = [vm for vm in need(host.domains.all) if vm.running]
    if any((vm.pid and vm.pid == process.pid) or (vm.uuid and vm.uuid == uuid) for vm in running):
        return passed("libvirt manages it", pid=process.pid)
    name = _vm_key(process)
    if matches(name, profile.allow.unmanaged_vms):
        return passed("it is approved to run without libvirt", pid=process.pid)
    arguments = " ".join(process.arguments)[:400]
    return failed(
        f"QEMU runs {name} as UID {process.uid}, and libvirt does not know it",
        pid=process.pid,
        uid=process.uid,
        arguments=arguments,
    )
