# SPDX-License-Identifier: Apache-2.0
"""The config file: the repository's version, its id and the polynomial of restic's chunker.

Source: restic design.rst, "Repository Layout"; restic chunker, polynomials.go.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

from donjon.errors import ConfigError, IntegrityError
from donjon.repository.format import go_json

VERSION = 2
_DEGREE = 53


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a repository says of itself. Other programs add fields; the file is never rewritten, so they stay."""

    version: int
    id: str
    chunker_polynomial: str
    append_only: bool = False


def new_config() -> Config:
    """A config for a new repository of the current version."""
    return Config(version=VERSION, id=secrets.token_hex(32), chunker_polynomial=f"{_random_irreducible():x}")


def encode_config(config: Config) -> bytes:
    """The plaintext of the config file; unlike all others it is not compressed."""
    fields: dict[str, Any] = {
        "version": config.version,
        "id": config.id,
        "chunker_polynomial": config.chunker_polynomial,
    }
    return msgspec.json.encode(fields)


def decode_config(plaintext: bytes) -> Config:
    """What the config file says.

    Raises:
        IntegrityError: it says nothing that makes sense.
        ConfigError: the repository is of a version that donjon does not know.
    """
    config = go_json.decode(plaintext, Config, "the repository's config")
    if config.version not in (1, VERSION):
        raise ConfigError(
            f"cannot use the repository: it is of version {config.version}, this donjon knows 1 and {VERSION}",
            hint="use a newer donjon, or a newer restic",
        )
    if not re.fullmatch(r"[0-9a-f]{64}", config.id, re.ASCII):
        raise IntegrityError("cannot read the repository's config: its id is not 64 hex digits")
    if not _sound_polynomial(config.chunker_polynomial):
        raise IntegrityError("cannot read the repository's config: its chunker polynomial is not irreducible")
    return config


def _sound_polynomial(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{1,16}", text, re.ASCII)) and is_irreducible(int(text, 16))


def _random_irreducible() -> int:
    while True:
        candidate = secrets.randbits(_DEGREE) | 1 << _DEGREE | 1
        if is_irreducible(candidate):
            return candidate


def is_irreducible(polynomial: int) -> bool:
    """Whether a polynomial over GF(2), bit n standing for x^n, has no divisor: Ben-Or's test."""
    degree = polynomial.bit_length() - 1
    if degree < 1:
        return False
    power = 0b10  # x
    for _ in range(degree // 2):
        power = _multiply_modulo(power, power, polynomial)  # x^(2^i)
        if _gcd(polynomial, power ^ 0b10) != 1:
            return False
    return True


def _multiply_modulo(left: int, right: int, modulus: int) -> int:
    product = 0
    top = 1 << (modulus.bit_length() - 1)
    while right:
        if right & 1:
            product ^= left
        right >>= 1
        left <<= 1
        if left & top:
            left ^= modulus
    return product


def _gcd(left: int, right: int) -> int:
    while right:
        while left.bit_length() >= right.bit_length():
            left ^= right << (left.bit_length() - right.bit_length())
        left, right = right, left
    return left
