"""A small modality: sends files and folders of DICOM objects to a storage SCP, and tells what became of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.text import Text

from config.settings import DicomDestinationSettings, PeerTlsSettings
from dicom_node.destinations.base import DeliveryItem, ItemOutcome, Outcome
from dicom_node.destinations.storage_scu import StorageScu
from dicom_node.errors import OperationRefused
from dicom_node.tls import TlsUnusable, client_context

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""What a data set without a Part 10 header can begin with: group 0002 or 0008, in either byte order."""

_IDENTITY = ["SOPClassUID", "SOPInstanceUID"]


class NotSendable(Exception):
    """The file holds nothing that C-STORE can send; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A file that was not sent, and why; `will_pass` if sending it again later can help."""

    path: Path
    reason: str
    will_pass: bool = False


def with_tls(
    target: DicomDestinationSettings, *, ca: Path | None, certificate: Path | None, key: Path | None, check_name: bool
) -> DicomDestinationSettings:
    """Return the target as one that TLS is spoken with; OperationRefused where the files don't fit together."""
    try:
        tls = PeerTlsSettings(enabled=True, ca=ca, certificate=certificate, key=key, check_name=check_name)
        client_context(tls)
    except (ValidationError, TlsUnusable) as error:
        said = "name --certificate and --key together" if isinstance(error, ValidationError) else str(error)
        raise OperationRefused(said) from error
    return target.model_copy(update={"tls": tls})


@dataclass(frozen=True, kw_only=True)
class SendSummary:
    """What became of everything that was to be sent.

    Parameters
    ----------
    sent
        Objects that the peer has, warnings among them.
    warnings
        Objects that the peer has and had something to say about.
    failed
        Objects that it does not have.
    skipped
        Files that are no DICOM objects, or no storable ones.
    sent_bytes
        Of the files sent.
    seconds
        From the first association to the last answer.
    """

    sent: int
    warnings: tuple[Trouble, ...]
    failed: tuple[Trouble, ...]
    skipped: tuple[Trouble, ...]
    sent_bytes: int
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether there was something to send and all of it arrived."""
        return self.sent > 0 and not self.failed

    def as_json(self) -> dict[str, object]:
        """Return the object that `dicom-node send --json` prints."""

        def listed(troubles: Iterable[Trouble]) -> list[dict[str, object]]:
            return [{"path": str(t.path), "reason": t.reason, "will_pass": t.will_pass} for t in troubles]

        return {
            "sent": self.sent,
            "warnings": listed(self.warnings),
            "failed": listed(self.failed),
            "skipped": listed(self.skipped),
            "sent_bytes": self.sent_bytes,
            "seconds": round(self.seconds, 3),
        }


def parse_target(text: str) -> DicomDestinationSettings:
    """Read ``AET@HOST:PORT``, with an IPv6 address in brackets, as the settings of a destination.

    Raises
    ------
    OperationRefused
        The message says which part is wrong.
    """
    ae_title, at, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and ae_title.strip() and host and port):
        raise OperationRefused(f"{text!r} is not a target: write AET@HOST:PORT, for example LOWDOSE@127.0.0.1:11112")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise OperationRefused(f"{text!r}: write an IPv6 address in brackets, as in AET@[::1]:11112")
    if not port.isascii() or not port.isdigit():
        raise OperationRefused(f"{text!r}: the port {port!r} is not a number")
    try:
        return DicomDestinationSettings(name="target", ae_title=ae_title, host=host, port=int(port))
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][0]} {fault['input']!r}: {fault['msg']}" for fault in error.errors())
        raise OperationRefused(f"{text!r}: {faults}") from None


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files among `paths` and those in the folders among them, sorted, each folder after its files.

    Raises
    ------
    OperationRefused
        If a path does not exist.
    """
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        elif path.exists():
            yield path
        else:
            raise OperationRefused(f"{path} does not exist; give files or folders of DICOM objects")


def require_dicom(path: Path) -> None:
    """Raise `NotSendable` where a file begins neither as a Part 10 file nor as a data set."""
    with path.open("rb") as file:
        beginning = file.read(132)
    if beginning[128:] != b"DICM" and beginning[:2] not in _FIRST_GROUPS:
        raise NotSendable("not a DICOM file")


def read_item(path: Path, number: int) -> DeliveryItem:
    """Return what has to be known to send a file as it is; its data set is not read beyond the identity.

    A file without preamble or file meta information is read as the data set that it is, its encoding judged by its
    beginning. What the data set itself does not tell is taken from the file meta information.

    Raises
    ------
    NotSendable
        With the reason.
    """
    require_dicom(path)
    with path.open("rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_after_file_meta)
        offset = file.tell()
    identity, encoding = _read_identity(path)
    sop_class = str(identity.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", ""))
    instance = str(identity.get("SOPInstanceUID", "") or meta.get("MediaStorageSOPInstanceUID", ""))
    syntax = str(meta.get("TransferSyntaxUID", "")) or encoding
    if MediaStorageDirectoryStorage in (sop_class, meta.get("MediaStorageSOPClassUID")):
        raise NotSendable("a DICOMDIR, which is no storable object")
    if not sop_class or not instance:
        raise NotSendable("has no SOP Class UID or no SOP Instance UID")
    return DeliveryItem(
        instance_id=number,
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        transfer_syntax_uid=syntax,
        path=path,
        dataset_offset=offset,
    )


def _after_file_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _read_identity(path: Path) -> tuple[Dataset, str]:
    """Return the identifying attributes and the transfer syntax that the encoding amounts to."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_IDENTITY)
    except Exception:  # noqa: BLE001 - a broken data set ends in many kinds of exceptions; the peer shall judge it
        return Dataset(), ImplicitVRLittleEndian
    implicit, little = dataset.original_encoding
    if implicit is None or implicit:
        return dataset, ImplicitVRLittleEndian
    return dataset, ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def read_items(paths: Iterable[Path]) -> tuple[list[DeliveryItem], list[Trouble]]:
    """Return what can be sent of the files and folders, and what is skipped and why."""
    items: list[DeliveryItem] = []
    skipped: list[Trouble] = []
    for path in find_files(paths):
        try:
            items.append(read_item(path, len(items)))
        except NotSendable as error:
            skipped.append(Trouble(path=path, reason=str(error)))
        except Exception as error:  # noqa: BLE001 - the top of the loop over files that can hold anything
            skipped.append(Trouble(path=path, reason=f"can't be read: {error}"))
    return items, skipped


def send_items(
    items: Sequence[DeliveryItem],
    target: DicomDestinationSettings,
    *,
    calling_ae_title: str,
    on_outcome: Callable[[DeliveryItem, ItemOutcome], None] | None = None,
) -> SendSummary:
    """Send `items`, each as it lies in its file where the peer allows it, and return what became of them.

    Parameters
    ----------
    items
        From `read_items`; `instance_id` is the place in the sequence.
    target
        From `parse_target`, or a destination of the settings.
    calling_ae_title
        As whom we call.
    on_outcome
        Told of each object as soon as its outcome is known.
    """
    sent_bytes = 0
    sent: list[ItemOutcome] = []
    warnings: list[Trouble] = []
    failed: list[Trouble] = []

    def note(outcome: ItemOutcome) -> None:
        nonlocal sent_bytes
        item = items[outcome.instance_id]
        trouble = Trouble(path=item.path, reason=outcome.reason, will_pass=outcome.outcome is Outcome.RETRY)
        if outcome.outcome is Outcome.SENT:
            sent.append(outcome)
            sent_bytes += item.path.stat().st_size
            if outcome.reason:
                warnings.append(trouble)
        else:
            failed.append(trouble)
        if on_outcome is not None:
            on_outcome(item, outcome)

    begin = time.perf_counter()
    StorageScu(target, node_ae_title=calling_ae_title, label="", quotes_peer=True).deliver(items, on_outcome=note)
    return SendSummary(
        sent=len(sent),
        warnings=tuple(warnings),
        failed=tuple(failed),
        skipped=(),
        sent_bytes=sent_bytes,
        seconds=time.perf_counter() - begin,
    )


def send(
    paths: Iterable[Path], target: DicomDestinationSettings, *, calling_ae_title: str, console: Console
) -> SendSummary:
    """Send files and folders with a progress bar, one line for each failure, and a summary, all on `console`.

    Raises
    ------
    OperationRefused
        If a path does not exist.
    """
    with console.status("Reading"):
        items, skipped = read_items(paths)
        sizes = [item.path.stat().st_size for item in items]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"0 of {len(items)} sent", total=sum(sizes))
        sent, said = 0, ""

        def show(item: DeliveryItem, outcome: ItemOutcome) -> None:
            nonlocal sent, said
            if outcome.outcome is Outcome.SENT:
                sent += 1
                progress.update(task, advance=sizes[item.instance_id], description=f"{sent} of {len(items)} sent")
            if outcome.reason and outcome.reason != said:
                # A peer that refuses the association refuses every object in the same words: once is enough.
                said = outcome.reason
                word = "stored, but" if outcome.outcome is Outcome.SENT else "not sent"
                # Text, as paths and reasons of a peer can look like markup.
                console.print(Text(f"{item.path}: {word}: {outcome.reason}"), soft_wrap=True)

        summary = send_items(items, target, calling_ae_title=calling_ae_title, on_outcome=show)
    summary = replace(summary, skipped=tuple(skipped))
    console.print(Text(_summary_line(summary, target)), soft_wrap=True)
    return summary


def _summary_line(summary: SendSummary, target: DicomDestinationSettings) -> str:
    megabytes = summary.sent_bytes / 1e6
    parts = [f"{summary.sent} sent to {target.ae_title}"]
    parts += [f"{len(summary.failed)} not sent"] if summary.failed else []
    parts += [f"{len(summary.skipped)} skipped (no storable DICOM object)"] if summary.skipped else []
    rate = f", {megabytes / summary.seconds:.0f} MB/s" if summary.sent and summary.seconds else ""
    return f"{', '.join(parts)}; {megabytes:.1f} MB in {summary.seconds:.1f} s{rate}"
