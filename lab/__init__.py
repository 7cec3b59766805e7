# SPDX-License-Identifier: Apache-2.0
"""A real small guest and a libvirt of its own to run it, for the demo and the system tests; not part of the product."""

from __future__ import annotations

from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"


class LabError(Exception):
    """The lab did not do what was asked of it; the message says what and why."""


class LabUnavailableError(LabError):
    """The lab cannot run on this machine; the message says what is missing."""
