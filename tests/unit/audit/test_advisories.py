# SPDX-License-Identifier: Apache-2.0
"""Advisories: what vendors publish is understood, signed, carried over, and believed no longer than it is fresh."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.advisories import advisory_file, oval
from donjon.audit.advisories.advisory_file import HEAD, IMPORTED, build, import_, load
from donjon.audit.advisories.data import Advisories, Feed, Fix, vulnerable
from donjon.audit.facts.packages import Package
from donjon.audit.facts.platform import Release
from donjon.audit.verdict import Severity
from donjon.errors import ConfigError, HostError, IntegrityError

SAMPLES = Path(__file__).parents[2] / "data" / "advisories"
TODAY = date(2026, 11, 23)
DEBIAN_12 = Release("debian", "12", (), "Debian GNU/Linux 12 (bookworm)")
ORACLE_9 = Release("ol", "9.4", ("fedora",), "Oracle Linux Server 9.4")
ROCKY_9 = Release("rocky", "9.4", ("rhel", "centos", "fedora"), "Rocky Linux 9.4")


class Keys:
    """A pair as ssh-keygen makes it."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / name, folder / f"{name}.pub"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        self.public.write_bytes(public + b" advisories@example\n")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "key")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The samples, downloaded three days ago."""
    folder = tmp_path / "sources"
    shutil.copytree(SAMPLES, folder)
    for path in folder.iterdir():
        path.chmod(0o600)
        made = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
        os.utime(path, (made, made))
    return folder


def package(name: str, version: str, source: str = "") -> dict[str, Package]:
    return {name: Package(name, version, "amd64", source or name, version)}


def test_a_source_package_of_debian_is_vulnerable_until_its_fixed_version(tmp_path: Path, keys: Keys) -> None:
    found = build([SAMPLES / "debian-tracker.json"], keys.private, tmp_path / "out", TODAY)
    old = vulnerable(package("qemu-system-x86", "1:7.2+dfsg-7+deb12u6", "qemu"), DEBIAN_12, found)
    assert [(one.package, one.advisory, one.fixed) for one in old] == [
        ("qemu-system-x86", "CVE-2024-4467", "1:7.2+dfsg-7+deb12u7"),
        ("qemu-system-x86", "CVE-2019-12067", ""),
    ]
    new = vulnerable(package("qemu-system-x86", "1:7.2+dfsg-7+deb12u7", "qemu"), DEBIAN_12, found)
    assert [one.advisory for one in new] == ["CVE-2019-12067"]


@pytest.mark.parametrize(
    ("sample", "release"), [("com.oracle.elsa-ol9.xml", ORACLE_9), ("rhsa-2024_4420.json", ROCKY_9)]
)
def test_a_binary_package_of_oracle_and_red_hat_is_vulnerable_until_its_fixed_version(
    sample: str, release: Release, tmp_path: Path, keys: Keys
) -> None:
    found = build([SAMPLES / sample], keys.private, tmp_path / "out", TODAY)
    old = vulnerable(package("qemu-kvm-core", "17:8.2.0-11.el9_4.3"), release, found)
    assert [(one.cves, one.severity, one.fixed) for one in old] == [
        (("CVE-2024-4467",), Severity.HIGH, "17:8.2.0-11.el9_4.4")
    ]
    assert not vulnerable(package("qemu-kvm-core", "17:8.2.0-11.el9_4.4"), release, found)
    assert not vulnerable({**package("oraclelinux-release", "7:1"), **package("qemu-kvm", "1:1")}, release, found)


def test_a_fix_of_a_module_says_nothing_of_a_package_outside() -> None:
    fixes = (Fix("qemu-kvm", "15:6.2.0-40.module+el8.9.0+1+abc", "RHSA-1", ("CVE-1",)),)
    found = Advisories(TODAY, {"rhel-8": Feed("rhel-8", "rpm", False, TODAY, fixes)})
    release = Release("rhel", "8.9", (), "")
    assert not vulnerable(package("qemu-kvm", "15:4.2.0-60.el8"), release, found)
    assert vulnerable(package("qemu-kvm", "15:4.2.0-60.module+el8.5.0+1+abc"), release, found)


def test_only_the_newest_of_several_kernels_is_looked_at() -> None:
    fixes = (Fix("kernel", "5.14.0-427.el9", "RHSA-1", ("CVE-1",)),)
    found = Advisories(TODAY, {"rhel-9": Feed("rhel-9", "rpm", False, TODAY, fixes)})
    kernels = {version: Package("kernel", version) for version in ("5.14.0-362.el9", "5.14.0-427.el9")}
    assert not vulnerable(kernels, Release("rhel", "9.4", (), ""), found)


def test_a_release_nobody_tells_of_is_an_error(tmp_path: Path, keys: Keys) -> None:
    found = build([SAMPLES / "debian-tracker.json"], keys.private, tmp_path / "out", TODAY)
    with pytest.raises(LookupError, match="say nothing of Oracle Linux"):
        vulnerable({}, ORACLE_9, found)


def test_what_was_built_is_imported(tmp_path: Path, keys: Keys, sources: Path) -> None:
    built = build([sources], keys.private, tmp_path / "out", TODAY)
    assert sorted(built.feeds) == ["debian-11", "debian-12", "ol-9", "rhel-9"]
    assert {feed.dated for feed in built.feeds.values()} == {date(2026, 11, 20)}
    assert import_(tmp_path / "out", keys.public, tmp_path / "state", TODAY, 14) == built
    assert load(tmp_path / "state") == built
    attacked = vulnerable(package("qemu-kvm-core", "17:8.2.0-11.el9_4.3"), ORACLE_9, built)
    assert [(one.severity, one.exploited) for one in attacked] == [(Severity.CRITICAL, True)]


def test_nothing_was_imported_yet(tmp_path: Path) -> None:
    assert load(tmp_path) is None


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, keys: Keys, sources: Path) -> None:
    build([sources], Keys(tmp_path, "other").private, tmp_path / "out", TODAY)
    with pytest.raises(IntegrityError, match="no trusted key signed it"):
        import_(tmp_path / "out", keys.public, tmp_path / "state", TODAY, 14)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("at", [0, len(HEAD) - 2, len(HEAD), len(HEAD) + 63, len(HEAD) + 64, -1])
def test_a_changed_byte_is_seen(tmp_path: Path, keys: Keys, sources: Path, at: int) -> None:
    build([sources / "debian-tracker.json"], keys.private, tmp_path / "out", TODAY)
    raw = bytearray((tmp_path / "out").read_bytes())
    raw[at] ^= 1
    (tmp_path / "out").write_bytes(raw)
    with pytest.raises(IntegrityError):
        import_(tmp_path / "out", keys.public, tmp_path / "state", TODAY, 14)


def test_stale_advisories_are_not_imported(tmp_path: Path, keys: Keys, sources: Path) -> None:
    build([sources], keys.private, tmp_path / "out", TODAY)
    with pytest.raises(ConfigError, match="15 days old, 14 are allowed"):
        import_(tmp_path / "out", keys.public, tmp_path / "state", date(2026, 12, 5), 14)


def test_older_advisories_do_not_replace_newer_ones(tmp_path: Path, keys: Keys, sources: Path) -> None:
    build([sources], keys.private, tmp_path / "new", TODAY)
    build([sources], keys.private, tmp_path / "old", date(2026, 11, 21))
    newer = import_(tmp_path / "new", keys.public, tmp_path / "state", TODAY, 14)
    with pytest.raises(ConfigError, match="was built before"):
        import_(tmp_path / "old", keys.public, tmp_path / "state", TODAY, 14)
    assert load(tmp_path / "state") == newer


def test_damage_after_the_import_is_an_error(tmp_path: Path, keys: Keys, sources: Path) -> None:
    build([sources], keys.private, tmp_path / "out", TODAY)
    import_(tmp_path / "out", keys.public, tmp_path / "state", TODAY, 14)
    stored = tmp_path / "state" / IMPORTED
    stored.write_bytes(stored.read_bytes()[:-20])
    with pytest.raises(IntegrityError):
        load(tmp_path / "state")


def test_oval_comes_compressed_as_vendors_publish_it(tmp_path: Path, keys: Keys) -> None:
    packed = tmp_path / "com.oracle.elsa-ol9.xml.bz2"
    packed.write_bytes(bz2.compress((SAMPLES / "com.oracle.elsa-ol9.xml").read_bytes()))
    assert list(build([packed], keys.private, tmp_path / "out", TODAY).feeds) == ["ol-9"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_of_its_own_is_refused(tmp_path: Path, keys: Keys, encoding: str) -> None:
    bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
    path = tmp_path / "bomb.xml"
    path.write_bytes(bomb.encode(encoding))
    with pytest.raises(ConfigError):
        build([path], keys.private, tmp_path / "out", TODAY)
    with pytest.raises(ValueError, match="DOCTYPE"), path.open("rb") as file:
        oval.read_oval(file.read, TODAY)


def test_xml_that_is_too_deep_is_refused(tmp_path: Path, keys: Keys) -> None:
    path = tmp_path / "deep.xml"
    path.write_text("<a>" * 1000)
    with pytest.raises(ConfigError, match="too deep"):
        build([path], keys.private, tmp_path / "out", TODAY)


def test_a_source_that_unpacks_to_too_much_is_refused() -> None:
    class Endless:
        def read(self, size: int, /) -> bytes:
            return b" " * size

    with pytest.raises(ValueError, match="too large"):
        advisory_file._Limited(Endless(), 1 << 21).read_all()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"document": {}}',
        b"<html></html>",
        b"\xff\xfe",
        b'{"vulnerabilities": 1}',
    ],
)
def test_a_file_that_is_no_source_is_an_error_that_names_it(tmp_path: Path, keys: Keys, text: bytes) -> None:
    path = tmp_path / "odd"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="odd"):
        build([path], keys.private, tmp_path / "out", TODAY)


def test_a_file_that_is_cut_short_is_an_error_that_names_it(tmp_path: Path, keys: Keys) -> None:
    packed = tmp_path / "cut.bz2"
    packed.write_bytes(bz2.compress(b"<oval/>" * 100)[:-10])
    with pytest.raises(HostError, match=r"cut\.bz2"):
        build([packed], keys.private, tmp_path / "out", TODAY)


def test_a_damaged_gzip_file_is_an_error_that_names_it(tmp_path: Path, keys: Keys) -> None:
    packed = tmp_path / "tracker.json.gz"
    raw = bytearray(gzip.compress(os.urandom(1000)))
    raw[30:40] = bytes(10)
    packed.write_bytes(raw)
    with pytest.raises(HostError, match=r"tracker\.json\.gz"):
        build([packed], keys.private, tmp_path / "out", TODAY)


def test_json_that_is_too_deep_is_refused(tmp_path: Path, keys: Keys) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"qemu": {"CVE-1": {"x": ' + "[" * 200000)
    with pytest.raises(ConfigError, match="deep"):
        build([path], keys.private, tmp_path / "out", TODAY)


def test_an_imported_file_with_a_good_head_and_nothing_else_is_damaged(tmp_path: Path) -> None:
    (tmp_path / IMPORTED).write_bytes(HEAD + bytes(64) + zstandard.compress(b"{}"))
    with pytest.raises(IntegrityError):
        load(tmp_path)


@given(st.sampled_from(sorted(SAMPLES.iterdir())), st.integers(0, 9000), st.binary(max_size=4))
def test_a_source_with_odd_bytes_is_refused_or_understood(sample: Path, at: int, noise: bytes) -> None:
    raw = sample.read_bytes()
    at %= len(raw)
    text = raw[:at] + noise + raw[at + len(noise) :]
    try:
        if sample.suffix == ".xml":
            feed = iter([text, b""])
            oval.read_oval(lambda _: next(feed), TODAY)
        else:
            advisory_file._read_json(text, TODAY)
    except ValueError:
        pass
