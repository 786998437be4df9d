"""The errors of the node; a class says what happens next.

::

    NodeError
    ├── ReceiveError                      becomes a C-STORE status (`status`, `comment`)
    │   ├── OutOfResources                A700: disk full or broken, ledger unavailable; the sender tries again
    │   │   └── StoreUnavailable          (in object_keeping) the place where objects lie does not answer now
    │   ├── DatasetMismatch               A900: data set and command disagree, or UIDs are missing
    │   └── UnparsableDataset             C000: not a data set; a copy is quarantined
    ├── DeliveryError                     `transient` says whether trying again can help
    │   ├── TransientFailure              tried again with back-off
    │   │   ├── ConnectionFailed          no TCP connection
    │   │   │   └── TlsFailed             or no TLS on it
    │   │   ├── AssociationRejectedTransient
    │   │   ├── AssociationAborted        by the peer or the transport
    │   │   ├── NetworkTimeout            no answer in time
    │   │   └── PeerBusy                  a status such as A7xx
    │   └── PermanentFailure              kept as a dead letter with its reason
    │       ├── AssociationRejectedPermanent
    │       ├── ContextRejected           no presentation context for the object
    │       └── StoreRefused              a status such as A9xx or Cxxx
    ├── UnsupportedPixels                 the image is passed through, with the reason
    ├── DerivationError                   likewise
    ├── LedgerError
    │   ├── LedgerUnavailable             the database can't be reached or is locked
    │   ├── LedgerOutdated                its tables are of an older or a newer version of the program
    │   └── IllegalTransition             a state change that the tables of `states` do not know
    └── OperationRefused                  a command can't be carried out; the message says what to do
"""

from __future__ import annotations

import os


class NodeError(Exception):
    """Base of every error that the node raises on purpose."""


class ReceiveError(NodeError):
    """A C-STORE request that can't be answered with success.

    Parameters
    ----------
    comment
        Becomes Error Comment (0000,0902), which holds 64 characters.
    """

    status = 0x0110

    def __init__(self, comment: str) -> None:
        super().__init__(comment)
        self.comment = comment[:64]


class OutOfResources(ReceiveError):
    """The object can't be kept safely now: the sender shall try again later (PS3.4 B.2.3)."""

    status = 0xA700


class DatasetMismatch(ReceiveError):
    """The data set does not belong to the command that announced it (PS3.4 B.2.3)."""

    status = 0xA900


class UnparsableDataset(ReceiveError):
    """The bytes are no data set in the negotiated transfer syntax (PS3.4 B.2.3)."""

    status = 0xC000


class DeliveryError(NodeError):
    """A delivery, or one object of it, did not succeed."""

    transient = True


class TransientFailure(DeliveryError):
    """Trying again later can help."""


class ConnectionFailed(TransientFailure):
    """No TCP connection to the destination."""


class TlsFailed(ConnectionFailed):
    """The TLS handshake failed: somebody has to look after a certificate, here or there."""


class AssociationAborted(TransientFailure):
    """The peer or the transport ended the association."""


class NetworkTimeout(TransientFailure):
    """The peer did not answer in time."""


class PeerBusy(TransientFailure):
    """The peer answered with a status that names a passing condition."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PermanentFailure(DeliveryError):
    """Trying again changes nothing until somebody changes something."""

    transient = False


class _Rejection(DeliveryError):
    """A-ASSOCIATE-RJ with its three numbers (PS3.8 9.3.4)."""

    def __init__(self, message: str, *, result: int, source: int, reason: int) -> None:
        super().__init__(message)
        self.result, self.source, self.reason = result, source, reason


class AssociationRejectedTransient(_Rejection, TransientFailure):
    """The peer takes no association now."""


class AssociationRejectedPermanent(_Rejection, PermanentFailure):
    """The peer does not take associations from us as we are set up."""


class ContextRejected(PermanentFailure):
    """The peer accepts the SOP class in no transfer syntax that we can send."""


class StoreRefused(PermanentFailure):
    """The peer answered a C-STORE with a permanent failure."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnsupportedPixels(NodeError):
    """The pixel data is not of a kind that can be denoised; the message says why."""


class DerivationError(NodeError):
    """No valid derived object can be made from the source; the message says why."""


class LedgerError(NodeError):
    """Base of the ledger's errors."""


class LedgerUnavailable(LedgerError):
    """The ledger's database can't be reached, is locked, or is full.

    Parameters
    ----------
    may_be_committed
        The connection was lost, or the disk failed, while the database committed: what was to be written may be there.
    """

    def __init__(self, message: str, *, may_be_committed: bool = False) -> None:
        super().__init__(message)
        self.may_be_committed = may_be_committed


class LedgerOutdated(LedgerError):
    """The ledger's tables are those of another version of the program; the message says what to do.

    Parameters
    ----------
    version
        Of the ledger's tables.
    """

    def __init__(self, message: str, version: int) -> None:
        super().__init__(message)
        self.version = version


class IllegalTransition(LedgerError):
    """A state change that is not in the transition tables, or that another process made first."""


class OperationRefused(NodeError):
    """A command can't be carried out as things stand; the message says what to do."""


def describe(error: BaseException) -> str:
    """Return what may be said of an error in a log or a ledger.

    Our own errors are worded without values of attributes, and the system's have none. What libraries say often quotes
    the value that they stumbled over, which may be the patient's name: of them only the kind is told.
    """
    if isinstance(error, NodeError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: {os.strerror(error.errno)}"
    return type(error).__name__
