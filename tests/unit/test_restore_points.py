# SPDX-License-Identifier: Apache-2.0
"""An operator names a restore point in many ways, and gets the one that is meant or is asked to say more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.errors import ConfigError, IntegrityError
from donjon.model.restore_point import DiskPoint, Manifest, RestorePoint, SideFilePoint
from donjon.restore_points import decode_manifest, encode_manifest, find_restore_point, safe_name, split_spec


def point(when: str, id: str, *, name: str = "web", uuid: str = "u-1", origin: str = "") -> RestorePoint:
    taken_at = datetime.fromisoformat(when)
    return RestorePoint(id, origin or id, uuid, name, "host", taken_at, "offline", "offline", 0, b"")


POINTS = [
    point("2026-11-21T23:30:00+00:00", "aaaa1111"),
    point("2026-11-22T08:00:30.5+00:00", "aaaa2222"),
    point("2026-11-22T21:00:00+00:00", "bbbb1111"),
    point("2026-11-23T09:00:00+00:00", "cccc1111", origin="dddd1111"),
]


@pytest.fixture(params=["UTC", "Europe/Vienna"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("when", "found"),
    [
        ("latest", "cccc1111"),
        ("bbbb", "bbbb1111"),
        ("aaaa2222", "aaaa2222"),
        ("dddd1111", "cccc1111"),
        ("2026-11-22T08:00Z", "aaaa2222"),
        ("2026-11-22T08:00:30Z", "aaaa2222"),
        ("2026-11-22T08:00:29Z", "aaaa1111"),
        ("2026-11-22T10:00:30+02:00", "aaaa2222"),
        ("2026-11-22T08Z", "aaaa2222"),
        ("2026-11-22 20:59:59.999+00:00", "aaaa2222"),
        ("2030-01-01", "cccc1111"),
    ],
)
def test_a_restore_point_is_found_by_id_or_time(when: str, found: str) -> None:
    assert find_restore_point(POINTS, "web", when).id == found


def test_a_time_without_a_zone_is_the_operators_own(zone: str) -> None:
    in_vienna = zone == "Europe/Vienna"
    assert find_restore_point(POINTS, "web", "2026-11-22T09:00").id == "aaaa2222"
    assert find_restore_point(POINTS, "web", "2026-11-22T08:30").id == ("aaaa1111" if in_vienna else "aaaa2222")
    assert find_restore_point(POINTS, "web", "2026-11-22").id == "bbbb1111"
    if in_vienna:
        with pytest.raises(ConfigError):
            find_restore_point(POINTS, "web", "2026-11-21")
    else:
        assert find_restore_point(POINTS, "web", "20261121").id == "aaaa1111"


@pytest.mark.parametrize("when", ["aaaa", "eeee", "yesterday", "2026-11-20", "0001-01-01", "9999-12-31", ""])
def test_what_is_not_there_or_not_clear_is_no_restore_point(when: str) -> None:
    with pytest.raises(ConfigError):
        find_restore_point(POINTS, "web", when)


def test_the_id_of_now_goes_before_the_id_of_then() -> None:
    """restic rewrite keeps both snapshots, unless told otherwise."""
    points = [*POINTS, point("2026-11-23T10:00:00+00:00", "eeee1111", origin="bbbb1111")]
    assert find_restore_point(points, "web", "bbbb1111").id == "bbbb1111"


def test_two_vms_of_one_name_are_told_apart_by_uuid() -> None:
    points = [*POINTS, point("2026-11-24T10:00:00+00:00", "ffff1111", uuid="u-2")]
    with pytest.raises(ConfigError, match="there are 2") as unclear:
        find_restore_point(points, "web")
    known = "u-1 (on host, last 2026-11-23 09:00 UTC), u-2 (on host, last 2026-11-24 10:00 UTC)"
    assert known in (unclear.value.hint or "")
    assert find_restore_point(points, "u-2").id == "ffff1111"
    with pytest.raises(ConfigError, match="cannot find") as missing:
        find_restore_point(points, "wob")
    assert "web" in (missing.value.hint or "")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("web", ("web", "latest")),
        ("web@", ("web", "latest")),
        ("web@abcd", ("web", "abcd")),
        ("a@b", ("a@b", "latest")),
        ("a@b@2026-11-23T08:00", ("a@b", "2026-11-23T08:00")),
        ("u-3@abcd", ("u-3", "abcd")),
        ("unknown", ("unknown", "latest")),
    ],
)
def test_a_name_may_have_an_at_sign(spec: str, expected: tuple[str, str]) -> None:
    points = [*POINTS, point("2026-11-23T10:00:00+00:00", "eeee1111", name="a@b", uuid="u-3")]
    assert split_spec(spec, points) == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_safe_name_is_one_directory_and_stands_for_one_name(name: str) -> None:
    safe = safe_name(name)
    assert unquote(safe, errors="surrogateescape") == name
    assert "/" not in safe
    assert "\n" not in safe
    assert safe not in ("", ".", "..")
    assert not safe.startswith((".", " "))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format":1}', b"\xff", b'{"format":"1"}'])
def test_a_manifest_that_says_nothing_is_damage(text: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_manifest(text)


def manifest(role: str = "nvram", target: str = "vda") -> Manifest:
    disk = DiskPoint(target, "/web/vda/vda.raw", 1, 1, None, "raw", {})
    files = (SideFilePoint(role, "/vars.fd", "/web/files/nvram/vars.fd"),)
    return Manifest(1, "donjon", "u-1", "web", "host", datetime.now(UTC), "offline", "offline", (disk,), files)


@pytest.mark.parametrize("role", ["nvram", "tpm", "kernel", "initrd", "dtb", "seed", "seed2", "seed10"])
def test_a_manifest_says_what_was_kept(role: str) -> None:
    said = manifest(role)
    assert decode_manifest(encode_manifest(said)) == said


@pytest.mark.parametrize("role", ["", "../x", "/etc/cron.d/x", "nvram/../x", "seed2x", "seed\u0662", "disk", "nvram\n"])
def test_side_files_that_no_vm_has_are_damage(role: str) -> None:
    with pytest.raises(IntegrityError, match="side files"):
        decode_manifest(encode_manifest(manifest(role)))


@pytest.mark.parametrize("target", ["", ".", "..", "a/b", "../../etc/passwd", "vda\n", "a\0b"])
def test_a_disk_whose_name_leads_elsewhere_is_damage(target: str) -> None:
    with pytest.raises(IntegrityError, match="no name of a disk"):
        decode_manifest(encode_manifest(manifest(target=target)))


def test_times_are_kept_in_utc() -> None:
    assert all(point.taken_at.tzinfo == UTC for point in POINTS)


@pytest.mark.parametrize("when", ["2026-13-01", "yesterday", "2026-11-22T25:00", "zzzz"])
def test_a_time_that_is_none_is_answered_with_the_forms_that_are(when: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot tell when '{when}' is") as caught:
        find_restore_point(POINTS, "web", when)
    assert "2026-11-23T08:30" in (caught.value.hint or "")
