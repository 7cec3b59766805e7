# SPDX-License-Identifier: Apache-2.0
"""A running guest is backed up live whoever its QEMU runs as, and wherever donjon's administrator works."""

from __future__ import annotations

import subprocess

import pytest

from lab.libvirt_host import Host
from tests.system.admin import DONJON
from tests.system.live import LiveGuests, admin_of, back_up_live, prove

pytestmark = pytest.mark.system


@pytest.mark.parametrize("kind", ["stock_host", "session_host"])
def test_a_live_backup_is_right_whoever_qemu_runs_as(
    kind: str, live_guests: LiveGuests, request: pytest.FixtureRequest
) -> None:
    host: Host = request.getfixturevalue(kind)
    before = host.account.before() if host.account else []
    if subprocess.run([*before, DONJON, "version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{DONJON} is where only root can read it")
    with live_guests.running(host) as guest:
        admin = admin_of(host, host.new_folder("admin"))
        guest.do("writer:vda", "database:vda")
        for name in ("first", "second"):
            guest.writes_on()
            backup = back_up_live(admin, guest)
            prove(admin, guest, backup, admin.folder / name)
        vda = next(disk for disk in backup.report["disks"] if disk["target"] == "vda")
        assert vda["kept"] > 0
        assert admin.owed() == []
