# SPDX-License-Identifier: Apache-2.0
"""The rules, a module for each area of the catalogue; importing this registers them all."""

from __future__ import annotations

from importlib import import_module

from donjon.audit.control import Rule, registered

AREAS = (
    "boot",
    "hyp",
    "hyp_guests",
    "hyp_xen",
    "pat",
    "min",
    "acc",
    "cfg",
    "log",
    "net",
    "tls",
    "agt",
    "gst",
    "gst_devices",
    "gst_disks",
    "gst_system",
    "gnw",
    "gnw_vlan",
    "sto",
    "sto_host",
    "gld",
    "ins",
    "res",
    "bkp",
)

for _area in AREAS:
    import_module(f"donjon.audit.controls.{_area}")


def rules() -> dict[str, Rule]:
    """Control -> rule, for all that are implemented."""
    return registered()
