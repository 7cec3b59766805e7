# SPDX-License-Identifier: Apache-2.0
"""Advisories as a signed file: built on a machine with a network, imported on one without.

The file is a line that names the format, 64 bytes of an Ed25519 signature, and the advisories as JSON under zstd. The
signature is over the line and what follows it. Keys are those of `ssh-keygen -t ed25519`.
"""

from __future__ import annotations

import bz2
import gzip
import os
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
import zstandard
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from msgspec import Struct

from donjon.audit.advisories.csaf import read_csaf
from donjon.audit.advisories.data import Advisories, Feed, decode_advisories
from donjon.audit.advisories.debian import read_debian
from donjon.audit.advisories.oval import read_oval
from donjon.errors import ConfigError, HostError, IntegrityError

HEAD = b"donjon-advisories 1\n"
IMPORTED = "advisories.donjon"
MAX_SOURCE = 1 << 30
MAX_FILE = 256 << 20
MAX_UNPACKED = 1 << 30
_SIGNATURE = 64


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Exploited(Struct):
    """An entry of the catalogue of known exploited vulnerabilities."""

    cve: str = msgspec.field(name="cveID")


class _ExploitedCatalogue(Struct):
    vulnerabilities: tuple[_Exploited, ...]


def build(sources: Sequence[Path], signing_key: Path, into: Path, today: date) -> Advisories:
    """Make one signed file of what vendors publish; a source is as old as its file's time of change.

    Args:
        sources: JSON of Debian's tracker, OVAL of Red Hat or Oracle, CSAF or VEX documents, and the JSON catalogue of
            known exploited vulnerabilities; as they are, or under .gz or .bz2. Directories stand for all files in them.
        signing_key: private Ed25519 key as `ssh-keygen -t ed25519` writes it, without passphrase.
        into: the file to write; replaced if it is there.
        today: when it is built.

    Raises:
        ConfigError: a source or the key cannot be understood.
        HostError: a file cannot be read or written.
    """
    key = _signing_key(signing_key)
    feeds: dict[str, Feed] = {}
    exploited: set[str] = set()
    for path in _files(sources):
        found = _read_source(path)
        if isinstance(found, set):
            exploited |= found
        else:
            _add(feeds, found, path)
    if not feeds:
        raise ConfigError("cannot build advisories: no source tells of any release", hint="name files with advisories")
    advisories = Advisories(today, feeds, frozenset(exploited))
    packed = zstandard.compress(msgspec.json.encode(advisories), 15)
    _write(into, HEAD + key.sign(HEAD + packed) + packed)
    return advisories


def import_(file: Path, trusted_keys: Path, folder: Path, today: date, max_age_days: int) -> Advisories:
    """Take a file over into `folder` if its signature is good and it is neither stale nor older than what is there.

    `trusted_keys` has public keys, one per line as in the .pub files of ssh-keygen.

    Raises:
        IntegrityError: it is damaged, or no trusted key signed it.
        ConfigError: it is too old, or the keys cannot be understood.
        HostError: a file cannot be read or written.
    """
    raw = _bytes(file, MAX_FILE)
    advisories = _open_signed(raw, _trusted(trusted_keys), file)
    age = advisories.age_days(today)
    if age > max_age_days:
        raise ConfigError(
            f"cannot import {file}: its oldest part is {age} days old, {max_age_days} are allowed",
            hint="build it again from fresh sources",
        )
    known = load(folder)
    if known is not None and advisories.built < known.built:
        raise ConfigError(f"cannot import {file}: it was built before the advisories of {known.built} that are here")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(folder / IMPORTED, raw)
    return advisories


def load(folder: Path) -> Advisories | None:
    """What was imported into `folder`, whose signature was checked then; None if nothing was.

    Raises:
        IntegrityError: it is damaged.
        HostError: it cannot be read.
    """
    path = folder / IMPORTED
    return _unpack(_bytes(path, MAX_FILE), path) if path.exists() else None


def _files(sources: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        found.extend(sorted(one for one in source.iterdir() if one.is_file()) if source.is_dir() else [source])
    return found


def _read_source(path: Path) -> tuple[Feed, ...] | set[str]:
    """The feeds of a source, or CVEs that are exploited; what it is, its beginning says."""
    try:
        dated = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
        with _opened(path) as file:
            limited = _Limited(file, MAX_SOURCE)
            if limited.peek(4096).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
                return read_oval(limited.read, dated)
            return _read_json(limited.read_all(), dated)
    except (OSError, EOFError, zlib.error) as error:
        raise HostError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read advisories of {path}: {error}") from error


def _read_json(text: bytes, dated: date) -> tuple[Feed, ...] | set[str]:
    keys = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).keys()
    if "document" in keys:
        return read_csaf(text, dated)
    if "vulnerabilities" in keys:
        return {one.cve for one in msgspec.json.decode(text, type=_ExploitedCatalogue).vulnerabilities}
    return read_debian(text, dated)


def _add(feeds: dict[str, Feed], found: Iterable[Feed], path: Path) -> None:
    """Put feeds together; a release that several sources tell of is as old as the newest of them."""
    for feed in found:
        known = feeds.get(feed.release)
        if known is not None and (known.kind, known.by_source) != (feed.kind, feed.by_source):
            raise ConfigError(f"cannot build advisories: {path} tells of {feed.release} in another way than one before")
        fixes = (*known.fixes, *feed.fixes) if known else feed.fixes
        dated = max(known.dated, feed.dated) if known else feed.dated
        feeds[feed.release] = Feed(feed.release, feed.kind, feed.by_source, dated, tuple(dict.fromkeys(fixes)))


class _Limited:
    """A file that ends with an error after so many bytes: what is compressed may unpack to anything."""

    def __init__(self, file: _Readable, limit: int) -> None:
        self._file = file
        self._left = limit
        self._pushed_back = b""

    def peek(self, size: int) -> bytes:
        self._pushed_back = self.read(size)
        return self._pushed_back

    def read(self, size: int) -> bytes:
        if self._pushed_back:
            chunk, self._pushed_back = self._pushed_back, b""
            return chunk
        chunk = self._file.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError("it is too large")
        return chunk

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: self.read(1 << 20), b""))


def _opened(path: Path) -> bz2.BZ2File | gzip.GzipFile | BinaryIO:
    if path.suffix == ".bz2":
        return bz2.BZ2File(path)
    return gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > limit:
        raise IntegrityError(f"cannot read {path}: it is larger than {limit >> 20} MiB")
    return raw


def _write(path: Path, raw: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with unfinished.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(_bytes(path, 1 << 16), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"cannot sign with {path}: it is no private key without passphrase",
            hint="make one: ssh-keygen -t ed25519 -N '' -f advisories",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"cannot sign with {path}: it is not Ed25519", hint="ssh-keygen -t ed25519 makes one")
    return key


def _trusted(path: Path) -> list[Ed25519PublicKey]:
    lines = [line for line in _bytes(path, 1 << 20).splitlines() if line.strip() and not line.startswith(b"#")]
    try:
        keys = [load_ssh_public_key(line) for line in lines]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"cannot read keys of {path}: {error}", hint="it has lines of .pub files") from error
    found = [key for key in keys if isinstance(key, Ed25519PublicKey)]
    if not found:
        raise ConfigError(f"cannot read keys of {path}: no Ed25519 key is in it")
    return found


def _open_signed(raw: bytes, keys: Iterable[Ed25519PublicKey], path: Path) -> Advisories:
    signature, packed = raw[len(HEAD) : len(HEAD) + _SIGNATURE], raw[len(HEAD) + _SIGNATURE :]
    for key in keys:
        try:
            key.verify(signature, raw[: len(HEAD)] + packed)
        except InvalidSignature:
            continue
        return _unpack(raw, path)
    raise IntegrityError(
        f"cannot import {path}: no trusted key signed it, or it is damaged",
        hint="check the keys, and bring the file again",
    )


def _unpack(raw: bytes, path: Path) -> Advisories:
    if not raw.startswith(HEAD):
        raise IntegrityError(f"cannot read {path}: it is no file of `donjon advisories build`")
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(raw[len(HEAD) + _SIGNATURE :])
        return decode_advisories(_Limited(reader, MAX_UNPACKED).read_all())
    except (zstandard.ZstdError, ValueError) as error:
        raise IntegrityError(f"cannot read {path}: {error}") from error
