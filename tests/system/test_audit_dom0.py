# SPDX-License-Identifier: Apache-2.0
"""A real Xen dom0 is looked at, and judged: what is said of it is true."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from donjon.audit.bundle import Bundle
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script
from donjon.audit.fact import need
from donjon.audit.facts.host import Host, read_host
from donjon.audit.judge import Judgement, Result, judge
from donjon.audit.profile import load_profile
from lab import LabUnavailableError
from lab.dom0 import Dom0, running_dom0
from lab.dom0_kit import dom0_kit

GUEST = "11111111-2222-4333-8444-555555555555"
OLD_GUEST = """name = "old"
type = "pv"
bootloader = "pygrub"
memory = 96
disk = [ '/var/lib/xen/images/old.img,raw,xvda,w' ]
"""
# Under emulation everything takes long: the collector's seconds are three.
PATIENCE = "sleep() { command sleep $(($1 * 3)); }\n"
TODAY = date(2026, 11, 23)

pytestmark = [pytest.mark.root, pytest.mark.system, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def dom0() -> Iterator[Dom0]:
    """A dom0 with its mitigations switched off, a PV guest that runs, and one that is only defined."""
    try:
        kit = dom0_kit()
    except LabUnavailableError as error:
        pytest.skip(str(error))
    with running_dom0(kit, "spec-ctrl=no xpti=no") as dom0:
        dom0.run("cat >/etc/xen/old.cfg", stdin=OLD_GUEST)
        dom0.start_guest()
        yield dom0


@pytest.fixture(scope="module")
def bundle(dom0: Dom0, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = tmp_path_factory.mktemp("dom0") / "dom0.tar"
    dom0.fetch(PATIENCE + script(), path)
    return read_bundle(path)


@pytest.fixture(scope="module")
def host(bundle: Bundle) -> Host:
    return read_host(bundle)


@pytest.fixture(scope="module")
def judgement(host: Host) -> Judgement:
    return judge([host], load_profile("xen-xl"), TODAY)


def said(judgement: Judgement, control: str, subject: str) -> Result:
    """What a control says of a subject, by its key or name."""
    about = [one for one in judgement.results if one.control == control and subject in {one.subject, one.name}]
    assert len(about) == 1, [one for one in judgement.results if one.control == control]
    return about[0]


def test_a_dom0_is_seen_as_one(host: Host) -> None:
    assert need(host.platform.kinds) == "X"
    assert need(host.xen.branch)[0] == 4
    assert {(vm.name, vm.running) for vm in need(host.domains.all)} == {("web", True), ("old", False)}


@pytest.mark.parametrize(
    ("control", "subject", "status", "words"),
    [
        ("BOOT-03", "", "na", "no TPM"),
        ("BOOT-10", "xen console", "fail", "debug keys"),
        ("HYP-02", "", "pass", "release build"),
        ("HYP-03", "", "na", "not available in this build"),
        ("HYP-08", GUEST, "na", "no device model"),
        ("HYP-10", "PV", "fail", "leaking memory"),
        ("HYP-11", "xen spec-ctrl", "fail", "spec-ctrl=no"),
        ("HYP-11", "xen xpti", "fail", "xpti=no"),
        ("HYP-11", "linux mitigations", "fail", "mitigations=off"),
        ("HYP-13", "", "na", "virtual machine"),
        ("HYP-15", "", "na", "no device"),
        ("HYP-17", "/dev/xen/privcmd", "pass", "only root"),
        ("HYP-18", "", "pass", "supports"),
        ("HYP-19", GUEST, "pass", "no boot loader"),
        ("HYP-19", "old", "fail", "pygrub"),
        ("HYP-20", "xen", "pass", "gets security fixes until"),
    ],
)
def test_what_is_said_of_it_is_true(judgement: Judgement, control: str, subject: str, status: str, words: str) -> None:
    result = said(judgement, control, subject)
    assert (result.status.value, result.summary) == (status, result.summary)
    assert words in result.summary


def test_nothing_stays_unknown_of_the_hypervisor(judgement: Judgement) -> None:
    unknown = {one.control for one in judgement.results if one.status.value == "unknown"}
    # QEMU is its boot loader; under emulation systemd takes longer to list its unit files than systemctl waits.
    assert {one for one in unknown if one.startswith(("BOOT", "HYP"))} <= {"BOOT-05", "BOOT-10"}
