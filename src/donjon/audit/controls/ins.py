# SPDX-License-Identifier: Apache-2.0
"""Rules about the inside of guests, which must be as safe as if there were no hypervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.guest_packages import judge_packages
from donjon.audit.fact import Absent, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.guests import Guest
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

BACKUP_NEEDS = frozenset({"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-info"})
DANGEROUS = (
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-set-user-password",
    "guest-ssh-add-authorized-keys",
)


def _each_guest(host: Host, judge: Callable[[Domain, Guest], Verdict]) -> Iterator[Verdict]:
    """Every VM; one whose disks nobody read is unknown."""

    def one(vm: Domain) -> Verdict:
        if vm.uuid not in host.guests:
            return unknown(f"no disk of {vm.name} was read")
        return judge(vm, host.guests[vm.uuid])

    vms = need(host.domains.all)
    yield from each(vms, one, subject=lambda vm: vm.uuid, name=lambda vm: vm.name, none="no VM is defined here")


@control("INS-02")
def guest_patched(host: Host, context: Context) -> Iterable[Verdict]:
    """No hypervisor protects a guest from a hole in its own services."""
    yield from _each_guest(host, lambda vm, guest: judge_packages(guest, vm.name, context))


@control("INS-04")
def agent_limited(host: Host, context: Context) -> Iterable[Verdict]:
    """Whoever gets the host's end of the agent's channel runs commands as root in the guest."""
    wanted = set(context.profile.allow.guest_agent)

    def judge(vm: Domain, guest: Guest) -> Verdict:
        if isinstance(guest.agent, Absent):
            return not_applicable(f"{vm.name} has no guest agent")
        agent = need(guest.agent)
        open_ = [command for command in DANGEROUS if agent.allows(command) and command not in wanted]
        if open_:
            return failed(f"the guest agent of {vm.name} lets the host do {', '.join(open_)}", commands=open_)
        needed = sorted(command for command in BACKUP_NEEDS if not agent.allows(command))
        note = f"; but backup needs {', '.join(needed)}" if needed else ""
        return passed(
            f"the guest agent of {vm.name} runs no commands and touches no files{note}", allowed=agent.allowed
        )

    yield from _each_guest(host, judge)
