# SPDX-License-Identifier: Apache-2.0
"""The firewall that fixes want, on a real host: administrators get in, others do not, and rollback opens it again."""

from __future__ import annotations

import io
import socket
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script
from donjon.audit.collect.target import Target
from donjon.audit.fact import Known
from donjon.audit.facts.host import Host, read_host
from donjon.audit.judge import Judgement, judge
from donjon.audit.profile import Allow, Networks, Profile
from donjon.audit.verdict import Status
from donjon.harden.apply import State, apply, confirm, rollback
from donjon.harden.planning import make_plan
from donjon.harden.runner import HostRunner
from lab import LabUnavailableError
from lab.ssh_host import ADDRESS, CONTROLLER, SshHost, ssh_host
from tests.unit.audit.control_cases import Answer, Machine, host_of

pytestmark = [pytest.mark.root, pytest.mark.system]

ADMIN, STRANGER, HOST = "10.91.9.5", "10.91.9.66", "10.91.9.130"
PROFILE = Profile("told", networks=Networks(management=("10.91.9.0/28",)), allow=Allow(listeners=("tcp/9100",)))
PORTS = (22, 5901, 8899, 9100, 16514)
SERVER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in sys.argv[1:]:
    waiting.register(socket.create_server(("0.0.0.0", int(port))), selectors.EVENT_READ)
open("/run/serves", "w").close()
while True:
    for key, _ in waiting.select():
        key.fileobj.accept()[0].close()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    try:
        with ssh_host() as booted:
            link = _link_to(CONTROLLER)
            booted.does(f"ip address add {HOST}/24 dev eth0")
            for address in (ADMIN, STRANGER):
                subprocess.run(["ip", "address", "add", f"{address}/24", "dev", link], check=True)
            program = tmp_path_factory.mktemp("server") / "server.py"
            program.write_text(SERVER)
            ports = " ".join(str(port) for port in PORTS if port != 22)
            booted.does(f"setsid python3 {program} {ports} </dev/null >/dev/null 2>&1 &")
            booted.does(
                "for _ in 1 2 3 4 5 6 7 8 9; do [ -e /run/serves ] && break; sleep 0.3; done; [ -e /run/serves ]"
            )
            yield booted
    except LabUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def runner(host: SshHost) -> HostRunner:
    return HostRunner(Target(ADDRESS), ("-F", str(host.ssh_config)))


def _link_to(address: str) -> str:
    """The interface here that has this address."""
    shown = subprocess.run(["ip", "-o", "address", "show", "to", address], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def connects(source: str, port: int, to: str = HOST) -> bool:
    try:
        with socket.create_connection((to, port), timeout=0.7, source_address=(source, 0)):
            return True
    except OSError:
        return False


def facts(runner: HostRunner) -> Host:
    """As they are collected, but that no libvirt runs on this host which could be asked for its networks."""
    host = read_host(read_bundle(io.BytesIO(runner.run(script().encode(), timeout_s=120).out)))
    return replace(host, domains=replace(host.domains, networks=Known({}, "no libvirt")))


def judged(host: Host, *controls: str) -> Judgement:
    return judge([host], PROFILE, date(2026, 11, 23), controls)


def failed(judgement: Judgement) -> set[tuple[str, str]]:
    return {(one.control, one.subject) for one in judgement.results if one.status is Status.FAIL}


def test_only_who_is_told_gets_in_and_rollback_opens_all_again(host: SshHost, runner: HostRunner) -> None:
    host.does("nft add table inet others")
    before = host.does("nft list ruleset")
    assert all(connects(source, port) for source in (ADMIN, STRANGER) for port in PORTS)
    seen = facts(runner)
    judgement = judged(seen, "NET-01", "NET-02")
    assert failed(judgement) == {("NET-01", "IPv4"), *(("NET-02", f"tcp/{port}") for port in (22, 5901, 16514))}
    plan = make_plan(judgement, seen, PROFILE, runner)
    assert plan.guarded
    assert plan.instructions == ()
    assert apply(plan, runner) is State.WAITING
    assert connects(CONTROLLER, 22, ADDRESS), "whoever applied it is kept in"
    assert {port for port in PORTS if connects(ADMIN, port)} == {22, 9100, 16514}
    assert {port for port in PORTS if connects(STRANGER, port)} == {9100}
    assert confirm(plan.id, runner) is State.CONFIRMED
    assert failed(judged(facts(runner), "NET-01", "NET-02")) == set()
    assert rollback(plan.id, runner) is State.REVERTED
    assert host.does("nft list ruleset") == before
    assert all(connects(source, port) for source in (ADMIN, STRANGER) for port in PORTS)


def test_the_twin_of_the_agents_list_lets_in_whom_the_list_does(host: SshHost, runner: HostRunner) -> None:
    before = host.does("nft list ruleset")
    machine = Machine(
        "O",
        commands={
            "machine-id": Path(host.at("/etc/machine-id")).read_text(),
            "ip-addresses": '[{"ifname":"eth0","addr_info":[{"local":"10.91.9.130","prefixlen":24}]}]',
            "listeners": "Netid State Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n",
            "ovs-agent-server": Answer(rc=127),
            "nft-ruleset": '{"nftables": []}',
            **dict.fromkeys(("iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy"), ""),
        },
        files={"/etc/ovs-agent/agent.ini": "allow=10.91.9.0/24\ndeny=10.91.9.64/28\n"},
        absent=("/etc/ovs-agent/*.ini", "/etc/ovs-agent/*.conf"),
    )
    judgement = judged(host_of(machine), "AGT-05")
    plan = make_plan(judgement, host_of(machine), PROFILE, runner)
    assert apply(plan, runner) is State.WAITING
    assert (connects(ADMIN, 8899), connects(STRANGER, 8899)) == (True, False)
    assert connects(STRANGER, 9100), "it is about the agent's port alone"
    assert rollback(plan.id, runner) is State.REVERTED
    assert connects(STRANGER, 8899)
    assert host.does("nft list ruleset") == before
