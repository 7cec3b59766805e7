# SPDX-License-Identifier: Apache-2.0
"""On a real machine with systemd: what was not confirmed is undone by itself, and by a reset; what was, stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from donjon.audit.collect.target import Target
from donjon.harden.apply import State, apply, confirm
from donjon.harden.change import Chain, Edit
from donjon.harden.editors import assignments
from donjon.harden.runner import HostRunner
from lab import LabError, LabUnavailableError
from lab.dom0 import BOOT_TIME_S, Dom0, running_dom0
from lab.dom0_kit import dom0_kit
from tests.system.hardening import guarded, planned, settled

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.timeout(1200)]

EDIT = Edit("/etc/one.conf", assignments({"key": "new"}))


@pytest.fixture(scope="module")
def dom0() -> Iterator[Dom0]:
    try:
        with running_dom0(dom0_kit()) as dom0:
            dom0.run("echo key = old >/etc/one.conf")
            yield dom0
    except LabUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def runner(dom0: Dom0) -> HostRunner:
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "IdentitiesOnly": "yes",
        "IdentityFile": str(dom0.key),
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return HostRunner(Target("127.0.0.1", "root", dom0.port), ("-F", "/dev/null", *words))


def reset(dom0: Dom0) -> None:
    """As by the button: nothing is written or ended before."""
    boot = dom0.run("cat /proc/sys/kernel/random/boot_id")
    with suppress(LabError):
        dom0.run("echo b >/proc/sysrq-trigger", timeout_s=5)
    deadline = time.monotonic() + BOOT_TIME_S
    while time.monotonic() < deadline:
        with suppress(LabError):
            if dom0.run("cat /proc/sys/kernel/random/boot_id", timeout_s=20) != boot:
                return
        time.sleep(1)
    raise LabError("the dom0 does not come back")


def test_a_unit_of_systemd_undoes_what_nobody_confirms(dom0: Dom0, runner: HostRunner) -> None:
    plan = planned(dom0.run("cat /etc/machine-id"), runner, guarded(EDIT))
    assert apply(plan, runner, confirm_after=20) is State.WAITING
    assert f"donjon-harden-{plan.id}" in dom0.run("systemctl list-units --plain --no-legend 'donjon-harden-*'")
    assert dom0.run("cat /etc/one.conf") == "key = new\n"
    assert settled(runner, plan) is State.REVERTED
    assert dom0.run("cat /etc/one.conf") == "key = old\n"


def test_a_reset_undoes_what_was_not_confirmed_and_keeps_what_was(dom0: Dom0, runner: HostRunner) -> None:
    machine = dom0.run("cat /etc/machine-id")
    firewall = planned(machine, runner, guarded(Chain("NET-01", (), policy="drop")))
    apply(firewall, runner)
    assert confirm(firewall.id, runner) is State.CONFIRMED
    plan = planned(machine, runner, guarded(EDIT))
    assert apply(plan, runner, confirm_after=3600) is State.WAITING
    assert dom0.run("cat /etc/one.conf") == "key = new\n"
    reset(dom0)
    assert settled(runner, plan) is State.REVERTED
    assert dom0.run("cat /etc/one.conf") == "key = old\n"
    said = dom0.run("journalctl -b -o cat -u donjon-revert-early -u donjon-revert-late -u donjon-firewall")
    assert said.count("Finished ") == 3
    assert "policy drop" in dom0.run("nft list table inet donjon")
    assert dom0.run("ls /etc/systemd/system").count("donjon-revert") == 0
