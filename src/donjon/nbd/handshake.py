# SPDX-License-Identifier: Apache-2.0
"""A server's side of the negotiation with one client: which export, by which means.

Source: the NetworkBlockDevice project's doc/proto.md, "Fixed newstyle negotiation", "SELECTIVETLS / FORCEDTLS".
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from donjon.nbd import server_protocol as protocol
from donjon.nbd.export import Export
from donjon.nbd.negotiation import Flag, Option, OptionReplyType
from donjon.nbd.server_protocol import ClientError
from donjon.nbd.stream import Stream

_WRITABLE_FLAGS = Flag.SEND_FLUSH | Flag.SEND_FUA | Flag.SEND_TRIM | Flag.SEND_WRITE_ZEROES


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a client and we have agreed upon; context ids are places in `contexts`, and only these may be used."""

    export: Export
    structured: bool
    contexts: tuple[str, ...]


def flags_of(export: Export) -> Flag:
    """What it can do; several connections see the same where nobody writes."""
    if export.read_only:
        return Flag.HAS_FLAGS | Flag.READ_ONLY | Flag.SEND_FLUSH | Flag.CAN_MULTI_CONN
    return Flag.HAS_FLAGS | _WRITABLE_FLAGS


def negotiate(stream: Stream, exports: Mapping[str, Export], tls: ssl.SSLContext | None) -> Agreement | None:
    """Answer a client's options until it has chosen; None: it has left.

    Args:
        stream: connected to the client.
        exports: by name.
        tls: nothing is told or given but by TLS; None: TLS is not offered.

    Raises:
        ClientError: it does not follow the protocol, or wants what there is not in a way that allows no answer.
        OSError: the connection broke, or nothing came in time.
    """
    return _Handshake(stream, exports, tls).run()


class _Left(Exception):  # noqa: N818 - no error
    """The client takes its leave."""


class _Handshake:
    def __init__(self, stream: Stream, exports: Mapping[str, Export], tls: ssl.SSLContext | None) -> None:
        self._stream = stream
        self._exports = exports
        self._tls = tls
        self._padded = False
        self._structured = False
        self._contexts: tuple[str, tuple[str, ...]] = ("", ())
        self._agreed: Agreement | None = None
        self._answers: dict[int, Callable[[int, bytes], None]] = {
            Option.EXPORT_NAME: self._export_name,
            Option.ABORT: self._abort,
            Option.LIST: self._list,
            Option.STARTTLS: self._start_tls,
            Option.INFO: self._info,
            Option.GO: self._go,
            Option.STRUCTURED_REPLY: self._structured_reply,
            Option.LIST_META_CONTEXT: self._list_contexts,
            Option.SET_META_CONTEXT: self._set_contexts,
        }

    def run(self) -> Agreement | None:
        self._stream.send(protocol.greeting())
        self._padded = protocol.parse_client_greeting(self._stream.receive(protocol.CLIENT_GREETING_LENGTH))
        try:
            while self._agreed is None:
                self._answer_one()
        except _Left:
            return None
        return self._agreed

    def _answer_one(self) -> None:
        asked, length = protocol.parse_option_head(self._stream.receive(protocol.OPTION_HEAD_LENGTH))
        payload = self._stream.receive(length)
        answer = self._answers.get(asked)
        if self._tls and not self._stream.encrypted and asked not in {Option.STARTTLS, Option.ABORT}:
            if asked == Option.EXPORT_NAME:
                raise ClientError("it asks for an export without TLS")
            self._reply(asked, OptionReplyType.ERR_TLS_REQD, "this server speaks TLS only")
        elif answer is None:
            self._reply(asked, OptionReplyType.ERR_UNSUP)
        elif asked == Option.EXPORT_NAME:
            answer(asked, payload)
        else:
            try:
                answer(asked, payload)
            except ClientError as error:
                self._reply(asked, OptionReplyType.ERR_INVALID, str(error))

    def _reply(self, asked: int, kind: OptionReplyType, payload: str | bytes = b"") -> None:
        self._stream.send(protocol.option_reply(asked, kind, payload.encode() if isinstance(payload, str) else payload))

    def _acknowledge(self, asked: int) -> None:
        self._reply(asked, OptionReplyType.ACK)

    def _export_name(self, _asked: int, payload: bytes) -> None:
        name = protocol.parse_name(payload)
        export = self._exports.get(name)
        if export is None:
            raise ClientError(f"it asks for an export that there is not: {name!r}")
        self._stream.send(protocol.export_name_answer(export.size, flags_of(export), padded=self._padded))
        self._agree(name, export)

    def _abort(self, asked: int, _payload: bytes) -> None:
        self._acknowledge(asked)
        raise _Left

    def _list(self, asked: int, payload: bytes) -> None:
        _check_empty(payload)
        for name in self._exports:
            self._reply(asked, OptionReplyType.SERVER, protocol.server_payload(name))
        self._acknowledge(asked)

    def _start_tls(self, asked: int, payload: bytes) -> None:
        _check_empty(payload)
        if self._tls is None:
            self._reply(asked, OptionReplyType.ERR_UNSUP, "this server has no TLS")
            return
        if self._stream.encrypted:
            raise ClientError("it asks for TLS in TLS")
        self._acknowledge(asked)
        self._stream.start_tls(self._tls)

    def _info(self, asked: int, payload: bytes) -> None:
        self._describe(asked, payload)

    def _go(self, asked: int, payload: bytes) -> None:
        if (found := self._describe(asked, payload)) is not None:
            self._agree(*found)

    def _describe(self, asked: int, payload: bytes) -> tuple[str, Export] | None:
        name = protocol.parse_export_request(payload).name
        export = self._exports.get(name)
        if export is None:
            self._reply(asked, OptionReplyType.ERR_UNKNOWN, f"there is no export {name!r}")
            return None
        self._reply(asked, OptionReplyType.INFO, protocol.export_payload(export.size, flags_of(export)))
        self._reply(asked, OptionReplyType.INFO, protocol.block_size_payload())
        self._acknowledge(asked)
        return name, export

    def _structured_reply(self, asked: int, payload: bytes) -> None:
        _check_empty(payload)
        self._structured = True
        self._acknowledge(asked)

    def _list_contexts(self, asked: int, payload: bytes) -> None:
        self._answer_contexts(asked, payload)

    def _set_contexts(self, asked: int, payload: bytes) -> None:
        self._contexts = ("", ())
        if not self._structured:
            raise ClientError("contexts go with structured replies only")
        self._contexts = self._answer_contexts(asked, payload)

    def _answer_contexts(self, asked: int, payload: bytes) -> tuple[str, tuple[str, ...]]:
        """Name what there is of what is asked for; of a list also what begins so ("base:"), or all."""
        name, queries = protocol.parse_context_request(payload)
        export = self._exports.get(name)
        if export is None:
            self._reply(asked, OptionReplyType.ERR_UNKNOWN, f"there is no export {name!r}")
            return "", ()
        listing = asked == Option.LIST_META_CONTEXT
        found = [context for context in export.contexts if _is_meant(context, queries, listing=listing)]
        for context in found:
            number = export.contexts.index(context)
            self._reply(asked, OptionReplyType.META_CONTEXT, protocol.context_payload(number, context))
        self._acknowledge(asked)
        return name, tuple(found)

    def _agree(self, name: str, export: Export) -> None:
        of, contexts = self._contexts
        self._agreed = Agreement(export, self._structured, contexts if of == name else ())


def _is_meant(context: str, queries: Sequence[str], *, listing: bool) -> bool:
    if not listing:
        return context in queries
    return not queries or any(
        context == query or (query[-1:] == ":" and context.startswith(query)) for query in queries
    )


def _check_empty(payload: bytes) -> None:
    if payload:
        raise ClientError("it says more than the option takes")
