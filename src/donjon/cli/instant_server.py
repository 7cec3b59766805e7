# SPDX-License-Identifier: Apache-2.0
"""Entry of the process that serves a VM's disks from the repository; not for people."""

from __future__ import annotations

import sys

from donjon.restore.server_process import serve
from donjon.wiring import open_store

if __name__ == "__main__":
    sys.exit(serve(sys.stdin.buffer.read(), open_store, sys.stdout.buffer))
