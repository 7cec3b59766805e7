# SPDX-License-Identifier: Apache-2.0
"""What rules about VMs share: one verdict for each VM, and it is the worst that was found."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from donjon.audit.fact import Unseen, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Status, Verdict, each, passed, unknown

NO_VM = "no VM is defined here"

_ORDER = (Status.FAIL, Status.UNKNOWN, Status.MANUAL, Status.PASS, Status.NOT_APPLICABLE)


def each_vm(host: Host, find: Callable[[Domain], Iterable[Verdict]], *, good: str) -> Iterator[Verdict]:
    """The worst that `find` says of each VM; it passes if there is nothing to say, and `good` says why."""
    domains = need(host.domains.all)
    return each(
        domains,
        lambda vm: worst(find(vm), good),
        subject=lambda vm: vm.key,
        name=lambda vm: vm.name,
        none=NO_VM,
    )


def worst(verdicts: Iterable[Verdict], good: str) -> Verdict:
    """The worst of them, which says how many more there are of its kind; passed if there is none."""
    found = sorted(_seen(verdicts), key=_rank)
    if not found:
        return passed(good)
    first = found[0]
    others = tuple(dict.fromkeys(one.summary for one in found[1:] if one.status is first.status))
    others = tuple(summary for summary in others if summary != first.summary)
    if not others:
        return first
    evidence = {**first.evidence, "also": "; ".join(others)}
    return Verdict(first.status, first.summary, first.subject, first.name, first.severity, first.lower, evidence)


def _seen(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """All that could be said before something could not be seen, and that it could not."""
    try:
        yield from verdicts
    except Unseen as unseen:
        yield unknown(str(unseen))


def _rank(verdict: Verdict) -> tuple[int, int, int]:
    return _ORDER.index(verdict.status), verdict.severity.rank if verdict.severity else 0, verdict.lower


def is_private(address: str) -> bool:
    """Whether an address to listen on is reached from this host only: loopback, a socket, or none at all."""
    if address in {"none", "socket", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(address.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False
