# SPDX-License-Identifier: Apache-2.0
"""An address tells whether the disks of its VMs are files of this host."""

from __future__ import annotations

import pytest

from donjon.hypervisors.selection import other_host


@pytest.mark.parametrize(
    "uri",
    ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/run/s", "qemu+ssh://root@KVM1/system", "test:x"],
)
def test_this_host(uri: str) -> None:
    assert other_host(uri, "kvm1") is None


@pytest.mark.parametrize("uri", ["qemu+ssh://root@kvm2/system", "qemu+tls://kvm2:16514/system", "xen://kvm2/"])
def test_another_host(uri: str) -> None:
    assert other_host(uri, "kvm1") == "kvm2"
