# SPDX-License-Identifier: Apache-2.0
"""The fixes, a module for each area of the catalogue; importing this registers them all."""

from importlib import import_module

from donjon.audit.controls import AREAS

for _area in AREAS:
    import_module(f"donjon.harden.fixes.{_area}")
