# SPDX-License-Identifier: Apache-2.0
"""A host is hardened over ssh; whoever is cut off, dies or loses power over it finds the host as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from donjon.audit.collect.target import Target
from donjon.errors import HostError, RefusedError
from donjon.harden.apply import State, apply, confirm, pending, rollback
from donjon.harden.change import Chain, Change, Command, Edit
from donjon.harden.editors import assignments, whole
from donjon.harden.fixes.acc import SSHD_DROP_IN, sshd_set
from donjon.harden.plan import Plan
from donjon.harden.planning import save
from donjon.harden.runner import HostRunner, Output
from donjon.harden.services import SSHD_RELOADED
from lab import LabUnavailableError
from lab.ssh_host import ADDRESS, CONTROLLER, SshHost, ssh_host
from tests.system.hardening import guarded, planned, settled

pytestmark = [pytest.mark.root, pytest.mark.system]

# Cuts off everybody who comes over the network, those who are connected, too.
CUT = Command(
    "cut",
    "nft 'add table inet cut; add chain inet cut gate { type filter hook input priority 0; policy drop; }'",
    "! nft list table inet cut >/dev/null 2>&1 || nft delete table inet cut",
)
CONF = "/etc/one.conf"
EDIT = Edit(CONF, assignments({"key": "new"}))
CONTROLLER_PROGRAM = """\
import sys
from pathlib import Path
from donjon.audit.collect.target import Target
from donjon.harden.apply import apply
from donjon.harden.planning import load
from donjon.harden.runner import HostRunner
apply(load(Path(sys.argv[1])), HostRunner(Target(sys.argv[2]), ("-F", sys.argv[3])), confirm_after=2)
"""


@dataclass(frozen=True)
class SameConnection:
    """A controller that confirms over the connection it has."""

    runner: HostRunner

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        return self.runner.run(script, timeout_s=timeout_s)

    def fresh(self) -> SameConnection:
        return self


@pytest.fixture(scope="module")
def booted() -> Iterator[SshHost]:
    try:
        with ssh_host() as host:
            yield host
    except LabUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def host(booted: SshHost) -> SshHost:
    booted.at(CONF).write_text("key = old\n")
    return booted


@pytest.fixture
def runner(host: SshHost) -> HostRunner:
    return HostRunner(Target(ADDRESS), ("-F", str(host.ssh_config)))


def plan_for(host: SshHost, runner: HostRunner, change: Change) -> Plan:
    return planned(host.at("/etc/machine-id").read_text(), runner, change)


def test_a_change_that_cuts_the_controller_off_comes_back_by_itself(host: SshHost, runner: HostRunner) -> None:
    plan = plan_for(host, runner, guarded(EDIT, CUT))
    with ThreadPoolExecutor(1) as background:
        applied = background.submit(apply, plan, runner, confirm_after=3)
        while "cut" not in host.does("nft list tables"):
            assert not applied.done()
        assert not host.answers(22)
        assert "cut" in host.does("nft list tables")
    assert settled(runner, plan) is State.REVERTED
    assert host.at(CONF).read_text() == "key = old\n"
    assert "cut" not in host.does("nft list tables")


def test_whoever_is_cut_off_cannot_confirm(host: SshHost, runner: HostRunner) -> None:
    plan = plan_for(host, runner, guarded(EDIT, CUT))
    with suppress(HostError):  # how it ended may come through: nothing stops what the host sends
        apply(plan, runner, confirm_after=12)
    assert "cut" in host.does("nft list tables")
    with pytest.raises(HostError):
        confirm(plan.id, runner)
    assert settled(runner, plan) is State.REVERTED


def test_the_controller_is_killed_in_the_middle_and_all_comes_back(
    host: SshHost, runner: HostRunner, tmp_path: Path
) -> None:
    slow = Command("slow", "touch /run/begun; sleep 1; touch /run/gone-on", "rm -f /run/begun /run/gone-on")
    plan = plan_for(host, runner, guarded(EDIT, slow))
    save(plan, tmp_path / "plan")
    words = [sys.executable, "-c", CONTROLLER_PROGRAM, str(tmp_path / "plan"), ADDRESS, str(host.ssh_config)]
    with subprocess.Popen(words) as controller:
        while "begun" not in host.does("ls /run"):
            assert controller.poll() is None
        assert host.at(CONF).read_text() == "key = new\n"
        controller.send_signal(signal.SIGKILL)
    assert settled(runner, plan) is State.REVERTED
    assert host.at(CONF).read_text() == "key = old\n"
    assert "begun" not in host.does("ls /run")


def test_a_reboot_before_the_confirm_brings_all_back(host: SshHost, runner: HostRunner) -> None:
    plan = plan_for(host, runner, guarded(EDIT, Chain("NET-01", (), policy="drop")))
    assert apply(plan, runner, confirm_after=600) is State.WAITING
    host.cut_power()
    assert host.at(CONF).read_text() == "key = new\n"
    host.boot()
    assert settled(runner, plan) is State.REVERTED
    assert host.at(CONF).read_text() == "key = old\n"
    assert "donjon" not in host.does("nft list tables")
    assert host.at("/etc/rc.local").read_text() == "#!/bin/sh\nexit 0\n"


def test_a_firewall_is_confirmed_over_a_new_connection_and_outlives_a_reboot(host: SshHost, runner: HostRunner) -> None:
    host.does(
        "nft add table inet others; cd /run; setsid python3 -m http.server 8080 >/dev/null 2>&1 </dev/null & sleep 1"
    )
    assert host.answers(8080)
    plan = plan_for(host, runner, guarded(Chain("NET-01", (), policy="drop")))
    assert plan.kept == (CONTROLLER,)
    assert apply(plan, runner, confirm_after=60) is State.WAITING
    assert not host.answers(8080)
    with pytest.raises(RefusedError, match="a new one must be made"):
        confirm(plan.id, SameConnection(runner))
    assert confirm(plan.id, runner) is State.CONFIRMED
    assert "others" in host.does("nft list tables")
    host.cut_power()
    host.boot()
    assert "policy drop" in host.does("nft list table inet donjon")
    assert pending(runner)[-1:] != ()
    assert rollback(plan.id, runner) is State.REVERTED
    assert "donjon" not in host.does("nft list tables")
    assert host.at("/etc/rc.local").read_text() == "#!/bin/sh\nexit 0\n"
    assert not host.at("/etc/donjon/firewall.nft").exists()


def test_sshd_takes_a_setting_and_lets_new_connections_in(host: SshHost, runner: HostRunner) -> None:
    plan = plan_for(host, runner, sshd_set("no passwords for root", permitrootlogin="prohibit-password"))
    assert plan.changes[0].shown.splitlines() == ["+permitrootlogin without-password", "-permitrootlogin yes"]
    apply(plan, runner)
    assert "permitrootlogin without-password" in host.does("sshd -T")
    assert runner.fresh().run(b"echo in", timeout_s=20).out == b"in\n"
    rollback(plan.id, runner)
    assert not host.at(SSHD_DROP_IN).exists()


def test_sshd_refuses_nonsense_and_keeps_running(host: SshHost, runner: HostRunner) -> None:
    nonsense = Edit(SSHD_DROP_IN, whole("Nonsense\n"), mode=0o600)
    plan = plan_for(host, runner, Change("nonsense", (nonsense,), (SSHD_RELOADED,)))
    with pytest.raises(HostError, match="all of it was undone"):
        apply(plan, runner)
    assert runner.fresh().run(b"sshd -t && echo in", timeout_s=20).out == b"in\n"
