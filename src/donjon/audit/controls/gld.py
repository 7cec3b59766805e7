# SPDX-License-Identifier: Apache-2.0
"""Rules of the area GLD: see the catalogue."""

from __future__ import annotations
