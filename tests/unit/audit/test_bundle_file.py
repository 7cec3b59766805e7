# SPDX-License-Identifier: Apache-2.0
"""A bundle from a file is read whole, or refused with a clear error: it may be damaged, or made by an enemy."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, PathInfo
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.tar_members import Limits, members
from donjon.audit.fact import Absent, Known, Unknown
from donjon.errors import ConfigError, IntegrityError

MANIFEST = (
    b'{"collector": "donjon-1", "sha256": "", "host": "h", "started": "", "user": "root", "probes": ["one", "two"]}'
)
PLAIN = {
    "manifest.json": MANIFEST,
    "cmd/one.out": b"said\n",
    "cmd/one.err": b"",
    "cmd/one.rc": b"0\n",
    "root/etc/a b.conf": b"caf\xe9 \xc3\xa9\n",
    "asked": b"/etc/a b.conf\0/etc/*.d\0",
    "refused": b"/etc/x\0permission denied\0",
    "look/1.asked": b"1\0/etc\0/none/\0",
    "look/1.found": b"d 755 0 0 root root 4096 17.5\0/etc\0\0l 777 0 0 root root 1 17\0/etc/n\nl\0to\0",
    "look/1.err": b"find: '/none/': No such file or directory\nfind: '/etc/ssl': Permission denied\n",
    "look/1.rc": b"1\n",
    "look/1.how": b"find\n",
    "end": b"",
}
Change = dict[str, bytes | None]


def tar(files: dict[str, bytes | None], kind: int = tarfile.GNU_FORMAT, *extra: tarfile.TarInfo) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=kind) as archive:
        for info in extra:
            archive.addfile(info)
        for name, content in files.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return into.getvalue()


def read(raw: bytes) -> Bundle:
    return read_bundle(io.BytesIO(raw))


def with_(change: Change) -> Bundle:
    return read(tar({**PLAIN, **change}))


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_bundle_says_what_the_collector_saw(kind: int) -> None:
    bundle = read(tar({**PLAIN}, kind))
    assert bundle.output("one") == Known("said\n", "cmd/one")
    assert bundle.text("/etc/a b.conf") == Known("caf\\xe9 é\n", "/etc/a b.conf")
    assert bundle.text("/etc/b.d") == Absent("/etc/b.d")
    assert bundle.text("/etc/x") == Unknown("/etc/x: permission denied")
    assert bundle.paths.seen["/etc/n\nl"] == PathInfo("/etc/n\nl", 0o777, 0, 0, "root", "root", "l", 1, 17, "to")
    assert bundle.paths.at("/none") == Absent("/none")
    assert bundle.paths.at("/etc/ssl") == Unknown("/etc/ssl: Permission denied")
    assert isinstance(bundle.paths.below("/etc"), Unknown)
    assert isinstance(bundle.paths.at("/etc/ssl/x"), Unknown)


def test_a_folder_that_could_not_be_listed_is_not_empty() -> None:
    listed = b"d 755 0 0 root root 4096 17.5\0/etc/ssl\0\0"
    paths = with_({"look/1.asked": b"1\0/etc/ssl\0", "look/1.found": listed}).paths
    assert isinstance(paths.at("/etc/ssl"), Known)
    assert isinstance(paths.below("/etc/ssl"), Unknown)


def test_a_probe_without_its_whole_answer_is_unknown() -> None:
    assert isinstance(with_({}).output("two"), Unknown)
    for change in ({"cmd/one.out": None}, {"cmd/one.rc": None}, {"cmd/one.rc": b"x"}, {"cmd/one.rc": b""}):
        assert isinstance(with_({**change}).ran("one"), Unknown)


def test_a_look_that_failed_for_no_known_reason_counts_for_nothing() -> None:
    for change in ({"look/1.err": b"find: bad\n"}, {"look/1.rc": b"124"}, {"look/1.rc": b""}, {"look/1.err": b""}):
        paths = with_({**change}).paths
        assert isinstance(paths.at("/etc"), Unknown)
        assert isinstance(paths.below("/etc"), Unknown)
        assert isinstance(paths.at("/none"), Unknown)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress])
def test_it_may_be_compressed(pack: Callable[[bytes], bytes]) -> None:
    assert read(pack(tar({**PLAIN}))) == with_({})


def test_names_of_any_length_are_read_as_every_tar_writes_them() -> None:
    long = "root/" + "d" * 90 + "/" + "é" * 100
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert read(tar({**PLAIN, long: b"x"}, kind)).files[long.removeprefix("root")] == "x"


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "root/../../x",
        "root/a/../b",
        "root//etc/x",
        "cmd/../x.rc",
        "cmd/UP.rc",
        "other",
        "root/",
        "./end",
    ],
)
def test_a_name_that_has_no_place_in_it_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        read(tar({name: b"x", **PLAIN}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S", b"?"])
def test_links_and_devices_are_refused(kind: bytes) -> None:
    info = tarfile.TarInfo("root/etc/passwd")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(IntegrityError, match=r"no regular file|cut short|no tar"):
        read(tar({**PLAIN}, tarfile.GNU_FORMAT, info))


def test_a_member_that_is_there_twice_is_refused() -> None:
    with pytest.raises(IntegrityError, match="twice"):
        read(tar({**PLAIN}, tarfile.GNU_FORMAT, tarfile.TarInfo("cmd/one.out")))


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"probes": [1]}', b'{"host": 5}', b"[" * 100_000, b"\xff", b'{"probes": {"a": 1}}']
)
def test_a_manifest_that_makes_no_sense_is_refused(manifest: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        with_({"manifest.json": manifest})


def test_wherever_a_bundle_is_cut_it_is_refused() -> None:
    raw = tar({**PLAIN})
    whole = len(raw.rstrip(b"\0")) // 512 * 512 + 512
    for end in [*range(0, whole, 512), 100, 700, whole - 1]:
        with pytest.raises(IntegrityError):
            read(raw[:end])
    packed = gzip.compress(raw)
    with pytest.raises(IntegrityError):
        read(packed[: len(packed) // 2])


def test_a_bomb_does_not_go_off() -> None:
    limits = Limits(member=1000, total=60_000, count=50)
    for bomb in (
        tar({"a": bytes(1001)}),
        tar({str(number): b"" for number in range(51)}),
        gzip.compress(tar({str(number): bytes(999) for number in range(50)}) + bytes(1 << 20)),
    ):
        with pytest.raises(IntegrityError):
            list(members(io.BytesIO(bomb), limits, cut_large=False))
    header = bytearray(tar({"a": b""})[:512])
    header[124:136] = b"\x80" + b"\xff" * 11
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(IntegrityError):
        list(members(io.BytesIO(bytes(header)), limits))


def test_a_file_that_is_not_there_or_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such"):
        read_bundle(tmp_path / "no-such")
    (tmp_path / "text").write_text("x" * 5000)
    with pytest.raises(IntegrityError, match=r"text as a bundle: it is no tar"):
        read_bundle(tmp_path / "text")


NAMES = st.sampled_from(list(PLAIN)) | st.text(max_size=20)
CONTENTS = st.sampled_from(list(PLAIN.values())) | st.binary(max_size=60)


@settings(max_examples=60)
@given(
    st.dictionaries(NAMES, CONTENTS, max_size=6),
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=4),
)
def test_whatever_is_in_it_it_is_read_or_refused(change: dict[str, bytes], flips: list[tuple[int, int]]) -> None:
    raw = bytearray(tar({**PLAIN, **{name.replace("\0", ""): content for name, content in change.items()}}))
    for place, value in flips:
        raw[place % len(raw)] = value
    try:
        bundle = read(bytes(raw))
    except IntegrityError:
        return
    assert bundle.manifest.probes is not None
    assert all(path.startswith("/") and ".." not in path.split("/") for path in bundle.files)


@settings(max_examples=60)
@given(st.binary(max_size=2000))
def test_bytes_from_outside_raise_only_our_error(raw: bytes) -> None:
    for start in (b"", b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"):
        with pytest.raises(IntegrityError):
            read(start + raw)
