# SPDX-License-Identifier: Apache-2.0
"""Hardening: what an audit found is fixed, in a way that can be read before and undone after."""
