"""How full the disks were: samples for the forecast of when they are full."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from sqlalchemy import delete, insert, select

from dicom_node.disk_space import FileSystem, Usage
from dicom_node.ledger.database import Database
from dicom_node.ledger.schema import disk_sample

KEEP_S = 48 * 3600.0


class DiskSampleLedger:
    """Samples of this machine."""

    def __init__(self, database: Database, host: str | None = None) -> None:
        self._database = database
        self._host = host or socket.gethostname()

    def record(self, usages: Sequence[tuple[FileSystem, Usage]]) -> None:
        """Keep one sample of each file system, and drop those that are too old."""
        now = self._database.now()
        with self._database.write() as connection:
            connection.execute(
                delete(disk_sample).where(disk_sample.c.host == self._host, disk_sample.c.at < now - KEEP_S)
            )
            connection.execute(
                insert(disk_sample),
                [
                    {
                        "host": self._host,
                        "path": str(system.path),
                        "at": now,
                        "free_bytes": usage.free_bytes,
                        "total_bytes": usage.total_bytes,
                    }
                    for system, usage in usages
                ],
            )

    def samples(self, system: FileSystem, since_s: float) -> list[tuple[float, int]]:
        """Return time and free bytes of the samples of the last `since_s` seconds, oldest first."""
        query = (
            select(disk_sample.c.at, disk_sample.c.free_bytes)
            .where(
                disk_sample.c.host == self._host,
                disk_sample.c.path == str(system.path),
                disk_sample.c.at >= self._database.now() - since_s,
            )
            .order_by(disk_sample.c.at)
        )
        with self._database.read() as connection:
            return [(row.at, row.free_bytes) for row in connection.execute(query)]
