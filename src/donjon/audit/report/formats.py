# SPDX-License-Identifier: Apache-2.0
"""All formats a report is written in, by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import msgspec

from donjon.audit.report.report import Report

_WRITERS = {
    "html": "html:to_html",
    "sarif": "sarif:to_sarif",
    "junit": "junit:to_junit",
    "ocsf": "ocsf:to_ocsf",
    "oscal": "oscal:to_oscal",
    "csv": "table:to_csv",
}
FORMATS = ("json", *_WRITERS)


def render(report: Report, format_name: str) -> bytes:
    """The report in a format of FORMATS.

    Raises:
        KeyError: there is no such format.
    """
    if format_name == "json":
        return msgspec.json.encode(report) + b"\n"
    module, _, function = _WRITERS[format_name].partition(":")
    writer: Callable[[Report], bytes] = getattr(import_module(f"donjon.audit.report.{module}"), function)
    return writer(report)
