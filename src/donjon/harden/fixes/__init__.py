# SPDX-License-Identifier: Apache-2.0
"""The fixes, modules by area of the catalogue; importing this registers them all."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from donjon.harden.change import Fix, registered

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def fixes() -> dict[str, Fix]:
    """Control -> fix, for all that have one."""
    return registered()
