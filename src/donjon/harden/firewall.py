# SPDX-License-Identifier: Apache-2.0
"""donjon's own firewall table, `table inet donjon`: changed in one transaction, kept over a reboot when confirmed.

No other table is touched. An accept in one table or chain does not override a drop in another: what donjon adds can
only tighten. Source: nft(8), "verdict statements", "sets" (auto-merge: nft 0.8.1 and later).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from donjon.harden.change import Chain, Command

KEPT_AT = "/etc/donjon/firewall.nft"
_NEIGHBOURS = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit, packet-too-big"
"""Without these there is no IPv6 at all: RFC 4890, section 4.4.1."""
_UNIT = "/etc/systemd/system/donjon-firewall.service"
_UNIT_TEXT = f"""\
[Unit]
Description=Firewall table of donjon
DefaultDependencies=no
Before=network-pre.target shutdown.target
Wants=network-pre.target
After=local-fs.target
Conflicts=shutdown.target
ConditionPathExists={KEPT_AT}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {KEPT_AT}

[Install]
WantedBy=sysinit.target
"""
_LISTING = "nft -s list table inet donjon 2>/dev/null || :"
_PEER = """\
set -- $(session)
case $1 in
on) ;;
*:*) echo "add element inet donjon admins6 { ${1%%%*} }"; echo "add element inet donjon admin_ports { $4 }" ;;
*) echo "add element inet donjon admins4 { $1 }"; echo "add element inet donjon admin_ports { $4 }" ;;
esac
"""
_PUT_BACK = """\
{ echo 'add table inet donjon'; echo 'delete table inet donjon'; cat "$BEFORE"; } | nft -f -"""
_KEEP = f"""\
mkdir -p "$ROOT/etc/donjon"
{{
    echo 'add table inet donjon'
    echo 'delete table inet donjon'
    nft -s list table inet donjon
}} >"$ROOT{KEPT_AT}.new"
sync
mv -f "$ROOT{KEPT_AT}.new" "$ROOT{KEPT_AT}"
if [ -d "$ROOT/run/systemd/system" ]; then
    cat >"$ROOT{_UNIT}" <<'UNIT'
{_UNIT_TEXT}UNIT
    mkdir -p "$ROOT/etc/systemd/system/sysinit.target.wants"
    ln -sf ../donjon-firewall.service "$ROOT/etc/systemd/system/sysinit.target.wants/donjon-firewall.service"
elif script=$(rc_local); then
    grep -q '{KEPT_AT}' "$script" || {{ sed '1a\\
nft -f {KEPT_AT}' "$script" | retext "$script"; }}
else
    echo 'nothing here could load the firewall at boot' >&2
    exit 1
fi
sync"""
_FORGET = f"""\
if [ -s "$BEFORE" ]; then
    cat "$BEFORE" >"$ROOT{KEPT_AT}.new"
    mv -f "$ROOT{KEPT_AT}.new" "$ROOT{KEPT_AT}"
else
    rm -f "$ROOT{KEPT_AT}" "$ROOT{_UNIT}" "$ROOT/etc/systemd/system/sysinit.target.wants/donjon-firewall.service"
    if script=$(rc_local) && grep -q '{KEPT_AT}' "$script"; then
        sed '\\|nft -f {KEPT_AT}|d' "$script" | retext "$script"
    fi
fi"""


def transaction(chains: Iterable[Chain], admin: tuple[str, int] | None) -> str:
    """What nft is told: sets of those who stay in, and the chains, replaced one by one. `admin`: address, ssh port."""
    return "\n".join([*_sets(chains, admin), *(line for chain in chains for line in _chain(chain))]) + "\n"


def commands(chains: tuple[Chain, ...], admin: tuple[str, int] | None) -> tuple[Command, Command]:
    """What is done when the plan is applied, and what when it is confirmed.

    Whoever applies the plan is kept in, too, should he come from another address than when it was planned.
    """
    names = ", ".join(chain.name for chain in chains)
    do = f"{{ cat <<'RULES'\n{transaction(chains, admin)}RULES\n{_PEER}}} | nft -f -"
    return (
        Command(f"firewall table inet donjon: {names}", do, _PUT_BACK, _LISTING),
        Command(
            "firewall table inet donjon: kept over a reboot", _KEEP, _FORGET, f'cat "$ROOT{KEPT_AT}" 2>/dev/null || :'
        ),
    )


def preview(chains: tuple[Chain, ...]) -> str:
    """Sh that lets nft check the transaction without doing it."""
    return f"nft -c -f - 2>&1 <<'RULES'\n{transaction(chains, None)}RULES"


def kept_in(chains: Iterable[Chain], admin: tuple[str, int] | None) -> tuple[str, ...]:
    """Addresses and networks that no chain shuts out of ssh."""
    told = [address for chain in chains for address in chain.admins]
    return tuple(dict.fromkeys([*([admin[0]] if admin else []), *told]))


def _sets(chains: Iterable[Chain], admin: tuple[str, int] | None) -> Iterator[str]:
    yield "add table inet donjon"
    for version in (4, 6):
        yield f"add set inet donjon admins{version} {{ type ipv{version}_addr; flags interval; auto-merge; }}"
    yield "add set inet donjon admin_ports { type inet_service; }"
    yield f"add element inet donjon admin_ports {{ 22{f', {admin[1]}' if admin and admin[1] != 22 else ''} }}"
    for address in kept_in(chains, admin):
        network = ipaddress.ip_network(address, strict=False)
        yield f"add element inet donjon admins{network.version} {{ {network} }}"


def _chain(chain: Chain) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9]+", "_", chain.name.lower())
    yield f"add chain inet donjon {name} {{ type filter hook {chain.hook} priority 10; policy {chain.policy}; }}"
    yield f"flush chain inet donjon {name}"
    yield f"add rule inet donjon {name} ct state established,related accept"
    if chain.hook == "input":
        yield f'add rule inet donjon {name} iif "lo" accept'
        yield f"add rule inet donjon {name} icmpv6 type {{ {_NEIGHBOURS} }} accept"
        for family, version in (("ip", 4), ("ip6", 6)):
            yield f"add rule inet donjon {name} {family} saddr @admins{version} tcp dport @admin_ports accept"
    for rule in chain.rules:
        yield f"add rule inet donjon {name} {rule}"
