# SPDX-License-Identifier: Apache-2.0
"""Rules about backup: whether it is there, was proven, cannot be erased, and opens no door."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from donjon.audit.control import Context, control
from donjon.audit.fact import Absent, Known, Unseen, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.recovery import Endpoint, Export, KeyFile, Leftover, Setup
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

NO_VM = "no VM is defined here"
NO_DONJON = "donjon is not set up on this host"
_PLAIN = re.compile(r"(rest:|s3:|swift:)?http$|nbd$|ftp$")
_NBD_PORTS = range(10809, 10820)
_THAW = "guest.thaw"
_OWN_CHECKPOINT = re.compile(r"donjon-[0-9a-f]{8}-")


def _moment(text: str) -> datetime:
    """Raises Unseen: it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Unseen(f"{text[:40]!r} is no time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _asked(host: Host) -> datetime:
    """When the repository was asked; else when the host was looked at."""
    return _moment(host.backup.asked) if host.backup.asked else need(host.platform.taken)


def _setup(host: Host) -> Setup:
    return need(host.recovery.setup, absent=Setup((), (), ()))


@control("BKP-01")
def backed_up_in_time(host: Host, context: Context) -> Iterable[Verdict]:
    """What is not backed up is lost with the host."""
    allowed = context.profile.ages.restore_point_hours

    def judge(vm: Domain) -> Verdict:
        if matches(vm.name, context.profile.allow.no_backup):
            return not_applicable(f"the profile says that {vm.name} needs no backup")
        points = need(host.backup.restore_points)
        if vm.uuid not in points:
            return failed(f"{vm.name} has no restore point")
        hours = (_asked(host) - _moment(points[vm.uuid])).total_seconds() / 3600
        if hours > allowed:
            return failed(f"the newest restore point of {vm.name} is {hours:.0f} h old", newest=points[vm.uuid])
        return passed(f"{vm.name} has a restore point of the last {allowed} h", newest=points[vm.uuid])

    vms = need(host.domains.all)
    yield from each(vms, judge, subject=lambda vm: vm.uuid, name=lambda vm: vm.name, none=NO_VM)


@control("BKP-02")
def restore_proven(host: Host, context: Context) -> Iterable[Verdict]:
    """A backup that was never restored is a hope."""

    def judge(vm: Domain) -> Verdict:
        if matches(vm.name, context.profile.allow.no_backup):
            return not_applicable(f"the profile says that {vm.name} needs no backup")
        drill = need(host.backup.drills).get(vm.uuid)
        if drill is None or not drill.passed:
            tried = f"; the last drill failed on {drill.last[:10]}" if drill else ""
            return failed(f"no restore of {vm.name} was ever proven{tried}")
        days = (context.today - _moment(drill.passed).date()).days
        if days > context.profile.ages.drill:
            return failed(f"the last drill that {vm.name} passed is {days} days ago", passed=drill.passed)
        if drill.last > drill.passed:
            return failed(f"the last drill of {vm.name} failed", lower=1, passed=drill.passed, failed=drill.last)
        return passed(f"a restore of {vm.name} was proven {days} days ago", passed=drill.passed)

    vms = need(host.domains.all)
    yield from each(vms, judge, subject=lambda vm: vm.uuid, name=lambda vm: vm.name, none=NO_VM)


@control("BKP-03")
def key_material_private(host: Host, _context: Context) -> Iterable[Verdict]:
    """Who has the repository's password reads every guest."""
    setup = _setup(host)
    if not setup.programs and not setup.key_files and not setup.repositories:
        yield not_applicable(NO_DONJON)
        return

    def judge(file: KeyFile) -> Verdict:
        if file.mode is None:
            return unknown(f"{file.path}, which should hold a password, is not there")
        shown = f"{file.mode:04o} {file.user}:{file.group}"
        if file.mode & 0o077 or file.user != "root":
            return failed(f"{file.path} holds a repository's password and is {shown}", mode=shown)
        return passed(f"{file.path} is root's alone", mode=shown)

    yield from (one for one in each(setup.key_files, judge, subject=lambda file: file.path, none="") if one.subject)
    exposed = _passwords_in_the_open(host)
    if exposed:
        yield failed(f"a repository's password stands in {', '.join(exposed)}", "in the open", where=exposed)
    else:
        yield passed("no password of a repository stands in a unit or in arguments", "in the open")


def _passwords_in_the_open(host: Host) -> list[str]:
    units = need(host.recovery.units, absent={})
    found = [path for path, text in units.items() if re.search(r"(?m)^Environment=.*(DONJON|RESTIC)_PASSWORD=", text)]
    found += [
        f"the arguments of {process.name}"
        for process in need(host.processes.all)
        if process.name in {"donjon", "restic"} and any(one.startswith("--password=") for one in process.arguments)
    ]
    return sorted(set(found))


@control("BKP-04")
def backups_outlive_the_host(host: Host, context: Context) -> Iterable[Verdict]:
    """Whoever takes over the host must not be able to take the backups with it."""
    attested = context.profile.attested("BKP-04", context.today)

    def judge(endpoint: Endpoint) -> Verdict:
        where = endpoint.location
        if attested:
            return passed(f"{attested.owner} attests: {attested.statement}", attested_until=attested.expires)
        if endpoint.scheme:
            return unknown(f"it cannot be told from here whether {where} only takes and never deletes")
        if endpoint.remote:
            return failed(
                f"root of this host can delete all of {where}, which is mounted here", file_system=endpoint.file_system
            )
        if not endpoint.file_system:
            return unknown(f"{where} is not there")
        return failed(f"the repository {where} is on the host itself", file_system=endpoint.file_system)

    setup = _setup(host)
    yield from each(
        setup.repositories, judge, subject=lambda one: one.location, none="this host has no way to a repository"
    )


@control("BKP-05")
def backup_traffic_sealed(host: Host, context: Context) -> Iterable[Verdict]:
    """Disks of guests must not cross a network for others to read."""
    setup = _setup(host)
    remote = [one for one in setup.repositories if one.remote]
    exports = [one for one in need(host.listeners.all) if _serves_disks(one)]
    for listener in exports:
        where = f"{listener.address}:{listener.port}"
        yield failed(f"{listener.process} serves a disk in clear on {where}", f"tcp/{listener.port}", listen=where)
    yield from (_judge_endpoint(one, context) for one in remote)
    if not remote and not exports:
        yield not_applicable("no repository is reached over a network, and no disk is served on one")


def _serves_disks(listener: Listener) -> bool:
    program = re.match(r"qemu|nbdkit|nbd-server|kvm", listener.process)
    return bool(program) and listener.port in _NBD_PORTS and not _loopback(listener.address)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"


def _judge_endpoint(endpoint: Endpoint, context: Context) -> Verdict:
    where, scheme = endpoint.location, endpoint.scheme
    if scheme and _PLAIN.match(scheme):
        host = re.search(r"//(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)", where)
        if host and _loopback(host[1].strip("[]")):
            return passed(f"{where} is on the host itself", where)
        return failed(f"{where} is reached in clear: {scheme}", where, endpoint=where)
    server = endpoint.device.rpartition(":")[0].strip("[]/")
    guests = context.profile.networks.of("guest")
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return passed(f"what goes to {where} is sealed before it leaves", where, through=scheme or endpoint.file_system)
    if any(address in network for network in guests):
        return failed(f"{where} is reached through a network of guests, at {server}", where, endpoint=endpoint.device)
    return passed(f"what goes to {where} is sealed, and leaves through no network of guests", where)


@control("BKP-06")
def definitions_private(host: Host, _context: Context) -> Iterable[Verdict]:
    """Definitions name disks, networks and passwords; in a repository they are sealed, in a folder they are not."""

    def judge(file: Export) -> Verdict:
        shown = f"{file.mode:04o} {file.user}:{file.group}"
        if file.secret:
            return failed(f"{file.path} is a VM's definition with a password in it ({shown})", mode=shown)
        if file.mode & 0o007 or (file.mode & 0o070 and file.group != "root"):
            return failed(f"{file.path} is a VM's definition that others can read ({shown})", mode=shown)
        return failed(f"{file.path} is a VM's definition outside of a repository", lower=1, mode=shown)

    exports = need(host.recovery.exports, absent=())
    if exports:
        yield from each(exports, judge, subject=lambda file: file.path, none="")
        return
    if not need(host.domains.all, absent=()):
        yield not_applicable(NO_VM)
        return
    yield passed("no definition of a VM lies where exports usually do")


@control("BKP-07")
def least_rights(host: Host, _context: Context) -> Iterable[Verdict]:
    """A backup program reaches every guest; what it cannot do, its attacker cannot either."""
    setup, units = _setup(host), need(host.recovery.units, absent={})
    listening = [one for one in need(host.listeners.all) if one.process == "donjon" and not _loopback(one.address)]
    roots = {process.pid for process in need(host.processes.all) if process.uid == 0}
    for one in listening:
        where = f"{one.address}:{one.port}"
        if one.pid in roots:
            yield failed(f"donjon listens on {where} as root", f"tcp/{one.port}", listen=where)
        else:
            yield passed(f"donjon listens on {where}, but not as root", f"tcp/{one.port}", listen=where)
    services = {path: text for path, text in units.items() if path.endswith(".service")}
    yield from (_judge_service(path, _with_drop_ins(path, units)) for path in sorted(services))
    if not listening and not services:
        yield not_applicable("donjon runs only when somebody calls it" if setup.programs else NO_DONJON)


def _with_drop_ins(path: str, units: dict[str, str]) -> str:
    return "\n".join([units[path], *(text for other, text in units.items() if other.startswith(f"{path}.d/"))])


def _judge_service(path: str, text: str) -> Verdict:
    name = path.rpartition("/")[2]
    settings = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))
    if settings.get("User", "root") != "root":
        return passed(f"{name} runs as {settings['User']}", path)
    lacking = [one for one in ("NoNewPrivileges", "ProtectSystem") if not _is_on(settings.get(one, ""))]
    if lacking:
        return failed(f"{name} runs as root without {' and '.join(lacking)}", path, lower=1, lacking=lacking)
    return passed(f"{name} runs as root, shut in", path)


def _is_on(value: str) -> bool:
    return value.strip().lower() in {"yes", "true", "1", "on", "full", "strict"}


@control("BKP-08")
def nothing_left_behind(host: Host, context: Context) -> Iterable[Verdict]:
    """A guest left frozen stands still; a snapshot left behind grows until the storage is full."""
    yield _judge_frozen(host)
    now, allowed = need(host.platform.taken), context.profile.ages.leftover_hours
    names = {vm.uuid: vm.name for vm in host.domains.all.value} if isinstance(host.domains.all, Known) else {}
    by_vm: defaultdict[str, list[Leftover]] = defaultdict(list)
    for one in need(host.recovery.leftovers, absent=()):
        by_vm[one.vm].append(one)
    for uuid in sorted(by_vm.keys() | names.keys()):
        yield _judge_leftovers(uuid, names.get(uuid, uuid), by_vm[uuid], now, allowed)
    for process in need(host.processes.all):
        hours = (now.timestamp() - process.started) / 3600 if process.started else 0
        if process.name == "qemu-nbd" and hours > allowed:
            yield failed(f"qemu-nbd serves a disk since {hours:.0f} h", f"qemu-nbd/{process.pid}", lower=1)


def _judge_frozen(host: Host) -> Verdict:
    if isinstance(host.backup.owed, Known):
        frozen = sorted(one.subject for one in host.backup.owed.value if one.kind == _THAW)
        if frozen:
            return failed(
                f"backup froze {', '.join(frozen)} and did not thaw it",
                "frozen",
                severity=Severity.CRITICAL,
                vms=frozen,
            )
        return passed("donjon owes no guest a thaw", "frozen")
    if not need(host.domains.all, absent=()):
        return not_applicable(NO_VM)
    return unknown(f"whether a guest was left frozen: {getattr(host.backup.owed, 'reason', 'nobody looked')}", "frozen")


def _judge_leftovers(uuid: str, name: str, all_: list[Leftover], now: datetime, allowed: int) -> Verdict:
    newest = {_series(one): one for one in sorted(all_, key=lambda one: one.taken) if _series(one)}
    spare = [one for one in all_ if one not in newest.values()]
    old = [one for one in spare if (now - one.taken).total_seconds() > allowed * 3600]
    if old:
        shown = [f"{one.kind} {one.name} of {one.taken:%Y-%m-%d}" for one in old]
        return failed(f"{name} keeps what should be gone: {', '.join(shown)}", uuid, name, leftovers=shown)
    return passed(f"nothing old was left behind at {name}", uuid, name)


def _series(one: Leftover) -> str:
    """Of donjon's checkpoints the repository's: from the newest its next backup reads on. "" of all else."""
    match = _OWN_CHECKPOINT.match(one.name) if one.kind == "checkpoint" else None
    return match[0] if match else ""


@control("BKP-09")
def restored_do_not_collide(host: Host, context: Context) -> Iterable[Verdict]:
    """Two VMs with one address or one disk destroy each other."""
    vms = need(host.domains.all)
    everybody = [(one.platform.id, vm) for one in context.fleet for vm in _seen(one)]
    if len(everybody) < 2:
        unseen = [one for one in context.fleet if not isinstance(one.domains.all, Known | Absent)]
        yield unknown("the VMs of other hosts could not be seen") if unseen else not_applicable("there are not two VMs")
        return
    owners = _owners(everybody)
    yield from each(
        vms,
        lambda vm: _judge_collisions(vm, host.platform.id, owners, context),
        subject=lambda vm: vm.uuid,
        name=lambda vm: vm.name,
        none=NO_VM,
    )


def _seen(host: Host) -> tuple[Domain, ...]:
    return host.domains.all.value if isinstance(host.domains.all, Known) else ()


def _claims(host: str, vm: Domain) -> Iterator[tuple[str, str]]:
    yield "UUID", vm.uuid
    yield from (("MAC address", nic.mac.lower()) for nic in vm.nics if nic.mac)
    for disk in vm.disks:
        if disk.source and not disk.read_only and not disk.shareable and disk.device == "disk":
            yield "disk", disk.source if "://" in disk.source else f"{host}:{disk.source}"


def _owners(everybody: Iterable[tuple[str, Domain]]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    owners: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for host, vm in everybody:
        for claim in _claims(host, vm):
            owners[claim].add((host, vm.name))
    return owners


def _judge_collisions(
    vm: Domain, host: str, owners: dict[tuple[str, str], set[tuple[str, str]]], context: Context
) -> Verdict:
    shared = {
        claim: sorted(name for name in owners[claim] - {(host, vm.name)})
        for claim in _claims(host, vm)
        if len(owners[claim]) > 1 and not _approved(claim, context)
    }
    if not shared:
        return passed(f"{vm.name} shares no UUID, MAC address or disk with another VM")
    kinds = sorted({kind for kind, _ in shared})
    others = sorted({name for names in shared.values() for _, name in names})
    return failed(
        f"{vm.name} shares its {' and '.join(kinds)} with {', '.join(others)}",
        others=others,
        shared=sorted(f"{kind} {value.partition(':')[2] if kind == 'disk' else value}" for kind, value in shared),
    )


def _approved(claim: tuple[str, str], context: Context) -> bool:
    return claim[0] == "disk" and matches(claim[1].partition(":")[2], context.profile.allow.shared_disks)
