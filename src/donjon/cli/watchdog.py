# SPDX-License-Identifier: Apache-2.0
"""The process that looks after guests while they are backed up: `python -m donjon.cli.watchdog`, for donjon's own use.

It must be ready soon, so it imports the hypervisor by itself, and the rest of the program only when the backup died.
"""

from __future__ import annotations

import signal
import sys

from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.quiesce.guard import Guard


def main() -> None:
    """Serve the process at the other end of standard input and output. Ends by itself, and not before."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Guard(sys.stdout.buffer, LibvirtHypervisor, settle_all).serve(sys.stdin.buffer)


def settle_all() -> bool:
    """Undo what dead processes owe; whether nothing is left. Raises DonjonError."""
    from donjon.cli.session import settle
    from donjon.wiring import Program

    with Program().open_ledger() as ledger:
        _, left = settle(ledger)
    return not left


if __name__ == "__main__":
    main()
