# SPDX-License-Identifier: Apache-2.0
"""LUKS: version 1 by libluksde; version 2, which it does not know, by `cryptography`.

Source: "LUKS2 On-Disk Format Specification" 1.1.1; "LUKS On-Disk Format" 1.2.3, "AF Splitter"; dm-crypt (plain64 counts
sectors of 512 bytes whatever the sector size).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec
import pyluksde
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id

from donjon.errors import HostError, IntegrityError
from donjon.guest_files.disk import File, Source

CONTENT = "LUKS"
_SECTOR = 512
_HEADER = 4096
_MOST_JSON = 4 << 20
_CIPHER = "aes-xts-plain64"
_MOST_ITERATIONS = 50_000_000
_MOST_ARGON_KIB = 1 << 20

Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]


class _Kdf(msgspec.Struct):
    type: str
    salt: str
    hash: str = ""
    iterations: int = 1
    time: int = 1
    memory: int = 8
    cpus: int = 1


class _Splitter(msgspec.Struct):
    stripes: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    hash: str


class _Area(msgspec.Struct):
    offset: str
    encryption: str
    key_size: Positive


class _KeySlot(msgspec.Struct):
    type: str
    key_size: Annotated[int, msgspec.Meta(ge=1, le=512)]
    af: _Splitter | None = None
    area: _Area | None = None
    kdf: _Kdf | None = None


class _Segment(msgspec.Struct):
    type: str
    offset: str
    size: str
    encryption: str = ""
    iv_tweak: str = "0"
    sector_size: Literal[512, 1024, 2048, 4096] = 512
    integrity: object = None


class _Digest(msgspec.Struct):
    type: str
    keyslots: list[str]
    segments: list[str]
    salt: str
    digest: str
    hash: str
    iterations: Positive


class _Header(msgspec.Struct):
    keyslots: dict[str, _KeySlot]
    segments: dict[str, _Segment]
    digests: dict[str, _Digest]


def recognises(source: Source) -> bool:
    """Whether this is a LUKS volume."""
    return source.read_at(0, 6) == b"LUKS\xba\xbe"


def unlock(source: Source, passphrases: Iterable[str]) -> Source | None:
    """What is in the volume; None if no passphrase is right.

    Raises:
        HostError: it is encrypted in a way that is not known here.
        IntegrityError, OSError: its header is damaged.
    """
    version = int.from_bytes(source.read_at(6, 2), "big")
    if version == 1:
        return _unlock_1(source, passphrases)
    if version == 2:
        return _unlock_2(source, passphrases)
    raise HostError(f"LUKS version {version} is not known")


class _Luks1:
    def __init__(self, source: Source) -> None:
        self._file = File(source)
        self.volume = pyluksde.volume()
        self.size = 0

    def unlock(self, passphrase: str) -> bool:
        self.volume.set_password(passphrase)
        self.volume.open_file_object(self._file)
        if self.volume.is_locked():
            self.volume.close()
            return False
        self.size = self.volume.size
        return True

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on."""
        length = max(0, min(length, self.size - offset))
        parts = []
        while length:
            part: bytes = self.volume.read_buffer_at_offset(min(length, 1 << 20), offset)
            if not part:
                raise IntegrityError("cannot read an encrypted volume: it ends before its end")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)


def _unlock_1(source: Source, passphrases: Iterable[str]) -> Source | None:
    for passphrase in passphrases:
        volume = _Luks1(source)
        if volume.unlock(passphrase):
            return volume
    return None


class _Luks2:
    def __init__(self, source: Source, segment: _Segment, key: bytes) -> None:
        self._source = source
        self._key = key
        self._offset = int(segment.offset)
        self._tweak = int(segment.iv_tweak)
        self._sector = segment.sector_size
        rest = source.size - self._offset
        self.size = rest if segment.size == "dynamic" else min(int(segment.size), rest)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on."""
        end = min(offset + max(length, 0), self.size)
        first = offset - offset % self._sector
        sealed = self._source.read_at(self._offset + first, -(-(end - first) // self._sector) * self._sector)
        tweak = self._tweak + first // _SECTOR
        plain = b"".join(_decrypted(self._key, sealed, tweak, self._sector))
        return plain[offset - first : end - first]


def _unlock_2(source: Source, passphrases: Iterable[str]) -> Source | None:
    length = min(int.from_bytes(source.read_at(8, 8), "big"), _MOST_JSON)
    text = source.read_at(_HEADER, max(0, length - _HEADER)).partition(b"\0")[0]
    try:
        header = msgspec.json.decode(text, type=_Header)
        return _unlock_header(source, header, passphrases)
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise IntegrityError("cannot unlock a LUKS volume: its header is damaged") from error


def _unlock_header(source: Source, header: _Header, passphrases: Iterable[str]) -> Source | None:
    (name, segment), *others = header.segments.items()
    if others or segment.type != "crypt" or segment.encryption != _CIPHER or segment.integrity is not None:
        raise HostError(f"LUKS2 can be read with {_CIPHER} only, in one segment, without integrity")
    for passphrase in passphrases:
        for digest in header.digests.values():
            for slot in [header.keyslots[number] for number in digest.keyslots if name in digest.segments]:
                key = _open_slot(source, slot, passphrase.encode())
                if key is not None and _is_right(key, digest):
                    return _Luks2(source, segment, key)
    return None


def _open_slot(source: Source, slot: _KeySlot, passphrase: bytes) -> bytes | None:
    if slot.type != "luks2" or slot.area is None or slot.kdf is None or slot.af is None:
        return None
    if slot.area.encryption != _CIPHER:
        raise HostError(f"LUKS2 can be read with {_CIPHER} only")
    derived = _derive(slot.kdf, passphrase, slot.area.key_size)
    length = slot.key_size * slot.af.stripes
    sealed = source.read_at(int(slot.area.offset), -(-length // _SECTOR) * _SECTOR)
    return _merge(b"".join(_decrypted(derived, sealed, 0, _SECTOR))[:length], slot.key_size, slot.af)


def _is_right(key: bytes, digest: _Digest) -> bool:
    expected = base64.b64decode(digest.digest)
    iterations = min(digest.iterations, _MOST_ITERATIONS)
    actual = hashlib.pbkdf2_hmac(digest.hash, key, base64.b64decode(digest.salt), iterations, len(expected))
    return hmac.compare_digest(actual, expected)


def _derive(kdf: _Kdf, passphrase: bytes, length: int) -> bytes:
    salt = base64.b64decode(kdf.salt)
    if kdf.type == "pbkdf2":
        if kdf.iterations > _MOST_ITERATIONS:
            raise HostError("a LUKS2 key slot asks for too much computing")
        return hashlib.pbkdf2_hmac(kdf.hash, passphrase, salt, kdf.iterations, length)
    kinds: dict[str, type[Argon2id | Argon2i]] = {"argon2id": Argon2id, "argon2i": Argon2i}
    kind = kinds.get(kdf.type)
    if kind is None:
        raise HostError(f"LUKS2 key slots of kind {kdf.type} are not known")
    if kdf.memory > _MOST_ARGON_KIB or kdf.time > 1000:
        raise HostError("a LUKS2 key slot asks for more than 1 GiB of memory")
    argon = kind(salt=salt, length=length, iterations=kdf.time, lanes=kdf.cpus, memory_cost=kdf.memory)
    return argon.derive(passphrase)


def _merge(split: bytes, size: int, splitter: _Splitter) -> bytes:
    """A key from the stripes it was split into."""
    merged = bytes(size)
    for at in range(0, len(split), size):
        merged = _xor(merged, split[at : at + size])
        if at + size < len(split):
            merged = _diffused(merged, splitter.hash)
    return merged


def _diffused(block: bytes, hash_name: str) -> bytes:
    digest_size = hashlib.new(hash_name).digest_size
    pieces = [block[at : at + digest_size] for at in range(0, len(block), digest_size)]
    hashed = [hashlib.new(hash_name, number.to_bytes(4, "big") + piece) for number, piece in enumerate(pieces)]
    return b"".join(digest.digest()[: len(piece)] for digest, piece in zip(hashed, pieces, strict=True))


def _xor(one: bytes, other: bytes) -> bytes:
    number = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return number.to_bytes(len(one), "big")


def _decrypted(key: bytes, sealed: bytes, tweak: int, sector: int) -> Iterator[bytes]:
    for at in range(0, len(sealed) - sector + 1, sector):
        number = tweak + at // _SECTOR
        cipher = Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little")))
        decryptor = cipher.decryptor()
        yield decryptor.update(sealed[at : at + sector]) + decryptor.finalize()
