# SPDX-License-Identifier: Apache-2.0
"""Decision tables about the network: who may reach which service, xend's listeners and patterns, Open vSwitch."""

from __future__ import annotations

import csv
from datetime import date
from pathlib import Path

import pytest

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.controls.agt_xend import counter_example
from donjon.audit.controls.net_services import service_of
from donjon.audit.facts.host import read_host
from donjon.audit.facts.listeners import Listener
from donjon.audit.judge import judge
from donjon.audit.profile import Profile

TABLES = Path(__file__).parents[2] / "data" / "decisions"
XEND = "/etc/xen/xend-config.sxp"


def table(name: str) -> list[object]:
    with (TABLES / name).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter=";", quoting=csv.QUOTE_NONE))[1:]
    return [pytest.param(*row, id=" ".join(row[:3])) for row in rows]


@pytest.mark.parametrize(("name", "kinds", "port", "process", "allowed"), table("service_roles.csv"))
def test_a_service_is_for_those_the_table_names(name: str, kinds: str, port: str, process: str, allowed: str) -> None:
    service = service_of(Listener("tcp", "::", int(port), process), kinds)
    assert service is not None
    assert set(allowed.split()) == set(service.allowed)


def test_a_port_means_what_it_does_on_this_kind_of_host_alone() -> None:
    assert service_of(Listener("tcp", "::", 8899), "K") is None
    assert service_of(Listener("udp", "::", 22), "K") is None


@pytest.mark.parametrize(("pattern", "result", "example"), table("relocation_patterns.csv"))
def test_a_pattern_of_hosts_is_judged_by_what_else_it_lets_in(pattern: str, result: str, example: str) -> None:
    escaped = pattern.replace("\\", "\\\\")
    text = f"(xend-relocation-server yes)\n(xend-relocation-hosts-allow '{escaped}')\n"
    assert xend_says("AGT-06", text) == {result}
    if result == "fail":
        assert counter_example(pattern) == example


@pytest.mark.parametrize(("setting", "control", "result"), table("xend_listeners.csv"))
def test_a_listener_of_xend_is_judged_by_its_built_in_default(setting: str, control: str, result: str) -> None:
    assert xend_says(control, f"({setting})\n" if setting else "# nothing is set\n") == {result}


def xend_says(control: str, settings: str) -> set[str]:
    commands = {"hypervisors": Output(0, "oracle-vm\n"), "listeners": Output(0, "Netid State\n")}
    host = read_host(Bundle(Manifest(), commands, {XEND: settings}))
    return {one.status.value for one in judge([host], Profile("test"), date(2026, 11, 23), (control,)).results}
