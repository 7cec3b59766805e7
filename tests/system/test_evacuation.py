# SPDX-License-Identifier: Apache-2.0
"""Running guests really move between two hosts over TLS and come back, by the command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.guest import virsh
from lab.hosts import ADDRESSES, PKI
from lab.libvirt_host import Host
from tests.system.admin import DONJON
from tests.system.live import LiveGuests

pytestmark = [pytest.mark.system, pytest.mark.root]


def evacuate(state: Path, here: Host, there: Host, *options: str) -> tuple[int, Any]:
    peer = f"qemu+tls://{there.name}/system?pkipath={PKI}"
    words = ["harden", "evacuate", here.uri, "--to", there.uri, "--peer", peer]
    words += ["--via", ADDRESSES[there.name or ""], *options]
    environ = os.environ | {"DONJON_STATE_DIR": str(state)}
    done = subprocess.run([DONJON, *words, "--json"], env=environ, capture_output=True, check=False, timeout=300)
    return done.returncode, json.loads(done.stdout)


def running(host: Host) -> list[str]:
    return virsh(host.uri, "list", "--name").split()


def test_a_host_is_evacuated_and_filled_again(
    connected_hosts: tuple[Host, Host], live_guests: LiveGuests, tmp_path: Path
) -> None:
    here, there = connected_hosts
    with live_guests.running(here) as guest:
        guest.do("writer:vda")
        before = guest.writes_on()
        code, trial = evacuate(tmp_path, here, there, "--shared-storage", "--dry-run")
        assert (code, [one["name"] for one in trial["evacuation"]["moved"]]) == (0, [guest.name])

        code, refused = evacuate(tmp_path, here, there)
        assert code == 3
        assert "unsafe" in refused["evacuation"]["staying"][0]["reasons"][0]
        assert running(here) == [guest.name]

        code, done = evacuate(tmp_path, here, there, "--shared-storage")
        assert (code, done["evacuation"]["staying"]) == (0, []), str(done)
        assert (running(here), running(there)) == ([], [guest.name])
        assert guest.writes_on() > before

        code, _ = evacuate(tmp_path, there, here, "--shared-storage", "--back")
        assert code == 0
        assert (running(here), running(there)) == ([guest.name], [])
        assert guest.writes_on() > before
