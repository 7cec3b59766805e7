# SPDX-License-Identifier: Apache-2.0
"""Fix of NET-03: the rules that run are stored for the next boot, where nothing is stored that would be lost.

Source: nft(8), iptables-save(8); Debian's nftables.service and netfilter-persistent, Red Hat's iptables.service.
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.firewall import has_own_rules
from donjon.audit.facts.host import Host
from donjon.audit.facts.ruleset import Ruleset
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, fix, words

_OF_IPTABLES = {"INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_/.-]*")
_STATE = """\
if [ -f {file} ]; then echo there; cat {file}; else echo absent; fi"""
_DO = """\
mkdir -p {folder}
cp -p {file} {new} 2>/dev/null || :
{{ {listing}; }} >{new}
{check}
sync
mv -f {new} {file}"""
_UNDO = """\
rm -f {new}
if [ "$(sed -n 1p "$BEFORE")" = there ]; then
    cp -p {file} {new} 2>/dev/null || :
    sed 1d "$BEFORE" >{new}
    mv -f {new} {file}
else
    rm -f {file}
fi"""


class _Keeper(Struct, frozen=True):
    """A unit that loads rules at boot; `files`: where from -> sh that prints what runs, sh that checks it ({new})."""

    unit: str
    files: dict[str, tuple[str, str]]


@fix("NET-03")
def rules_stored(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Whoever can load rules at boot is given those that run; where others are stored, a person must choose.

    Raises:
        Unseen: nobody here could load them, or something else is stored.
    """
    ruleset = need(host.firewall.running, absent=Ruleset())
    own = _own_tables(ruleset)
    if not own or isinstance(host.firewall.firewalld, Known):
        raise Unseen("firewalld keeps its own rules: see `firewall-cmd --runtime-to-permanent`")
    old = {place for place, chains in own.items() if _OF_IPTABLES & set(chains)}
    if old and old != own.keys():
        raise Unseen("rules of iptables and of nftables run side by side, and no single service keeps both")
    keepers = _of_iptables() if old else [_of_nftables(host, own)]
    stored = host.firewall.stored_iptables if old else host.firewall.stored_nft
    units = need(host.units.all)
    keeper = next((one for one in keepers if one.unit in units), None)
    if keeper is None:
        raise Unseen(f"none of {', '.join(one.unit for one in keepers)} is installed")
    if has_own_rules(need(stored, absent=Ruleset())):
        raise Unseen("other rules are stored than run; which of them are meant, only a person can tell")
    return Change(
        f"{keeper.unit} loads at boot the rules that run now",
        (*(_stored(path, *how) for path, how in keeper.files.items()), _enabled(keeper.unit)),
    )


def _own_tables(ruleset: Ruleset) -> dict[tuple[str, str], tuple[str, ...]]:
    """Family and table -> chains, of those the operator made."""
    tables: dict[tuple[str, str], Ruleset] = {}
    for chain in ruleset.chains:
        before = tables.get((chain.family, chain.table), Ruleset())
        tables[chain.family, chain.table] = Ruleset((*before.chains, chain))
    return {place: tuple(chain.name for chain in one.chains) for place, one in tables.items() if has_own_rules(one)}


def _of_nftables(host: Host, tables: dict[tuple[str, str], tuple[str, ...]]) -> _Keeper:
    if odd := [name for _, name in tables if not _NAME.fullmatch(name)]:
        raise Unseen(f"{odd[0]!r} is no name of a table")
    red_hat = "rhel" in (release := need(host.platform.release)).like or release.id in {"rhel", "fedora"}
    lists = "; ".join(words("nft", "-s", "list", "table", family, name) for family, name in sorted(tables))
    listing = f"echo '#!/usr/sbin/nft -f'; echo 'flush ruleset'; {lists}"
    path = "/etc/sysconfig/nftables.conf" if red_hat else "/etc/nftables.conf"
    return _Keeper("nftables.service", {path: (listing, "nft -c -f {new}")})


def _of_iptables() -> list[_Keeper]:
    """What libvirt adds by itself is not stored: it would be there twice."""
    lists = {name: f"{name}-save | sed /LIBVIRT_/d" for name in ("iptables", "ip6tables")}
    debian = {"iptables": "/etc/iptables/rules.v4", "ip6tables": "/etc/iptables/rules.v6"}
    return [
        _Keeper(unit, {path(name): (listing, f"{name}-restore --test <{{new}}") for name, listing in lists.items()})
        for unit, path in (
            ("netfilter-persistent.service", debian.__getitem__),
            ("iptables.service", lambda name: f"/etc/sysconfig/{name}"),
        )
    ]


def _stored(path: str, listing: str, check: str) -> Command:
    names = {
        "file": f'"$ROOT{path}"',
        "new": f'"$ROOT{path}.donjon-new"',
        "folder": f'"$ROOT{path.rpartition("/")[0]}"',
    }
    return Command(
        f"store the running rules in {path}",
        _DO.format(listing=listing, check=check.format(**names), **names),
        _UNDO.format(**names),
        _STATE.format(**names),
    )


def _enabled(unit: str) -> Command:
    """It is not started: that would load the rules anew, and drop those of others."""
    return Command(
        f"{unit} runs at boot",
        words("systemctl", "enable", "--", unit),
        f'grep -qx enabled "$BEFORE" || {words("systemctl", "disable", "--", unit)}',
        f"{words('systemctl', 'is-enabled', '--', unit)} || :",
    )
