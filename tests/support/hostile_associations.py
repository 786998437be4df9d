"""What a peer may send instead of an association, or on one, each with the answer that the node owes.

The PDUs are built from PS3.8 and share no code with the product.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.network import (
    CT,
    EXPLICIT,
    VERIFICATION,
    associate_rq,
    command,
    data_set,
    echo_rq,
    item,
    pdu,
    pdv,
    store_rq,
    ui,
    us,
)

ACCEPTED, RELEASED, STORED, ECHOED = "A-ASSOCIATE-AC", "A-RELEASE-RP", "C-STORE-RSP 0000", "C-ECHO-RSP 0000"
INVALID, UNRECOGNIZED, UNEXPECTED, ABORTED = "A-ABORT 2,6", "A-ABORT 2,1", "A-ABORT 2,2", "A-ABORT 0,0"
OTHER_CONTEXT, STRANGER, NOT_CALLED = "A-ASSOCIATE-RJ 1,1,2", "A-ASSOCIATE-RJ 1,1,3", "A-ASSOCIATE-RJ 1,1,7"
NO_ANSWER = ""
ABSTRACT_CT, SYNTAX_EXPLICIT = item(0x30, CT.encode()), item(0x40, EXPLICIT.encode())
USER_INFORMATION = item(0x50, item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3.999"))
RELEASE, STORE, ECHO = pdu(5, bytes(4)), pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(3, 3, echo_rq()))
OBJECT = data_set()


@dataclass(frozen=True, kw_only=True)
class HostileStream:
    """Bytes on a connection and the answers that are owed to them, until the connection ends.

    Attributes
    ----------
    answers
        The PDUs that come back; an abort with its source and reason (PS3.8 9.3.8).
    """

    name: str
    group: str
    stream: bytes
    answers: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


def streams() -> tuple[HostileStream, ...]:
    """Return the whole corpus."""
    found = tuple(
        HostileStream(name=name, group=group, stream=stream, answers=tuple(answer for answer in said if answer))
        for group, cases in (
            ("no association", _first_pdus()),
            ("association request", _requests()),
            ("PDUs on an association", _pdus()),
            ("messages", _messages()),
        )
        for name, stream, *said in cases
    )
    assert len({case.name for case in found}) == len(found), "two cases have one name"
    return found


_Case = tuple[str, bytes, *tuple[str, ...]]


def request(
    contexts: bytes = item(0x20, bytes((1, 0, 0, 0)) + ABSTRACT_CT + SYNTAX_EXPLICIT),
    user_information: bytes = USER_INFORMATION,
    *,
    calling: bytes = b"SENDER          ",
    called: bytes = b"LOWDOSE         ",
    before: bytes = item(0x10, b"1.2.840.10008.3.1.1.1"),
) -> bytes:
    """Encode A-ASSOCIATE-RQ of any content."""
    return pdu(1, struct.pack(">HH", 1, 0) + called + calling + bytes(32) + before + contexts + user_information)


def context(number: int, *items: bytes) -> bytes:
    """Encode a presentation context item."""
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(items or (ABSTRACT_CT, SYNTAX_EXPLICIT)))


def _first_pdus() -> Iterator[_Case]:
    good = request()
    yield "nothing", b"", NO_ANSWER
    yield "one byte", b"\1", NO_ANSWER
    yield "half a request", good[: len(good) // 2], NO_ANSWER
    yield "a request of length 0", pdu(1, b""), INVALID
    yield "a request of 3 bytes", pdu(1, b"abc"), INVALID
    yield "a request of 4 GiB", b"\1\0\xff\xff\xff\xff" + bytes(100), UNRECOGNIZED
    yield "a request of 2 MiB", pdu(1, bytes(2 << 20)), UNRECOGNIZED
    yield "a request of 1 MiB of zeros", pdu(1, bytes(1 << 20)), INVALID
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", UNRECOGNIZED
    yield "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), UNRECOGNIZED
    yield "an acceptance first", pdu(2, bytes(4)), NO_ANSWER
    yield "a rejection first", pdu(3, bytes(4)), INVALID
    yield "an abort first", pdu(7, bytes(4)), NO_ANSWER
    for kind, name in ((4, "P-DATA"), (5, "a release"), (6, "a release's confirmation")):
        yield f"{name} first", pdu(kind, bytes(4)), UNEXPECTED
    for kind in (0, 8, 255):
        yield f"PDU type {kind} first", pdu(kind, bytes(4)), UNRECOGNIZED


def _requests() -> Iterator[_Case]:
    yield "no presentation contexts", request(b""), INVALID
    yield "no application context", request(before=b""), OTHER_CONTEXT
    yield "no user information", request(user_information=b""), ACCEPTED
    yield (
        "128 presentation contexts",
        request(b"".join(context(2 * n + 1) for n in range(128))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield "1000 presentation contexts", request(b"".join(context(2 * n % 256 + 1) for n in range(1000))), INVALID
    yield "two contexts of one ID", request(context(1) + context(1, item(0x30, b"1.2.3"), SYNTAX_EXPLICIT)), INVALID
    yield "a context of an even ID", request(context(2)), INVALID
    yield "a context of ID 0", request(context(0)), INVALID
    yield "a context of ID 255", request(context(255)) + RELEASE, ACCEPTED, RELEASED
    yield "a context without abstract syntax", request(context(1, SYNTAX_EXPLICIT)), INVALID
    yield "a context without transfer syntax", request(context(1, ABSTRACT_CT)), INVALID
    yield "a context of two abstract syntaxes", request(context(1, ABSTRACT_CT, ABSTRACT_CT, SYNTAX_EXPLICIT)), ACCEPTED
    yield (
        "a context of 1500 transfer syntaxes",
        request(context(1, ABSTRACT_CT, SYNTAX_EXPLICIT * 1500)) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield "an empty context", request(item(0x20, b"")), INVALID
    yield "an abstract syntax of 5000 bytes", request(context(1, item(0x30, b"1." * 2500), SYNTAX_EXPLICIT)), INVALID
    yield "an empty abstract syntax", request(context(1, item(0x30, b""), SYNTAX_EXPLICIT)), INVALID
    for name, uid in (
        ("a path", b"../../etc/passwd"),
        ("control characters", b"1.2\x00\x1b[2J\r\n"),
        ("two values", b"1.2\\1.3"),
    ):
        syntax = item(0x40, uid)
        yield (
            f"an abstract syntax of {name}",
            request(context(1, item(0x30, uid), SYNTAX_EXPLICIT)) + RELEASE,
            ACCEPTED,
            RELEASED,
        )
        yield f"a transfer syntax of {name}", request(context(1, ABSTRACT_CT, syntax)) + RELEASE, ACCEPTED, RELEASED
        yield f"an application context of {name}", request(before=item(0x10, uid)), OTHER_CONTEXT
    wild = b"\xff\xfe\xfd"
    yield "an abstract syntax that is no text", request(context(1, item(0x30, wild), SYNTAX_EXPLICIT)), INVALID
    yield "a transfer syntax that is no text", request(context(1, ABSTRACT_CT, item(0x40, wild))), INVALID
    yield "an application context that is no text", request(before=item(0x10, wild)), INVALID
    yield (
        "100000 bytes of user information",
        request(user_information=item(0x50, b"".join(item(0x54, b"\0\5\x31.2.3\0\0") for _ in range(4000))) * 2),
        ACCEPTED,
    )
    yield "10000 empty user items", request(user_information=item(0x50, item(0x77, b"") * 10_000)), INVALID
    yield (
        "10000 items of unknown kind",
        request(before=item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x99, b"") * 10_000),
        INVALID,
    )
    yield "a user item longer than its parent", request(user_information=item(0x50, b"\x51\0\xff\xff\0\0")), INVALID
    yield "an item longer than the request", request()[:-20] + b"\x50\0\xff\xff" + bytes(16), INVALID
    yield (
        "a maximum length of 2 bytes",
        request(user_information=item(0x50, item(0x51, b"\0\1") + item(0x52, b"1.2"))),
        INVALID,
    )
    yield (
        "a maximum length twice",
        request(user_information=item(0x50, item(0x51, b"\0\0\1\0") * 2 + item(0x52, b"1.2"))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield (
        "an announced maximum of 0",
        request(user_information=item(0x50, item(0x51, bytes(4)) + item(0x52, b"1.2"))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield (
        "an announced maximum of 1",
        request(user_information=item(0x50, item(0x51, b"\0\0\0\1") + item(0x52, b"1.2"))),
        ACCEPTED,
    )
    yield (
        "an announced maximum of 4 GiB",
        request(user_information=item(0x50, item(0x51, b"\xff" * 4) + item(0x52, b"1.2"))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    version = item(0x51, b"\0\0\x40\0") + item(0x52, b"1.2")
    yield (
        "an implementation version of 500 bytes",
        request(user_information=item(0x50, version + item(0x55, b"A" * 500))),
        INVALID,
    )
    yield (
        "an implementation version that is no text",
        request(user_information=item(0x50, version + item(0x55, b"\xff\x00\x1b"))) + RELEASE,
        INVALID,
    )
    identity = item(0x58, b"\1\1\0\4user\0\0")
    yield "a user identity", request(user_information=item(0x50, version + identity)) + RELEASE, ACCEPTED, RELEASED
    yield (
        "a user identity of unknown kind",
        request(user_information=item(0x50, version + item(0x58, b"\x63\1\xff\xff"))),
        INVALID,
    )
    yield (
        "an asynchronous window of 65535",
        request(user_information=item(0x50, version + item(0x53, b"\xff" * 4))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield (
        "roles of a class that nobody proposed",
        request(user_information=item(0x50, version + item(0x54, b"\0\5\x31.2.3\1\1"))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield (
        "extended negotiation of garbage",
        request(user_information=item(0x50, version + item(0x56, b"\xff\xff\x31"))) + RELEASE,
        ACCEPTED,
        RELEASED,
    )
    yield (
        "common extended negotiation of garbage",
        request(user_information=item(0x50, version + item(0x57, b"\xff\xff\x31"))) + RELEASE,
        INVALID,
    )
    for name, title in (
        ("zeros", bytes(16)),
        ("spaces", b" " * 16),
        ("control characters", b"\x1b[2J\r\n\t\x07 A"),
        ("bytes that are no text", b"\xff\xfe\x80A"),
    ):
        yield f"a calling AE title of {name}", request(calling=title.ljust(16)), INVALID
        yield f"a called AE title of {name}", request(called=title.ljust(16)), INVALID
    for name, title in (("a path", b"../../../etc/pas"), ("quotes", b"'\"; DROP TABLE x")):
        yield f"a calling AE title of {name}", request(calling=title), STRANGER
        yield f"a called AE title of {name}", request(called=title), NOT_CALLED


def _pdus() -> Iterator[_Case]:
    def on(*pieces: bytes) -> bytes:
        return associate_rq() + b"".join(pieces)

    for length in (0, 1, 5):
        yield f"P-DATA of {length} bytes", on(struct.pack(">BBI", 4, 0, length) + bytes(length)), ACCEPTED, INVALID
    yield "P-DATA of 4 GiB", on(b"\4\0\xff\xff\xff\xff" + bytes(100)), ACCEPTED, INVALID
    yield "P-DATA of 100 MB", on(struct.pack(">BBI", 4, 0, 100_000_000)), ACCEPTED, INVALID
    yield "P-DATA that ends early", on(pdu(4, pdv(1, 3, store_rq()))[:-10]), ACCEPTED
    yield "a PDV of length 0", on(pdu(4, struct.pack(">IBB", 0, 1, 3) + bytes(10))), ACCEPTED, INVALID
    yield "a PDV of length 1", on(pdu(4, struct.pack(">IBB", 1, 1, 3) + bytes(10))), ACCEPTED, INVALID
    yield "a PDV longer than its PDU", on(pdu(4, struct.pack(">IBB", 500, 1, 3) + bytes(10))), ACCEPTED, INVALID
    yield "a PDV of 4 GiB", on(pdu(4, struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + bytes(10))), ACCEPTED, INVALID
    yield "bytes after the last PDV", on(pdu(4, pdv(3, 3, echo_rq()) + b"abc")), ACCEPTED, ECHOED, INVALID
    yield "a PDV on a context of even ID", on(pdu(4, pdv(2, 3, echo_rq()))), ACCEPTED, INVALID
    yield "a PDV on a context that was not proposed", on(pdu(4, pdv(99, 3, echo_rq()))), ACCEPTED, INVALID
    yield (
        "a PDV of odd length",
        on(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 0, OBJECT[:33])), pdu(4, pdv(1, 2, OBJECT[33:])), RELEASE),
        ACCEPTED,
        STORED,
        RELEASED,
    )
    yield "every reserved bit of a PDV set", on(pdu(4, pdv(3, 0xFF, echo_rq())), RELEASE), ACCEPTED, ECHOED, RELEASED
    yield "a second request", on(associate_rq()), ACCEPTED, UNEXPECTED
    yield "an acceptance on an association", on(pdu(2, bytes(68))), ACCEPTED, UNEXPECTED
    yield "a rejection on an association", on(pdu(3, bytes(4))), ACCEPTED, UNEXPECTED
    yield "a confirmation of no release", on(pdu(6, bytes(4))), ACCEPTED, UNEXPECTED
    for kind in (0, 8, 0x41, 255):
        yield f"PDU type {kind} on an association", on(pdu(kind, bytes(4))), ACCEPTED, UNRECOGNIZED
    yield "two releases", on(RELEASE, RELEASE), ACCEPTED, RELEASED
    yield "a release that ends early", on(RELEASE[:8]), ACCEPTED
    yield "an abort that ends early", on(pdu(7, bytes(4))[:7]), ACCEPTED
    yield "an abort at once", on(pdu(7, bytes(4))), ACCEPTED
    yield (
        "a command and its data set in one PDU",
        on(pdu(4, pdv(1, 3, store_rq()) + pdv(1, 2, OBJECT)), RELEASE),
        ACCEPTED,
        STORED,
        RELEASED,
    )
    halves = pdv(1, 1, store_rq()[:31]) + pdv(1, 3, store_rq()[31:]) + pdv(1, 0, OBJECT[:50])
    yield (
        "a data set that begins in the command's PDU",
        on(pdu(4, halves), pdu(4, pdv(1, 2, OBJECT[50:])), RELEASE),
        ACCEPTED,
        STORED,
        RELEASED,
    )
    single = b"".join(pdu(4, pdv(1, 0, OBJECT[n : n + 1])) for n in range(len(OBJECT)))
    yield "a data set byte by byte", on(STORE, single, pdu(4, pdv(1, 2, b"")), RELEASE), ACCEPTED, STORED, RELEASED
    empty = pdu(4, pdv(1, 0, b"") * 1000) * 20
    yield "20000 empty fragments", on(STORE, empty, pdu(4, pdv(1, 2, OBJECT)), RELEASE), ACCEPTED, STORED, RELEASED


def _messages() -> Iterator[_Case]:
    def on(*pieces: bytes) -> bytes:
        return associate_rq() + b"".join(pieces)

    def sent(encoded: bytes) -> bytes:
        return on(pdu(4, pdv(1, 3, encoded)))

    whole = pdu(4, pdv(1, 2, OBJECT))
    yield "a data set without a command", on(whole), ACCEPTED, ABORTED
    yield "a data set after the last fragment", on(STORE, whole, whole), ACCEPTED, STORED, ABORTED
    yield "a command where the data set is due", on(STORE, STORE), ACCEPTED, ABORTED
    yield "a command in the middle of a data set", on(STORE, pdu(4, pdv(1, 0, OBJECT[:50])), ECHO), ACCEPTED, ABORTED
    yield "a data set in the middle of a command", on(pdu(4, pdv(1, 1, store_rq()[:20])), whole), ACCEPTED, ABORTED
    yield "a data set on another context", on(STORE, pdu(4, pdv(3, 2, OBJECT))), ACCEPTED, ABORTED
    yield (
        "a command on two contexts",
        on(pdu(4, pdv(1, 1, store_rq()[:20]) + pdv(3, 3, store_rq()[20:]))),
        ACCEPTED,
        ABORTED,
    )
    yield "a release where the data set is due", on(STORE, RELEASE), ACCEPTED, RELEASED
    yield (
        "a release in the middle of a data set",
        on(STORE, pdu(4, pdv(1, 0, OBJECT[:50])), RELEASE),
        ACCEPTED,
        RELEASED,
    )
    yield "a release in the middle of a command", on(pdu(4, pdv(1, 1, store_rq()[:20])), RELEASE), ACCEPTED, RELEASED
    yield "an abort in the middle of a data set", on(STORE, pdu(4, pdv(1, 0, OBJECT[:50])), pdu(7, bytes(4))), ACCEPTED
    yield "a connection lost in the middle of a data set", on(STORE, pdu(4, pdv(1, 0, OBJECT[:50]))), ACCEPTED
    yield "an empty command set", sent(b""), ACCEPTED, ABORTED
    yield "a command set of its group length alone", sent(command()), ACCEPTED, ABORTED
    yield "a command set that ends early", sent(store_rq()[:-3]), ACCEPTED, ABORTED
    yield "a command element of 4 GiB", sent(struct.pack("<HHI", 0, 2, 0xFFFFFFFE)), ACCEPTED, ABORTED
    yield "a command element of undefined length", sent(struct.pack("<HHI", 0, 2, 0xFFFFFFFF)), ACCEPTED, ABORTED
    yield "a command set of another group", sent(struct.pack("<HHI", 8, 0x16, 4) + b"1.2\0"), ACCEPTED, ABORTED
    yield (
        "a command set in explicit VR",
        sent(struct.pack("<HH2sHI", 0, 0, b"UL", 4, 50) + bytes(50)),
        ACCEPTED,
        ABORTED,
    )
    yield "a command set of zeros", sent(bytes(64)), ACCEPTED, ABORTED
    yield (
        "a command set of 70000 bytes",
        on(*(pdu(4, pdv(1, 1, struct.pack("<HHI", 0, 0x5010, 992) + bytes(992))) for _ in range(70))),
        ACCEPTED,
        ABORTED,
    )
    yield (
        "a command set of 8000 elements",
        on(pdu(4, pdv(3, 3, echo_rq() + struct.pack("<HHI", 0, 0x5010, 0) * 8000)), RELEASE),
        ACCEPTED,
        ECHOED,
        RELEASED,
    )
    yield (
        "a group length that lies",
        on(pdu(4, pdv(3, 3, struct.pack("<HHII", 0, 0, 4, 0x7FFFFFFF) + echo_rq()[12:])), RELEASE),
        ACCEPTED,
        ECHOED,
        RELEASED,
    )
    no_field = command((0x0002, ui(CT)), (0x0110, us(1)), (0x0800, us(0x0101)))
    yield "a command without Command Field", sent(no_field), ACCEPTED, ABORTED
    no_type = command((0x0002, ui(VERIFICATION)), (0x0100, us(0x0030)), (0x0110, us(1)))
    yield "a command without Command Data Set Type", on(pdu(4, pdv(3, 3, no_type)), RELEASE), ACCEPTED, ECHOED, RELEASED
    no_message = command((0x0002, ui(VERIFICATION)), (0x0100, us(0x0030)), (0x0800, us(0x0101)))
    yield "a command without Message ID", on(pdu(4, pdv(3, 3, no_message)), RELEASE), ACCEPTED, ECHOED, RELEASED
    wide = command((0x0100, struct.pack("<I", 0x30)), (0x0110, b"\1"), (0x0800, us(0x0101)))
    yield "a command with numbers of the wrong size", on(pdu(4, pdv(3, 3, wide)), RELEASE), ACCEPTED, ECHOED, RELEASED
    response = command((0x0100, us(0x8001)), (0x0120, us(1)), (0x0800, us(0x0101)), (0x0900, us(0)))
    yield "a response to nothing", sent(response), ACCEPTED, ABORTED
    yield (
        "a store request without UIDs",
        on(pdu(4, pdv(1, 3, command((0x0100, us(1)), (0x0110, us(1)), (0x0800, us(1))))), whole, RELEASE),
        ACCEPTED,
        "C-STORE-RSP A900",
        RELEASED,
    )
    find = command((0x0002, ui(CT)), (0x0100, us(0x0020)), (0x0110, us(1)), (0x0800, us(1)))
    yield "a query", on(pdu(4, pdv(1, 3, find)), whole, RELEASE), ACCEPTED, "RSP 8020 0211", RELEASED
    cancels = pdu(4, pdv(1, 3, command((0x0100, us(0x0FFF)), (0x0120, us(1)), (0x0800, us(0x0101)))))
    yield "1000 cancels", on(cancels * 1000, ECHO, RELEASE), ACCEPTED, ECHOED, RELEASED
