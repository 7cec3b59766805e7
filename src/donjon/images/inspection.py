# SPDX-License-Identifier: Apache-2.0
"""Finding out what a disk image is, with QEMU's help, and saying clearly when it cannot be backed up."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from donjon.errors import HostError
from donjon.host_command import run
from donjon.images.image_info import Bitmap, ImageInfo, ImageLayer
from donjon.images.stamps import stamp_files

FORMATS = frozenset({"raw", "qcow2", "qcow", "qed", "vmdk", "vhdx", "vdi", "vpc", "parallels"})
ALIASES = {"iso": "raw"}
TIMEOUT_S = 120
_NBD = re.compile(r"nbd(\+\w+)?:|json:.*\bnbd\b")
COULD_NOT_OPEN = re.compile(r"Could not open '(?P<file>[^\n]+?)': (?P<reason>[^\n]+)")


class _Bitmap(msgspec.Struct):
    name: str
    granularity: int
    flags: list[str]


class _Extent(msgspec.Struct):
    filename: str


class _Details(msgspec.Struct, rename="kebab"):
    compat: str | None = None
    refcount_bits: int | None = None
    lazy_refcounts: bool | None = None
    extended_l2: bool | None = None
    compression_type: str | None = None
    data_file: str | None = None
    bitmaps: list[_Bitmap] = []
    extents: list[_Extent] = []


class _FormatSpecific(msgspec.Struct):
    data: _Details = msgspec.field(default_factory=_Details)


class _Layer(msgspec.Struct, rename="kebab"):
    filename: str
    format: str
    virtual_size: int
    cluster_size: int | None = None
    encrypted: bool = False
    snapshots: list[msgspec.Raw] = []
    format_specific: _FormatSpecific = msgspec.field(default_factory=_FormatSpecific)


def probe(path: str | Path, declared_format: str | None = None) -> ImageInfo:
    """Find out what a disk image is.

    An image declared raw is never looked into: what stands at its beginning was written by the guest, which could
    pass it off as another format with a backing file of its choice.

    Args:
        path: of a file or block device.
        declared_format: as its owner states it; None: QEMU guesses.

    Raises:
        HostError: it, or an image behind it, is missing, unreadable, encrypted or of an unknown format.
    """
    path = os.path.abspath(path)  # noqa: PTH100 - a leading / keeps QEMU from reading a protocol into the name
    size = _check_readable(path)
    image_format = ALIASES.get(declared_format or "", declared_format)
    if image_format == "raw":
        return _raw(path, size)
    if image_format is not None and image_format not in FORMATS:
        raise HostError(f"cannot read image {path}: donjon knows no format {image_format!r}")
    before = stamp_files([path])
    layers = _ask_qemu(path, image_format)
    top = layers[0]
    if top.format == "raw":
        return _raw(path, size)
    _check_supported(path, layers)
    chain = tuple(_layer(layer) for layer in layers)
    details = top.format_specific.data
    return ImageInfo(
        path=path,
        format=top.format,
        size=top.virtual_size,
        chain=chain,
        stamps=before + stamp_files([file for layer in chain for file in layer.files][1:]),
        options=_options(top),
        bitmaps=tuple(_bitmap(bitmap) for bitmap in details.bitmaps),
        internal_snapshots=bool(top.snapshots),
    )


def _raw(path: str, size: int) -> ImageInfo:
    chain = (ImageLayer(path, "raw", (path,)),)
    return ImageInfo(path=path, format="raw", size=size, chain=chain, stamps=stamp_files([path]))


def _check_readable(path: str) -> int:
    """Size of the file or device itself, in bytes."""
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            raise HostError(f"cannot read image {path}: it is a directory")
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise HostError(f"cannot read image {path}: it is neither a file nor a block device")
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.lseek(file, 0, os.SEEK_END)
        finally:
            os.close(file)
    except FileNotFoundError as error:
        raise HostError(f"cannot read image {path}: it does not exist") from error
    except PermissionError as error:
        raise HostError(f"cannot read image {path}: no permission", hint="run donjon as root") from error
    except OSError as error:
        raise HostError(f"cannot read image {path}: {error.strerror}") from error


def _ask_qemu(path: str, image_format: str | None) -> list[_Layer]:
    declared = ["-f", image_format] if image_format else []
    argv = ["qemu-img", "info", "--output=json", "--backing-chain", "-U", *declared, path]
    done = run(argv, timeout_s=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise _explain(path, done.complaint)
    try:
        layers = msgspec.json.decode(done.stdout, type=list[_Layer])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read image {path}: qemu-img says something unexpected: {error}") from error
    if not layers:
        raise HostError(f"cannot read image {path}: qemu-img says nothing about it")
    layers[0].filename = path
    return layers


def _explain(path: str, complaint: str) -> HostError:
    """What QEMU says, as a sentence that names the file at fault."""
    failures = list(COULD_NOT_OPEN.finditer(complaint))
    if not failures:
        return HostError(f"cannot read image {path}: {complaint.removeprefix('qemu-img: ')}")
    file, reason = failures[-1]["file"], failures[-1]["reason"].rpartition("': ")[2]
    if file == path:
        return HostError(f"cannot read image {path}: {reason}")
    if _NBD.match(file):
        return HostError(
            f"cannot read image {path}: the NBD server of its backing image cannot be reached: {reason}",
            hint="if the VM runs from a repository (`donjon instant` shows it), `donjon restore VM --resume` serves it",
        )
    return HostError(f"cannot read image {path}: its backing file {file} cannot be opened: {reason}")


def _check_supported(path: str, layers: list[_Layer]) -> None:
    for layer in layers:
        if layer.encrypted:
            raise HostError(
                f"cannot read image {path}: {layer.filename} is encrypted by QEMU",
                hint="encryption inside the guest is no obstacle",
            )
        if layer.format not in FORMATS:
            raise HostError(f"cannot read image {path}: donjon does not know the format {layer.format!r}")


def _layer(layer: _Layer) -> ImageLayer:
    details = layer.format_specific.data
    parts = [extent.filename for extent in details.extents] + ([details.data_file] if details.data_file else [])
    folder = os.path.dirname(layer.filename)  # noqa: PTH120 - a text, which need not be a path of this host
    resolved = [os.path.join(folder, part) for part in parts]  # noqa: PTH118
    return ImageLayer(layer.filename, layer.format, tuple(dict.fromkeys([layer.filename, *resolved])))


def _bitmap(bitmap: _Bitmap) -> Bitmap:
    return Bitmap(bitmap.name, bitmap.granularity, "auto" in bitmap.flags, "in-use" not in bitmap.flags)


def _options(top: _Layer) -> dict[str, str]:
    if top.format != "qcow2":
        return {}
    details = top.format_specific.data
    known = {
        "compat": details.compat,
        "cluster_size": top.cluster_size,
        "refcount_bits": details.refcount_bits,
        "lazy_refcounts": details.lazy_refcounts,
        "extended_l2": details.extended_l2,
        "compression_type": details.compression_type,
    }
    return {name: _word(value) for name, value in known.items() if value is not None}


def _word(value: str | int) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
