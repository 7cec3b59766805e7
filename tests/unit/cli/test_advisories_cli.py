# SPDX-License-Identifier: Apache-2.0
"""Advisories on the command line: built here, carried over, imported there, and used by audits."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from donjon.cli.commands.advisories import KnownHoles
from tests.unit.audit.test_advisories import SAMPLES, Keys
from tests.unit.cli.bundles import bundle, host
from tests.unit.cli.conftest import Cli


@pytest.fixture
def keys(home: Path) -> Keys:
    return Keys(home, "key")


@pytest.fixture
def sources(home: Path) -> Path:
    """What vendors publish, downloaded just now."""
    folder = home / "sources"
    shutil.copytree(SAMPLES, folder, copy_function=shutil.copyfile)
    return folder


def test_what_was_built_is_imported_and_used(fresh: Cli, home: Path, keys: Keys, sources: Path) -> None:
    built = fresh("advisories", "build", sources, "--key", keys.private, "-o", "holes")
    assert built.exit_code == 0
    assert built.out.endswith("written: holes\n")
    assert [line.split(":")[0] for line in built.out.splitlines()[:4]] == ["debian-11", "debian-12", "ol-9", "rhel-9"]
    taken = fresh("advisories", "import", "holes", "--trust", keys.public, "--json")
    assert taken.exit_code == 0
    assert taken.json["path"] == str(home / "state/advisories")
    assert msgspec.json.encode(msgspec.json.decode(taken.raw, type=KnownHoles)) == taken.raw.strip()
    packages = "dpkg\nii \tqemu-system-x86\tamd64\t1:7.2+dfsg-7+deb12u6\tqemu\t1:7.2+dfsg-7+deb12u6\n"
    seen = bundle(home / "kvm1.tar", host(packages=packages))
    judged = ("audit", "--bundle", seen, "--control", "PAT-04", "--json")
    without = fresh(*judged, DONJON_STATE_DIR=str(home / "other")).json["report"]["findings"][0]["result"]["summary"]
    assert "no advisories" in without
    with_them = [
        fresh(*judged, *more).json["report"]["findings"] for more in ((), ("--advisories", home / "state/advisories"))
    ]
    assert with_them[0] == with_them[1]
    assert "no advisories" not in with_them[0][0]["result"]["summary"]


def test_quiet_says_nothing(fresh: Cli, keys: Keys, sources: Path) -> None:
    assert fresh("advisories", "build", sources, "--key", keys.private, "-o", "holes", "-q").raw == b""


@pytest.mark.parametrize("how", ["somebody else's", "damaged", "stale", "missing"])
def test_what_cannot_be_trusted_is_not_imported(fresh: Cli, home: Path, keys: Keys, sources: Path, how: str) -> None:
    if how == "stale":
        for path in sources.iterdir():
            os.utime(path, (time.time() - 20 * 86400,) * 2)
    fresh("advisories", "build", sources, "--key", keys.private, "-o", "holes")
    if how == "damaged":
        (home / "holes").write_bytes((home / "holes").read_bytes()[:-1])
    trusted = Keys(home, "other").public if how == "somebody else's" else keys.public
    file = "nothing" if how == "missing" else "holes"
    outcome = fresh("advisories", "import", file, "--trust", trusted)
    assert outcome.exit_code == 1
    assert file in outcome.err
    assert not (home / "state/advisories").exists()


def test_without_sources_nothing_is_built(fresh: Cli, home: Path, keys: Keys) -> None:
    outcome = fresh("advisories", "build", "--key", keys.private, "-o", "holes")
    assert (outcome.exit_code, (home / "holes").exists()) == (1, False)
    assert fresh("advisories", "build", "nothing", "--key", keys.private, "-o", "holes").exit_code == 1
    assert fresh("advisories", "build", keys.public, "--key", keys.private, "-o", "holes").exit_code == 1
