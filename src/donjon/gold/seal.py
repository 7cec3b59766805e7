# SPDX-License-Identifier: Apache-2.0
"""Seals gold images, and proves that they are what was sealed: hash, signature, unchanged, in use by nobody.

Source: QEMU's docs/interop/qcow2.rst, "incompatible_features"; qemu-img(1), "info".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from donjon.audit.fact import Absent, Fact, Known, Unknown
from donjon.audit.facts.drift import Drift, drift_of
from donjon.audit.facts.guests import FileStamp, Gold, Guest, Reference, Seal
from donjon.audit.guest.inspect import SourceDisk, inspect_disks, unknown_guest
from donjon.errors import DonjonError, HostError, RefusedError
from donjon.gold.register import Entry, Register, encode_seal
from donjon.gold.signature import sign
from donjon.host_command import run
from donjon.images.image import OpenImage, open_image
from donjon.images.inspection import probe
from donjon.images.locks import in_use

_PIECE = 4 << 20
_QCOW2 = b"QFI\xfb"
_VERSION_3 = 3
_DIRTY = 1
TIMEOUT_S = 60

T = TypeVar("T")


def seal(
    image: Path, register: Register, key: Path, *, builder: str, now: datetime, image_format: str | None = None
) -> Seal:
    """Write down what an image is, sign it, and keep both in the register.

    Args:
        image: the finished gold image.
        register: where the seal goes; one that is there for this image is replaced.
        key: of ssh, to sign with.
        builder: who vouches for it.
        now: in UTC.
        image_format: as its owner states it; None: QEMU guesses.

    Raises:
        RefusedError: the image is open for writing.
        HostError: it cannot be read or changed meanwhile, or the key cannot be used.
    """
    image = image.absolute()
    if in_use(image):
        raise RefusedError(f"cannot seal {image}: a program has it open for writing", hint="shut the guest down")
    info = probe(image, image_format)
    with open_image(info) as opened:
        guest, digest = _inside(opened, image), _digest(opened)
    result = Seal(
        path=str(image),
        format=info.format,
        sha256=digest,
        size=info.size,
        stamp=_stamp(image),
        builder=builder,
        sealed=now,
        guest=guest,
    )
    content = encode_seal(result)
    register.save(content, sign(content, key), image)
    return result


def verify(image: Path, register: Register, signers: Path) -> Gold:
    """How an image is now, beside how it was sealed; what cannot be read is unknown.

    Args:
        image: the gold image.
        register: that has its seal.
        signers: ssh's file of allowed signers.

    Raises:
        HostError, IntegrityError: the register cannot be read.
    """
    image = image.absolute()
    entry = register.find(image)
    return _verified(image, entry, register, signers)


def read_gold(register: Register, signers: Path, images: Iterable[Path] = ()) -> tuple[Gold, ...]:
    """All images of the register, and those declared beside it, as facts for the audit. Raises as `verify`."""
    entries = {entry.seal.path: entry for entry in register.entries()}
    paths = list(dict.fromkeys([*entries, *(str(image.absolute()) for image in images)]))
    return tuple(_verified(Path(path), entries.get(path), register, signers) for path in paths)


def diff(gold: Seal, clone: Guest, forbidden: Iterable[str]) -> Drift:
    """How far a clone has gone from what was sealed; `forbidden` are patterns of paths that must be as they were."""
    return drift_of(gold.guest, clone, forbidden)


def _verified(image: Path, entry: Entry | None, register: Register, signers: Path) -> Gold:
    digest, guest = _now(image, entry.seal.format if entry else None)
    where = str(register.directory)
    return Gold(
        path=str(image),
        seal=Known(entry.seal, entry.file) if entry else Absent(where),
        signature=_look(entry.file, lambda: entry.proven(signers)) if entry else Absent(where),
        sha256=digest,
        stamp=_look(image, lambda: _stamp(image)),
        in_use=_look(image, lambda: in_use(image)),
        dirty=_look(image, lambda: _dirty(image)),
        writable=_look(image, lambda: bool(image.stat().st_mode & 0o222)),
        references=_look(image, lambda: _references(image, entry.seal.format if entry else None)),
        guest=guest,
    )


def _now(image: Path, image_format: str | None) -> tuple[Fact[str], Guest]:
    try:
        with open_image(probe(image, image_format)) as opened:
            return Known(_digest(opened), str(image)), _inside(opened, image)
    except DonjonError as error:
        return Unknown(str(error)), unknown_guest(str(error), str(image))


def _inside(opened: OpenImage, image: Path) -> Guest:
    return inspect_disks([("disk", SourceDisk(opened))], str(image))


def _digest(opened: OpenImage) -> str:
    digest, piece = hashlib.sha256(), bytearray(_PIECE)
    for at in range(0, opened.size, _PIECE):
        part = memoryview(piece)[: min(_PIECE, opened.size - at)]
        opened.read_into(at, part)
        digest.update(part)
    return digest.hexdigest()


def _look(source: Path | str, see: Callable[[], T]) -> Fact[T]:
    try:
        return Known(see(), str(source))
    except (DonjonError, OSError) as error:
        return Unknown(f"{source}: {getattr(error, 'strerror', None) or error}")


def _stamp(image: Path) -> FileStamp:
    found = image.stat()
    return FileStamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _dirty(image: Path) -> bool:
    """Whether a qcow2 image was not closed in order by who wrote to it."""
    with image.open("rb") as file:
        head = file.read(80)
    if not head.startswith(_QCOW2) or int.from_bytes(head[4:8], "big") < _VERSION_3:
        return False
    return bool(int.from_bytes(head[72:80], "big") & _DIRTY)


class _Data(Struct, rename="kebab"):
    data_file: str | None = None


class _Specific(Struct):
    data: _Data = field(default_factory=_Data)


class _Info(Struct, rename="kebab"):
    full_backing_filename: str | None = None
    format_specific: _Specific = field(default_factory=_Specific)


def _references(image: Path, image_format: str | None) -> tuple[Reference, ...]:
    """What is outside of the image that it needs; a raw image needs nothing. Nothing of it is opened."""
    if image_format == "raw":
        return ()
    declared = ["-f", image_format] if image_format else []
    done = run(["qemu-img", "info", "--output=json", "-U", *declared, image], timeout_s=TIMEOUT_S)
    try:
        info = msgspec.json.decode(done.stdout, type=_Info)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read image {image}: qemu-img says something unexpected: {error}") from error
    named = (("backing file", info.full_backing_filename), ("data file", info.format_specific.data.data_file))
    return tuple(_reference(kind, target, image) for kind, target in named if target)


def _reference(kind: str, target: str, image: Path) -> Reference:
    path = image.parent / target
    return Reference(kind, str(path), path.exists())
