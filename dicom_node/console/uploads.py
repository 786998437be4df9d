"""A file that a form brings, streamed to the folder for objects on their way and deleted after use."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser
from starlette.concurrency import run_in_threadpool

from dicom_node.console.access import CSRF_FIELD, ForgedRequest, Require, SignedIn
from dicom_node.console.permissions import Permission
from dicom_node.errors import OperationRefused

MAX_BYTES: Final = 512 << 20
_FIELD_BYTES: Final = 4096
_BEFORE_TOKEN: Final = 64 << 10
"""Bytes that may come before the token of the form: it stands before the file."""


class RequireUpload(Require):
    """`Require` for a form with a file: the permission is asked before a byte is read, the token by `uploaded`."""

    def __init__(self, permission: Permission) -> None:
        super().__init__(permission, reads_form=False)


@dataclass
class Upload:
    """What a form brought: its fields, and the file under `path`; None where none was chosen."""

    fields: dict[str, str] = field(default_factory=dict)
    path: Path | None = None
    name: str = ""
    size: int = 0
    kept: list[File] = field(default_factory=list)

    def take_field(self, found: Field) -> None:
        """Keep a field."""
        self.fields[_text(found.field_name)] = _text(found.value)

    def take_file(self, found: File) -> None:
        """Keep the file, on disk."""
        self.kept.append(found)
        found.flush_to_disk()
        if found.size and found.actual_file_name:
            self.path, self.size = Path(_text(found.actual_file_name)), found.size
            self.name = _text(found.file_name)


@asynccontextmanager
async def uploaded(request: Request, signed_in: SignedIn, folder: Path) -> AsyncIterator[Upload]:
    """Give what the form of `request` brought; its file is deleted at the end of the block.

    Raises
    ------
    ForgedRequest
        If the form is not of this session; known before the file is read.
    OperationRefused
        If it is too large, or no form.
    """
    upload = Upload()
    config: dict[Any, Any] = {
        "UPLOAD_DIR": str(folder),
        "MAX_MEMORY_FILE_SIZE": 1 << 20,
        "MAX_FIELDS": 16,
        "MAX_FIELD_SIZE": _FIELD_BYTES,
    }
    headers = {"Content-Type": request.headers.get("content-type", "").encode("latin-1")}
    try:
        parser = create_form_parser(headers, upload.take_field, upload.take_file, config)
        read = 0
        async for chunk in request.stream():
            read += len(chunk)
            if read > MAX_BYTES:
                most = MAX_BYTES >> 20
                raise OperationRefused(f"larger than {most} MB; use dicom-node route test FILE -c FILE")
            await run_in_threadpool(parser.write, chunk)
            if read > _BEFORE_TOKEN:
                _require_token(upload, signed_in)
        await run_in_threadpool(parser.finalize)
        _require_token(upload, signed_in)
        yield upload
    except (FormParserError, ValueError) as error:
        raise OperationRefused("the browser sent no form with a file; load the page again") from error
    finally:
        for one in upload.kept:
            # The file of it goes with its last handle.
            one.close()
        if upload.path is not None:
            upload.path.unlink(missing_ok=True)


def _require_token(upload: Upload, signed_in: SignedIn) -> None:
    if not hmac.compare_digest(upload.fields.get(CSRF_FIELD, "").encode(), signed_in.csrf.encode()):
        raise ForgedRequest("the form is not of this session: load the page again")


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
