# SPDX-License-Identifier: Apache-2.0
"""Entry of the process that serves a VM's disks from the repository; not for people."""

from __future__ import annotations

import signal
import sys

_STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

if __name__ == "__main__":
    # Before anything starts a thread, as numpy does when it is imported: one without this mask would take the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    from donjon.restore.server_process import serve
    from donjon.wiring import open_store

    sys.exit(serve(sys.stdin.buffer.read(), open_store, sys.stdout.buffer))
