# SPDX-License-Identifier: Apache-2.0
"""What a guest that ran before it became an image left behind: names, leases, logs, mail, jobs.

Source: virt-sysprep(1), "OPERATIONS"; udev(7); nm-settings(5); netplan(5).
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from donjon.audit.guest.tree import GuestTree
from donjon.guest_files.messages import Entry

_MAC = r"(?im)^\s*(mac-address|cloned-mac-address|hwaddr|macaddress|macaddr)\s*[=:]\s*[\"']?[0-9a-f]{2}:"
_FILLED = (
    ("/etc/udev/rules.d", "*persistent-net.rules", "network cards by their address"),
    ("/var/lib/dhcp", "*lease*", "DHCP lease"),
    ("/var/lib/dhclient", "*lease*", "DHCP lease"),
    ("/var/lib/NetworkManager", "*.lease", "DHCP lease"),
    ("/var/log", "*", "log"),
    ("/var/mail", "*", "mail"),
    ("/var/spool/mail", "*", "mail"),
    ("/var/spool/cron", "*", "crontab"),
    ("/var/spool/cron/crontabs", "*", "crontab"),
    ("/tmp", "*", "temporary file"),  # noqa: S108 -- of the guest
    ("/var/tmp", "*", "temporary file"),  # noqa: S108 -- of the guest
)
_SAYING = (
    ("/etc/NetworkManager/system-connections", _MAC, "connection of one network card"),
    ("/etc/netplan", _MAC, "connection of one network card"),
    ("/etc/sysconfig/network-scripts", _MAC, "connection of one network card"),
    ("/etc/systemd/network", _MAC, "connection of one network card"),
)
_PLAIN_NAMES = frozenset({"", "localhost", "localhost.localdomain", "debian", "(none)", "uninitialized"})


def find_leftovers(tree: GuestTree) -> tuple[str, ...]:
    """All that is found, as "PATH: WHAT". Raises Unseen."""
    found = [
        f"{path}: {what}"
        for folder, pattern, what in _FILLED
        for path, entry in tree.files(folder)
        if entry.size and fnmatchcase(path.rpartition("/")[2], pattern)
    ]
    for folder, pattern, what in _SAYING:
        found += [f"{path}: {what}" for path, _ in tree.files(folder) if re.search(pattern, tree.text(path))]
    found += [f"{path}: journal" for path, entry in tree.below("/var/log/journal", 2) if stat.S_ISREG(entry.mode)]
    found += _if(tree, "/etc/hostname", "host name", lambda text: text.strip() not in _PLAIN_NAMES)
    found += _if(tree, "/etc/resolv.conf", "name server", lambda text: bool(re.search(r"(?m)^\s*nameserver\s", text)))
    return tuple(sorted(found))


def _if(tree: GuestTree, path: str, what: str, says: Callable[[str], bool]) -> Iterator[str]:
    try:
        entry: Entry = tree.entry(path)
        if stat.S_ISREG(entry.mode) and says(tree.text(path)):
            yield f"{path}: {what}"
    except FileNotFoundError:
        return
