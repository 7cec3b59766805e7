# SPDX-License-Identifier: Apache-2.0
"""The register of gold images: a directory with a seal for each, as JSON, and the signature beside it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from donjon.audit.facts.guests import Seal, Signature
from donjon.errors import HostError, IntegrityError
from donjon.gold.signature import verify_signature

SCHEMA = 1
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Entry(Struct, frozen=True):
    """A seal as it stands in the register; `signature` is None if there is none beside it."""

    file: str
    seal: Seal
    content: bytes
    signature: bytes | None

    def proven(self, signers: Path) -> Signature:
        """Whether one of the allowed signers signed it. Raises HostError."""
        if self.signature is None:
            return Signature(good=False, reason="there is none")
        return verify_signature(self.content, self.signature, signers)


class Register:
    """Seals by the path of their image. The directory is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def entries(self) -> Iterator[Entry]:
        """All seals, in the order of their files' names.

        Raises:
            HostError: one cannot be read.
            IntegrityError: one makes no sense.
        """
        yield from map(_load, sorted(self.directory.glob("*.json")))

    def find(self, image: Path) -> Entry | None:
        """The seal of an image. Raises as `entries`."""
        file = self._file(str(image))
        return _load(file) if file.exists() else None

    def save(self, content: bytes, signature: bytes, image: Path) -> Path:
        """Keep the text of a seal and its signature instead of what there is for the image. Raises HostError."""
        file = self._file(str(image))
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            # A seal without its signature, or with that of the one before, proves nothing: no order is wrong.
            _write(file.with_name(f"{file.name}.sig"), signature)
            _write(file, content)
        except OSError as error:
            raise HostError(f"cannot keep the seal in {self.directory}: {error.strerror}") from error
        return file

    def _file(self, image: str) -> Path:
        name = _UNSAFE.sub("-", Path(image).name).strip(".-") or "image"
        return self.directory / f"{name}-{hashlib.sha256(os.fsencode(image)).hexdigest()[:8]}.json"


def encode_seal(seal: Seal) -> bytes:
    """The text of a seal, for people to read too."""
    return msgspec.json.format(msgspec.json.encode(seal), indent=2) + b"\n"


def _load(file: Path) -> Entry:
    try:
        content = file.read_bytes()
        beside = file.with_name(f"{file.name}.sig")
        signature = beside.read_bytes() if beside.exists() else None
        seal = msgspec.json.decode(content, type=Seal)
    except OSError as error:
        raise HostError(f"cannot read {file}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"cannot read {file}: {error}", hint="seal the image again") from error
    if seal.schema > SCHEMA:
        raise IntegrityError(f"cannot read {file}: a newer donjon wrote it", hint="use that one")
    return Entry(str(file), seal, content, signature)


def _write(path: Path, content: bytes) -> None:
    """Whole and durable, or not at all. Raises OSError."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
