# SPDX-License-Identifier: Apache-2.0
"""How the C library's allocator is made to suit us: it hoards what was freed, or hands it back too eagerly.

Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
from typing import Any

_libc: Any = ctypes.CDLL(None)


def give_back_memory() -> None:
    """Return memory that was freed to the system, also from the middle of the heap; nothing where that cannot be."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
