# SPDX-License-Identifier: Apache-2.0
"""Calls of libvirt-python: loaded when first needed, quiet, its errors made ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from donjon.errors import HostError

WITHOUT_LIBVIRT = "without libvirt, describe the VM by --definition and --disk"


class LibvirtError(HostError):
    """libvirt refused; `code` is its error number (VIR_ERR_...)."""

    def __init__(self, message: str, *, code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @property
    def means_gone(self) -> bool:
        """What was asked for does not exist, or no longer."""
        libvirt = libvirt_module()
        missing = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)
        return self.code in missing

    @property
    def means_denied(self) -> bool:
        """The user, or this connection, may not do that."""
        libvirt = libvirt_module()
        return self.code in (
            libvirt.VIR_ERR_AUTH_CANCELLED,
            libvirt.VIR_ERR_AUTH_FAILED,
            libvirt.VIR_ERR_AUTH_UNAVAILABLE,
            libvirt.VIR_ERR_ACCESS_DENIED,
            libvirt.VIR_ERR_OPERATION_DENIED,
        )

    @property
    def means_no_answer(self) -> bool:
        """A guest's agent did not answer in time, or another command to it has not ended."""
        libvirt = libvirt_module()
        return self.code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_OPERATION_TIMEOUT)

    def is_a(self, *names: str) -> bool:
        """Whether it is one of these errors, by the last part of their names (VIR_ERR_...)."""
        return self.code in (getattr(libvirt_module(), f"VIR_ERR_{name}", None) for name in names)


@cache
def libvirt_module() -> ModuleType:
    """libvirt-python, imported when first needed; told not to write errors to stderr."""
    try:
        import libvirt
    except ImportError as error:
        raise HostError(
            "cannot use libvirt: its Python module is not installed",
            hint=f"pip install 'donjon[libvirt]' (or apt install python3-libvirt); {WITHOUT_LIBVIRT}",
        ) from error
    libvirt.registerErrorHandler(_say_nothing, None)
    return libvirt  # type: ignore[no-any-return]


def _say_nothing(_context: object, _error: object) -> None:
    """Errors are raised, not printed."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Translate libvirt's errors into "cannot WHAT: REASON"."""
    libvirt = libvirt_module()
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"cannot {what}: {error.get_error_message()}", code=error.get_error_code()) from error
