# SPDX-License-Identifier: Apache-2.0
"""Rules about gold images and templates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC

from donjon.audit.control import Context, control
from donjon.audit.controls.guest_packages import judge_packages
from donjon.audit.fact import Absent, Fact, Known, Unseen, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.drift import Drift, drift_of
from donjon.audit.facts.guests import Gold, Guest, Seal
from donjon.audit.facts.host import Host
from donjon.audit.profile import matches
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

NONE = "no gold image is declared"
_SHOWN = 8
_TEMPLATE_IDENTITIES = ("machine-id", "dbus machine-id", "iscsi initiator", "nvme host")


def _each_gold(host: Host, judge: Callable[[Gold], Verdict]) -> Iterator[Verdict]:
    if host.gold is None:
        raise Unseen("no register of gold images was read")
    yield from each(host.gold, judge, subject=lambda gold: gold.path, none=NONE)


def _some(things: Iterable[str]) -> str:
    listed = list(things)
    return ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


@control("GLD-01")
def image_sealed(host: Host, _context: Context) -> Iterable[Verdict]:
    """What clones are made of is what was examined once: its hash is written down and signed."""

    def judge(gold: Gold) -> Verdict:
        if isinstance(gold.seal, Absent):
            return failed(f"{gold.path} is not sealed: nobody can tell whether it is what was examined")
        seal, signature = need(gold.seal), need(gold.signature)
        if not signature.good:
            return failed(f"the seal of {gold.path} has no good signature: {signature.reason}", key=signature.key)
        if need(gold.sha256) != seal.sha256:
            return failed(
                f"{gold.path} is not what was sealed: its hash differs", sealed=seal.sha256, key=signature.key
            )
        return passed(f"{gold.path} is as sealed by {seal.builder}", digest=seal.sha256, key=signature.key)

    yield from _each_gold(host, judge)


@control("GLD-02")
def image_untouched(host: Host, _context: Context) -> Iterable[Verdict]:
    """Whoever starts or changes a gold image changes all clones to come."""

    def judge(gold: Gold) -> Verdict:
        if isinstance(gold.seal, Absent):
            return not_applicable(f"{gold.path} was never sealed (see GLD-01)")
        seal = need(gold.seal)
        touched = next(_touched(host, gold, seal), None)
        if touched:
            return touched
        if need(gold.writable):
            return failed(f"{gold.path} can be written: it should be read-only", lower=1)
        return passed(f"{gold.path} has not changed since {seal.sealed.astimezone(UTC):%Y-%m-%d}")

    yield from _each_gold(host, judge)


def _touched(host: Host, gold: Gold, seal: Seal) -> Iterator[Verdict]:
    """What says that somebody has the image open, or had."""
    now = need(gold.stamp)
    if users := _writers(host, gold.path):
        yield failed(f"{gold.path} is a writable disk of {_some(users)}", vms=users)
    if need(gold.in_use):
        yield failed(f"{gold.path} is open for writing")
    if need(gold.dirty, absent=False):
        yield failed(f"{gold.path} was not closed in order: something has written to it")
    if (now.size, now.mtime_ns, now.inode) != (seal.stamp.size, seal.stamp.mtime_ns, seal.stamp.inode):
        yield failed(f"{gold.path} has changed since it was sealed", size=now.size, sealed_size=seal.stamp.size)
    if need(gold.sha256) != seal.sha256:
        yield failed(f"{gold.path} has changed since it was sealed, and its times were set back")


def _writers(host: Host, path: str) -> list[str]:
    """Names of the VMs that have this very image as a disk they may write to."""
    return [
        domain.name
        for domain in need(host.domains.all)
        if any(disk.source == path and not disk.read_only for disk in domain.disks)
    ]


@control("GLD-03")
def no_secrets_inside(host: Host, _context: Context) -> Iterable[Verdict]:
    """A secret in a gold image is known to all who may start a clone."""

    def judge(gold: Gold) -> Verdict:
        found = need(gold.guest.secrets)
        certain = [f"{one.path} ({one.rule})" for one in found if one.certain]
        likely = [f"{one.path} ({one.rule})" for one in found if not one.certain]
        if certain:
            return failed(f"{gold.path} holds secrets: {_some(certain)}", secrets=certain, likely=likely)
        if likely:
            return failed(f"{gold.path} may hold secrets: {_some(likely)}", lower=1, likely=likely)
        return passed(f"no secret was found in {gold.path}")

    yield from _each_gold(host, judge)


@control("GLD-04")
def no_host_keys_inside(host: Host, _context: Context) -> Iterable[Verdict]:
    """Clones with one host key can be taken for each other."""

    def judge(gold: Gold) -> Verdict:
        keys = need(gold.guest.host_keys, absent=())
        if not keys:
            return passed(f"there are no host keys in {gold.path}")
        files = [key.path for key in keys]
        if need(gold.guest.makes_host_keys):
            return passed(f"{gold.path} has host keys, and makes new ones at its first boot", files=files)
        return failed(f"all clones of {gold.path} share its SSH host keys: {_some(files)}", files=files)

    yield from _each_gold(host, judge)


@control("GLD-05")
def identities_reset(host: Host, _context: Context) -> Iterable[Verdict]:
    """Clones with one machine-id or initiator name share leases, journals and disks."""

    def judge(gold: Gold) -> Verdict:
        fields = gold.guest.identities
        kept = [name for name in _TEMPLATE_IDENTITIES if isinstance(fields.get(name), Known)]
        if kept:
            return failed(f"{gold.path} keeps what each clone must make for itself: {_some(kept)}", fields=kept)
        for name in ("machine-id", *_TEMPLATE_IDENTITIES[1:]):
            if name not in fields:
                return unknown(f"nobody looked for the {name} in {gold.path}")
            need(fields[name], absent="")
        if isinstance(fields.get("random seed"), Known):
            return failed(f"all clones of {gold.path} begin with one random seed", lower=1, fields="random seed")
        return passed(f"{gold.path} has no identity of its own")

    yield from _each_gold(host, judge)


@control("GLD-06")
def no_default_password(host: Host, _context: Context) -> Iterable[Verdict]:
    """A password in a gold image opens every clone."""

    def judge(gold: Gold) -> Verdict:
        usable = [one for one in need(gold.guest.accounts) if one.usable]
        shown = [f"{one.name} ({one.password})" for one in usable]
        if usable:
            return failed(f"{_some(shown)} can log in with the password that is in {gold.path}", accounts=shown)
        return passed(f"nobody can log in to clones of {gold.path} with a password")

    yield from _each_gold(host, judge)


@control("GLD-07")
def no_leftovers_inside(host: Host, _context: Context) -> Iterable[Verdict]:
    """Leases, logs and names of another machine mislead whoever looks into an incident."""

    def judge(gold: Gold) -> Verdict:
        found = need(gold.guest.leftovers)
        if found:
            return failed(f"{gold.path} holds what another machine left: {_some(found)}", lower=1, paths=found)
        return passed(f"nothing of another machine was found in {gold.path}")

    yield from _each_gold(host, judge)


@control("GLD-08")
def image_patched(host: Host, context: Context) -> Iterable[Verdict]:
    """Every clone begins with the holes of its gold image."""

    def judge(gold: Gold) -> Verdict:
        if isinstance(gold.seal, Known):
            age = (context.today - gold.seal.value.sealed.astimezone(UTC).date()).days
            if age > context.profile.ages.gold_image:
                return failed(f"{gold.path} is {age} days old", days=age, most=context.profile.ages.gold_image)
        return judge_packages(gold.guest, gold.path, context)

    yield from _each_gold(host, judge)


@control("GLD-09")
def clones_as_their_image(host: Host, context: Context) -> Iterable[Verdict]:
    """What was examined once is worth nothing for a clone that went its own way."""
    pairs = _clones(host, context)

    def judge(pair: tuple[Gold, Domain]) -> Verdict:
        gold, vm = pair
        if vm.uuid not in host.guests:
            return unknown(f"no disk of {vm.name} was read")
        drift = drift_of(need(gold.seal).guest, host.guests[vm.uuid], context.profile.no_drift)
        return _judge_drift(drift, gold, vm)

    yield from each(
        pairs,
        judge,
        subject=lambda pair: pair[1].uuid,
        name=lambda pair: pair[1].name,
        none="the profile names no clones of a gold image",
    )


def _judge_drift(drift: Drift, gold: Gold, vm: Domain) -> Verdict:
    parts = {name: len(getattr(drift, name).all) for name in ("packages", "configs", "users", "units")}
    counts = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    if drift.forbidden:
        return failed(
            f"{vm.name} differs from {gold.path} where it must not: {_some(drift.forbidden)}",
            score=drift.score,
            paths=drift.forbidden,
            differences=counts,
        )
    if drift.unknown:
        return unknown(f"{vm.name} cannot be compared: {next(iter(drift.unknown.values()))}")
    return passed(
        f"{vm.name} is as {gold.path} where it must be; drift score {drift.score}",
        score=drift.score,
        differences=counts,
    )


def _clones(host: Host, context: Context) -> list[tuple[Gold, Domain]]:
    clones = context.profile.clones
    if not clones:
        return []
    if host.gold is None:
        raise Unseen("no register of gold images was read")
    known = {gold.path: gold for gold in host.gold}
    return [
        (known.get(path, Gold(path)), domain)
        for path, names in clones.items()
        for domain in need(host.domains.all)
        if matches(domain.name, names)
    ]


@control("GLD-10")
def clones_have_own_identity(host: Host, context: Context) -> Iterable[Verdict]:
    """Whoever owns one of two guests with one identity can pass for the other."""
    owners = _owners(context.fleet)
    if sum(len(one.guests) for one in context.fleet) < 2:
        vms = sum(len(one.domains.all.value) for one in context.fleet if isinstance(one.domains.all, Known))
        if vms >= 2 or any(not isinstance(one.domains.all, (Known, Absent)) for one in context.fleet):
            raise Unseen("no disks of at least two guests were read")
        yield not_applicable("there are not two guests")
        return
    names = {vm.uuid: vm.name for vm in host.domains.all.value} if isinstance(host.domains.all, Known) else {}
    yield from each(
        host.guests.items(),
        lambda item: _judge_identity(item[0], item[1], owners),
        subject=lambda item: item[0],
        name=lambda item: names.get(item[0], ""),
        none="no guest of this host was read",
    )


def _owners(fleet: Iterable[Host]) -> dict[tuple[str, str], set[str]]:
    """(what, digest) -> the guests that have it."""
    owners: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for host in fleet:
        for uuid, guest in host.guests.items():
            for what in _identity_of(guest):
                owners[what].add(uuid)
    return owners


def _identity_of(guest: Guest) -> Iterator[tuple[str, str]]:
    for name in _TEMPLATE_IDENTITIES:
        fact = guest.identities.get(name)
        if isinstance(fact, Known):
            yield name.removeprefix("dbus "), fact.value
    keys = guest.host_keys.value if isinstance(guest.host_keys, Known) else ()
    yield from (("SSH host key", key.fingerprint) for key in keys if key.fingerprint)


def _judge_identity(uuid: str, guest: Guest, owners: dict[tuple[str, str], set[str]]) -> Verdict:
    shared = {what: owners[what] - {uuid} for what in _identity_of(guest) if len(owners[what]) > 1}
    if shared:
        kinds = sorted({kind for kind, _ in shared})
        others = sorted(set().union(*shared.values()))
        values = sorted(digest[:12] for _, digest in shared)
        return failed(f"it shares its {_some(kinds)} with {_some(others)}", guests=others, digests=values)
    need(guest.host_keys, absent=())
    _need_all(guest.identities, _TEMPLATE_IDENTITIES)
    return passed("its machine-id, host keys and initiator names are its own")


def _need_all(fields: dict[str, Fact[str]], names: Iterable[str]) -> None:
    for name in names:
        if name not in fields:
            raise Unseen(f"nobody looked for its {name}")
        need(fields[name], absent="")


@control("GLD-12")
def template_is_whole(host: Host, _context: Context) -> Iterable[Verdict]:
    """A template that needs what is not there makes clones that do not start, or start from something else."""

    def judge(gold: Gold) -> Verdict:
        missing = [f"{one.kind} {one.target}" for one in need(gold.references, absent=()) if not one.there]
        if missing:
            return failed(f"{gold.path} needs what does not exist here: {_some(missing)}", missing=missing)
        return passed(f"all that {gold.path} needs is there")

    templates = [vm for vm in need(host.domains.all, absent=()) if vm.template]
    if host.gold is None and not templates:
        raise Unseen("no register of gold images was read")
    if not host.gold and not templates:
        yield not_applicable(NONE)
        return
    yield from (one for one in each(host.gold or (), judge, subject=lambda gold: gold.path, none=NONE) if one.subject)
    yield from (
        each(
            templates,
            lambda vm: _judge_template(vm, host),
            subject=lambda vm: vm.uuid,
            name=lambda vm: vm.name,
            none="",
        )
        if templates
        else ()
    )


def _judge_template(vm: Domain, host: Host) -> Verdict:
    links = need(host.network.links)
    missing = sorted(nic.source for nic in vm.nics if nic.kind == "bridge" and nic.source not in links)
    if missing:
        return failed(f"the template {vm.name} needs bridges that do not exist here: {_some(missing)}", missing=missing)
    return passed(f"the bridges of the template {vm.name} exist")
