# SPDX-License-Identifier: Apache-2.0
"""Definitions of VMs are hardened through a real libvirt, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.harden.apply import State, apply, rollback
from donjon.harden.hunks import diff
from donjon.harden.plan import DocumentStep
from lab.guest import define, virsh
from tests.unit.harden.scratch_host import ScratchHost, finding

pytestmark = pytest.mark.system

NAME = "web & db's"
UUID = "6a0a5b6e-3f54-4ea0-9d5c-1f0c7c1f8a11"
DEFINITION = f"""\
<domain type='qemu'>
  <name>web &amp; db's</name>
  <uuid>{UUID}</uuid>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <graphics type='vnc' autoport='yes' listen='0.0.0.0' passwd='hunter2'/>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""


def test_a_console_is_taken_off_the_network_and_given_back(
    libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)
    define(libvirt_uri, DEFINITION)
    try:
        before = virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID)
        host = ScratchHost(tmp_path / "host")
        plan = host.plan(findings=[finding("GST-01", UUID, NAME)])
        assert plan.guarded
        (step,) = plan.steps
        assert isinstance(step, DocumentStep)
        assert "0.0.0.0" in diff(step.hunks)
        assert apply(plan, host.runner) is State.WAITING
        hardened = virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID)
        assert hardened == before.replace("0.0.0.0", "127.0.0.1")
        assert rollback(plan.id, host.runner) is State.REVERTED
        assert virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID) == before
    finally:
        virsh(libvirt_uri, "undefine", UUID)
