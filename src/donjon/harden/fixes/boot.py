# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area BOOT: see the catalogue."""

from __future__ import annotations
