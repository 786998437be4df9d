"""Pictures of the console's pages for the documentation: ``python -m tests.support.console_pictures FOLDER``."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Final
from unittest import mock

from PIL import Image
from sqlalchemy import insert, select, update

from config.settings import RoleName
from dicom_node.console.pages import destinations, overview
from dicom_node.ledger import schema
from dicom_node.ledger.console_audit import AuditLedger
from dicom_node.ledger.destinations import HoldScope
from dicom_node.ledger.reception import ReceptionLedger
from dicom_node.state import State
from tests.support.browser import running_browser
from tests.support.console import PASSWORD, Console, console_over, console_settings, served
from tests.support.department_ledger import fill
from tests.support.radiographs import radiograph

STUDY: Final = 360
PAGES: Final = {
    "login": "/login",
    "overview": "/",
    "studies": "/studies",
    "study": f"/studies/{STUDY - 2}",
    "queue": "/queue",
    "destinations": "/destinations",
    "destination": "/destinations/pacs",
    "sources": "/sources",
    "routes": "/routes",
    "model": "/model",
    "users": "/users",
    "audit": "/audit",
}
SIZE: Final = {"width": 1280, "height": 860}

_TABLES: Final = {
    "node": {"name": "lowdose-1"},
    "sources": [
        {"name": "xray-room-1", "ae_titles": ["XRAY1", "XRAY2"]},
        {"name": "bucky", "ae_titles": ["BUCKY_A"]},
        {"name": "theatre", "ae_titles": ["CARM3"]},
        {"name": "ward", "ae_titles": ["MOBILE9"]},
    ],
    "destinations": [
        {
            "name": "pacs",
            "ae_title": "PACS",
            "host": "10.1.0.20",
            "port": 104,
            "commitment": True,
            "failover": "archive",
        },
        {"name": "archive", "ae_title": "ARCHIVE", "host": "10.1.0.21", "port": 11112},
        {"name": "research", "kind": "dicomweb", "url": "https://research.hospital.example/dicom-web"},
    ],
    "routes": [{"name": "radiographs", "destinations": ["pacs", "archive"]}],
}

_DISK: Final = {
    "path": "/var/lib/lowdose",
    "holds": ["objects", "incoming", "ledger", "workflows"],
    "free_bytes": 612e9,
    "total_bytes": 1920e9,
    "state": "ok",
    "reason": None,
    "full_in_h": None,
}


def busy(state: State) -> None:
    """Fill the ledger with what a department has after some weeks, and with some trouble."""
    now = state.database.now()
    fill(state.database, studies=STUDY, odd_every=30, recent=60, until=now + 60)
    with state.database.write() as connection:
        for role in ("receiver", "worker-0", "worker-1", "console"):
            connection.execute(
                insert(schema.process),
                {
                    "name": f"lowdose-1:{role}",
                    "role": role.split("-")[0],
                    "host": "lowdose-1",
                    "pid": 4711,
                    "started_at": now - 9 * 86_400,
                    "seen_at": now,
                },
            )
    _store_patient(state)
    title, host = "MOBILE4", "10.1.0.44"
    ReceptionLedger(state.database, "lowdose-1:receiver").record_rejection(
        calling_ae_title=title,
        called_ae_title="LOWDOSE",
        host=host,
        reason=f"calling AE title '{title}' from {host} is not a known source; to admit it, add:\n"
        f'[[sources]]\nname = "{title}"\nae_titles = ["{title}"]\nhosts = ["{host}"]',
    )
    state.standings.hold(HoldScope.DESTINATION, "archive", "new disks until 18:00 (bert in the console)")
    for delivery in range(3):
        state.standings.note_silence(
            "pacs", delivery + 1, "connection refused by 10.1.0.20:104", sent_something=False, limit=3, probe_in_s=25
        )
    audit = AuditLedger(state.database)
    audit.record(user="bert", address="10.1.0.77", action="sign in")
    audit.record(user="bert", address="10.1.0.77", action="hold destination", subject="archive")
    audit.record(user="bert", address="10.1.0.77", action="echo", subject="pacs")


def _store_patient(state: State) -> None:
    """Give the study of the picture an object that a patient can be read from."""
    ds = radiograph(1, size=64)
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "Phantom^Water", "PH-0042", "2026-118803"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDescription = "19700101", "O", "Chest PA"
    stored = state.store.save(ds)
    with state.database.write() as connection:
        uid = connection.scalar(select(schema.study.c.study_instance_uid).where(schema.study.c.id == STUDY - 2))
        first = connection.scalar(
            select(schema.instance.c.id)
            .where(schema.instance.c.study_instance_uid == uid, schema.instance.c.origin == "received")
            .order_by(schema.instance.c.id)
            .limit(1)
        )
        connection.execute(
            update(schema.instance)
            .where(schema.instance.c.id == first)
            .values(key=stored.key, dataset_offset=stored.dataset_offset, digest=stored.digest)
        )


def take(folder: Path) -> None:
    """Take a picture of every page, in light, and of some in dark."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        console_over(console_settings(Path(data), **_TABLES)) as console,
        running_browser() as browser,
        # Nothing of the machine on which they are taken.
        mock.patch.object(overview, "disk_report", return_value=[_DISK]),
        mock.patch.object(destinations, "own_addresses", return_value=["lowdose-1", "10.1.0.5"]),
    ):
        busy(console.state)
        _add_users(console)
        with served(console) as url:
            for scheme, names in (("light", list(PAGES)), ("dark", ["overview", "study"])):
                with browser.window(url, color_scheme=scheme, viewport=SIZE) as window:
                    for name in names:
                        if name == "overview" or (scheme == "dark" and name == names[0]):
                            window.sign_in("anna", PASSWORD)
                        window.open(PAGES[name])
                        suffix = "-dark" if scheme == "dark" else ""
                        _save(window.page.screenshot(full_page=True), folder / f"console-{name}{suffix}.png")


def _add_users(console: Console) -> None:
    console.add_user("anna", RoleName.ADMIN, sees_patients=True)
    console.add_user("bert", RoleName.OPERATOR)
    console.add_user("carla", RoleName.VIEWER)


def _save(png: bytes, path: Path) -> None:
    """Keep a picture small: flat colours fit a palette, and a long list says no more than its beginning."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, 1800)))
    picture.quantize(128, method=Image.Quantize.MEDIANCUT).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    take(Path(sys.argv[1]))
