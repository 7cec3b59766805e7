# SPDX-License-Identifier: Apache-2.0
"""Gold images on the command line: sealed, verified, judged, compared; what cannot be seen never passes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from donjon.audit.facts.drift import Difference, Drift
from donjon.audit.verdict import Status
from donjon.cli.commands.gold import DriftShown, SealShown
from tests.unit.audit.findings import result
from tests.unit.cli.bundles import bundle, host
from tests.unit.cli.conftest import Cli


@pytest.fixture
def image(home: Path) -> Path:
    """A small file system with a private key in it, and a key to seal it with."""
    (home / "tree/root").mkdir(parents=True)
    for folder in ("etc", "usr/bin", "var/lib"):
        (home / "tree" / folder).mkdir(parents=True)
    (home / "tree/etc/os-release").write_text('ID=debian\nVERSION_ID="12"\n')
    (home / "tree/etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (home / "tree/root/.bash_history").write_text("mysql\n")
    with (home / "gold.raw").open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", home / "tree", home / "gold.raw"], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "key"], check=True)
    (home / "signers").write_text(f"ops@example {(home / 'key.pub').read_text()}")
    return home / "gold.raw"


def test_an_image_is_sealed_verified_and_told_from_its_clones(fresh: Cli, image: Path, home: Path) -> None:
    by = ("--register", home / "register", "--signers", home / "signers")
    assert "was never sealed" in fresh("gold", "diff", image, image, *by[:2]).err
    sealed = fresh("gold", "seal", image, "--key", "key", "--builder", "ann", "--format", "raw", *by)
    assert sealed.exit_code == 20, sealed.err
    assert sealed.out.startswith(f"{image}: sha256 ")
    assert f"{image} holds secrets: /root/.bash_history" in sealed.out
    assert "GLD-01" not in sealed.out
    verified = fresh("gold", "verify", image, *by, "--json")
    assert msgspec.json.encode(msgspec.json.decode(verified.raw, type=SealShown)) == verified.raw.strip()
    assert "GLD-01" not in {one["control"] for one in verified.json["findings"]}
    same = fresh("gold", "diff", image, image, "--format", "raw", *by[:2], "--json")
    assert msgspec.json.encode(msgspec.json.decode(same.raw, type=DriftShown)) == same.raw.strip()
    assert same.json["drift"]["score"] == 0
    assert same.exit_code == (21 if same.json["drift"]["unknown"] else 0)
    with image.open("r+b") as file:
        file.write(b"changed")
    changed = fresh("gold", "verify", image, *by)
    assert changed.exit_code == 20
    assert f"GLD-01  {image} is not what was sealed: its hash differs" in changed.out


def test_an_image_that_cannot_be_read_does_not_pass(fresh: Cli, home: Path) -> None:
    outcome = fresh("gold", "verify", "missing.qcow2", "--signers", "signers", "--register", "register", "--json")
    assert outcome.exit_code != 0
    assert outcome.json["sha256"] is None
    assert "pass" not in {one["status"] for one in outcome.json["findings"]}


@pytest.mark.parametrize(
    ("statuses", "ends_with"),
    [((), 0), ((Status.UNKNOWN,), 21), ((Status.UNKNOWN, Status.FAIL), 20)],
)
def test_what_was_found_says_how_it_ends(statuses: tuple[Status, ...], ends_with: int) -> None:
    findings = tuple(result("GLD-03", status, summary="told") for status in statuses)
    assert SealShown("gold.raw", "0" * 64, findings).exit_code == ends_with


def test_a_clone_that_could_not_be_compared_does_not_pass() -> None:
    nothing = Difference((), (), ())
    drift = Drift(nothing, nothing, nothing, nothing, unknown={"packages": "damaged"})
    assert DriftShown("gold.raw", "clone.raw", drift).exit_code == 21
    assert DriftShown("gold.raw", "clone.raw", msgspec.structs.replace(drift, unknown={})).exit_code == 0
    assert DriftShown("gold.raw", "clone.raw", msgspec.structs.replace(drift, forbidden=("/a",))).exit_code == 20


def test_an_audit_without_gold_images_says_so(fresh: Cli, home: Path) -> None:
    seen = bundle(home / "kvm1.tar", host())
    (home / "register").mkdir()
    judged = ("audit", "--bundle", seen, "--control", "GLD-03", "--json")

    def status(*more: str) -> str:
        return str(fresh(*judged, *more).json["report"]["findings"][0]["result"]["status"])

    assert status() == "unknown"
    assert status("--gold", "register", "--signers", "signers") == "na"
