# SPDX-License-Identifier: Apache-2.0
"""A real sshd understands what the fixes write for it, and its controls pass on what it says then."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from donjon.audit.fact import Known
from donjon.audit.facts.sshd import AuthorizedKey
from donjon.audit.judge import judge
from donjon.audit.profile import Allow, Profile
from donjon.audit.verdict import Status
from donjon.harden.change import Edit
from donjon.harden.fixes import fixes
from donjon.harden.fixes.acc import SSHD_DROP_IN
from tests.unit.audit.control_cases import Machine, host_of

pytestmark = [pytest.mark.root, pytest.mark.system]

PROFILE = Profile("case", allow=Allow(admins=("root", "ana")))
CONTROLS = ("ACC-05", "ACC-06", "ACC-07")
AS_INSTALLED = "PermitRootLogin yes\nX11Forwarding yes\nUsePAM yes\nMACs hmac-sha1,hmac-sha2-256\nCiphers aes256-ctr\n"
ALLOWED_KEYS = (AuthorizedKey("root", "/root/.ssh/authorized_keys", (), "ssh-ed25519", 256, "AAAA"),)


@pytest.fixture
def host_key(tmp_path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return tmp_path / "key"


def said_by_sshd(host_key: Path, text: str) -> str:
    config = host_key.with_name("sshd_config")
    config.write_text(text)
    done = subprocess.run(["/usr/sbin/sshd", "-T", "-f", config, "-h", host_key], check=True, capture_output=True)
    return done.stdout.decode()


def fixed(settings: str) -> tuple[str, set[str]]:
    """The drop-in, once all fixes of what fails are in; and the subjects that fail."""
    machine = Machine(
        commands={
            "sshd-settings": settings,
            "ssh-version": "OpenSSH_9.2p1\n",
            "host-keys": "256 SHA256:g2DzfMeap7qj1QAeQupftAZZyCZ1o6re5NM7IHLbjno root@vm (ED25519)\n",
        },
        files={"/etc/ssh/sshd_config": ""},
        absent=("/etc/ssh/sshd_config.d/*.conf",),
    )
    host = host_of(machine)
    host = replace(host, sshd=replace(host.sshd, authorized_keys=Known(ALLOWED_KEYS, "")))
    results = judge([host], PROFILE, date(2026, 11, 23), CONTROLS).results
    failures = [one for one in results if one.status is Status.FAIL]
    text = ""
    for result in failures:
        change = fixes()[result.control](result, host, PROFILE)
        assert change, result.summary
        (edit,) = change.wants
        assert isinstance(edit, Edit)
        assert edit.path == SSHD_DROP_IN
        text = edit.rewrite(text)
    assert {one.control for one in results if one.status in (Status.PASS, Status.FAIL)} == set(CONTROLS)
    return text, {one.subject for one in failures}


def test_sshd_takes_what_is_written_for_it_and_passes_then(host_key: Path) -> None:
    drop_in, failed = fixed(said_by_sshd(host_key, AS_INSTALLED))
    assert {"sshd", "macs", "x11forwarding", "allowusers"} <= failed
    assert fixed(said_by_sshd(host_key, drop_in + AS_INSTALLED)) == ("", set())
