"""An S3 service for tests: moto's server, in an environment of its own (`scripts/test` makes it in .moto)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import obstore
import pytest
from obstore.store import S3Store

from tests.support.node import REPOSITORY
from tests.support.peers import LOOPBACK, find_free_port, is_listening, wait_until

# moto needs another dateutil than the product has, so it can't be installed beside it.
_OURS = REPOSITORY / ".moto" / "bin" / "moto_server"
MOTO_SERVER = str(_OURS) if _OURS.exists() else None
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
BUCKET = "objects"

requires_moto = pytest.mark.skipif(MOTO_SERVER is None, reason="moto is not installed (scripts/test makes .moto)")


class ObjectStorage:
    """A running S3 service with one empty bucket; it can be made to stall."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self.endpoint = f"http://{LOOPBACK}:{self.port}"
        self._log = folder / "moto.txt"

    @property
    def settings(self) -> dict[str, object]:
        """The table [storage] for it."""
        return {"objects": "s3", "bucket": BUCKET, "endpoint": self.endpoint, "prefix": "node"}

    def client(self) -> S3Store:
        """Return a client of the bucket that shares no code with the product."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id="test",
            secret_access_key="test",
            client_options={"allow_http": True},
        )

    def __enter__(self) -> Self:
        assert MOTO_SERVER is not None
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [MOTO_SERVER, "-H", LOOPBACK, "-p", str(self.port)],
                stdout=log,
                stderr=log,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )
        wait_until(lambda: is_listening(self.port), timeout_s=60, what="moto")
        curl = shutil.which("curl")
        assert curl is not None, "curl is not installed"
        signed = ["-H", "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"]
        subprocess.run([curl, "-sf", "-X", "PUT", *signed, f"{self.endpoint}/{BUCKET}"], check=True, timeout=30)
        assert list(obstore.list(self.client())) == []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.mend()
        self._process.kill()
        self._process.wait(10)

    def stall(self) -> None:
        """Answer nobody until `mend`."""
        self._process.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        """Answer again."""
        self._process.send_signal(signal.SIGCONT)
