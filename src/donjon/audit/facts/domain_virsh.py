# SPDX-License-Identifier: Apache-2.0
"""libvirt's VMs as the probes "domains", "domain-pids" and "domain-passwords" print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, derived
from donjon.audit.facts.domain import ConsoleFact, Domain
from donjon.audit.facts.domain_libvirt import parse_libvirt_domain

Passwords = Mapping[tuple[str, str], tuple[tuple[str, ...], ...]]
"""By "live" or "stored" and the VM's name: of each console its kind, yes, no or empty, and when the password ends."""


def read_libvirt_domains(bundle: Bundle) -> Fact[tuple[Domain, ...]]:
    """With process ids, and whether consoles have passwords, if root could see them."""
    pids = {line[0]: line[1] for line in _rows(bundle.output("domain-pids")) if len(line) == 2}
    passwords = _passwords(_rows(bundle.output("domain-passwords")))

    def complete(domain: Domain) -> Domain:
        pid = pids.get(domain.name, "") if domain.running else ""
        stored = domain.stored and replace(domain.stored, consoles=_consoles(domain.stored, "stored", passwords))
        consoles = _consoles(domain, "live" if domain.running else "stored", passwords)
        return replace(domain, pid=int(pid) if pid.isdecimal() else 0, consoles=consoles, stored=stored)

    return derived(bundle.output("domains"), lambda text: tuple(complete(domain) for domain in parse_virsh(text)))


def parse_virsh(text: str) -> tuple[Domain, ...]:
    """The VMs in what the probe prints: lists of UUIDs, and definitions; each after a line that begins with @.

    Raises:
        ValueError: it is not whole, or a VM that is there could not be read.
    """
    parts = dict(_parts(text))
    if "end" not in parts:
        raise ValueError("it is cut off")
    there, autostarted, persistent = (set(parts[name].split()) for name in ("there", "autostart", "persistent"))
    uuids = [name.partition(" ")[2] for name in parts if name.startswith("live ")]
    domains = []
    for uuid in uuids:
        if not parts[f"live {uuid}"].strip():
            if uuid in there:
                raise ValueError(f"VM {uuid} could not be read")
            continue  # it ended while we looked
        domain = parse_libvirt_domain(parts[f"live {uuid}"])
        stored = parts.get(f"stored {uuid}", "").strip()
        domains.append(
            replace(
                domain,
                persistent=uuid in persistent,
                autostart=uuid in autostarted,
                stored=parse_libvirt_domain(stored) if stored and domain.running else None,
            )
        )
    if missing := there - set(uuids):
        raise ValueError(f"VM {min(missing)} came while we looked")
    return tuple(domains)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """What stands after each line that begins with @, by the rest of that line."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("@"):
            yield name, "\n".join(lines)
            name, lines = line[1:].strip(), []
        else:
            lines.append(line)
    yield name, "\n".join(lines)


def _rows(output: Fact[str]) -> list[tuple[str, ...]]:
    if not isinstance(output, Known):
        return []
    return [tuple(line.split("\t")) for line in output.value.splitlines()]


def _passwords(rows: list[tuple[str, ...]]) -> Passwords:
    found: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {}
    for state, name, *console in (row for row in rows if len(row) >= 2):
        found[state, name] = (*found.get((state, name), ()), *([tuple(console)] if len(console) == 3 else []))
    return found


def _consoles(domain: Domain, state: str, passwords: Passwords) -> tuple[ConsoleFact, ...]:
    seen = passwords.get((state, domain.name), ())
    if [console.kind for console in domain.consoles] != [row[0] for row in seen]:
        return domain.consoles
    return tuple(
        replace(console, has_password=flag == "yes", password_expires=until, password_unseen=False)
        for console, (_, flag, until) in zip(domain.consoles, seen, strict=True)
    )
