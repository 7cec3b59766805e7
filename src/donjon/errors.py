# SPDX-License-Identifier: Apache-2.0
"""The errors donjon raises on purpose, split by what the operator does next.

A message reads "cannot VERB WHAT: REASON"; `hint` says what to do about it. Exit codes follow restic's where they
overlap.
"""

from __future__ import annotations

from typing import ClassVar


class DonjonError(Exception):
    """Something cannot be done; the message says what and why, `hint` what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(DonjonError):
    """Edit a file or the command line: what donjon was told makes no sense."""


class HostError(DonjonError):
    """Look at the host: an image, a guest, a program or a permission stands in the way."""


class RefusedError(DonjonError):
    """Decide: doing it could lose something, and the operator has not said that it may."""


class StoreError(DonjonError):
    """Look at the storage that holds the repository: full, read-only, failing or out of reach."""


class FileMissingError(StoreError):
    """The store has no file of that name."""


class FileExistsInStoreError(StoreError):
    """The store holds a file of that name already, and files are never replaced."""


class NoRepositoryError(DonjonError):
    """Check the address: there is no repository there."""

    exit_code = 10


class RepositoryLockedError(DonjonError):
    """Wait and retry, or look at who holds the lock."""

    exit_code = 11


class WrongPasswordError(DonjonError):
    """No key of the repository opens with this password."""

    exit_code = 12


class IntegrityError(DonjonError):
    """Data is not what was written: damaged, cut short or forged. Run `donjon check`."""


class IncompleteError(DonjonError):
    """Part of the work was done; the message says which part was not."""

    exit_code = 3


class CancelledError(DonjonError):
    """The operator or the system asked donjon to stop; everything was put back."""

    exit_code = 130
