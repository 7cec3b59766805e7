# SPDX-License-Identifier: Apache-2.0
"""A definition's XML as a tree that is written back as it was read: same prefixes, order and white space.

Comments are not kept (libvirt does not keep them either).
Namespaces are not resolved, so that a prefix stays what it is: an element of QEMU's namespace is "qemu:commandline".
Source: pyexpat (a parser without a namespace separator), libvirt's `virsh dumpxml` for quotes and escapes.
"""

from __future__ import annotations

from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from donjon.errors import ConfigError

MAX_SIZE = 4 << 20
"""In bytes; a large definition has 50 kB."""

MAX_DEPTH = 100

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;", "\r": "&#13;"})
_ATTRIBUTE_ESCAPES = _ESCAPES | str.maketrans({"\n": "&#10;", "\t": "&#9;"})


def parse_document(text: str) -> Element:
    """The root element of an XML text. A DOCTYPE is refused, and with it every entity that is not XML's own.

    Raises:
        ConfigError: it is not XML, has a DOCTYPE, or is too large or too deep to be a definition.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise _refused("not text") from error
    if size > MAX_SIZE:
        raise _refused(f"larger than {MAX_SIZE >> 20} MiB")
    reader = _Reader()
    try:
        reader.parser.Parse(text, True)
    except expat.ExpatError as error:
        raise _refused(f"not XML: line {error.lineno}: {expat.ErrorString(error.code)}") from error
    return reader.builder.close()


def format_document(root: Element) -> str:
    """The XML text of an element and all within, quoted as libvirt does; ends with a newline."""
    return "".join(_written(root)).rstrip("\n") + "\n"


class _Reader:
    """Builds the tree from what the parser meets."""

    def __init__(self) -> None:
        self.builder = TreeBuilder()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self._depth = 0

    def _doctype(self, *_: object) -> NoReturn:
        raise _refused("has a DOCTYPE")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} elements deep")
        self.builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self.builder.end(tag)


def _written(element: Element) -> list[str]:
    tail = (element.tail or "").translate(_ESCAPES)
    opening = element.tag + "".join(f" {name}='{_attribute(value)}'" for name, value in element.attrib.items())
    if not len(element) and not element.text:
        return [f"<{opening}/>", tail]
    inside = [piece for child in element for piece in _written(child)]
    return [f"<{opening}>", (element.text or "").translate(_ESCAPES), *inside, f"</{element.tag}>", tail]


def _attribute(value: str) -> str:
    return value.translate(_ATTRIBUTE_ESCAPES)


def _refused(reason: str) -> ConfigError:
    return ConfigError(f"cannot read the definition: {reason}", hint="give XML as `virsh dumpxml --inactive` prints it")
