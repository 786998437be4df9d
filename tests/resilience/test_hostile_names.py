"""Names and identifiers that would be paths, commands or SQL if anybody took them for such."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.settings import SourceSettings
from dicom_node.instance_store import InstanceStore, UnknownObject
from tests.support.network import (
    CT,
    EXPLICIT,
    RawPeer,
    associate_rq,
    data_set,
    element,
    pdu,
    pdv,
    running_receiver,
    store_rq,
)

EVIL = (
    "../../x",
    "/tmp/x",
    "..",
    "'; DROP TABLE instance; --",
    '"; DROP TABLE instance; --',
    "$(touch x)",
    "`touch x`",
    "|touch x",
    "1.2.3\0.4",
    "1.2.3\n4",
    "%s%n%x",
    "{0.__class__}",
    "1." * 500 + "1",
    "",
)


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


OURS = re.compile(r"data/(objects/[0-9a-f]{2}/[0-9a-f]{32}\.dcm|quarantine/q-[0-9a-f]{32}\.(dcm|txt))")


@pytest.mark.parametrize("name", EVIL)
def test_as_identifiers_they_name_no_file_and_change_no_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with running_receiver(tmp_path / "data") as running:
        with RawPeer(running.port) as peer:
            peer.associate()
            assert peer.store("1.2.3.4").status == 0
            before = names_below(tmp_path)
            # As instance, as study, as series. Modalities write identifiers that are no UIDs, so some are taken.
            statuses = [peer.store(name, data_set(name)).status]
            others = (data_set("1.2.3.5", study=name), data_set("1.2.3.5", series=name))
            statuses += [peer.store("1.2.3.5", other).status for other in others]
            peer.release()
        assert set(statuses) <= {0, 0xA900, 0xC000}
        for path in names_below(tmp_path) - before:
            assert OURS.fullmatch(path), path
        taken = statuses.count(0)
        assert running.rows("SELECT count(*) FROM instance WHERE state = 'stored'") == [(1 + taken,)]
        if statuses[0] == 0:
            assert (name,) in running.rows("SELECT sop_instance_uid FROM instance")
    assert not (tmp_path.parent / "x").exists()


def test_as_values_they_are_kept_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running_receiver(tmp_path / "data") as running, RawPeer(running.port) as peer:
        peer.associate()
        before = {path for path in names_below(tmp_path) if not path.startswith("data/objects")}
        for n, name in enumerate(EVIL):
            uid = f"1.2.3.{n + 10}"
            whole = data_set(uid)
            place = whole.index(element(0x0010, 0x0020, b"LO", b"TEST"))
            value = element(0x0010, 0x0010, b"PN", name.encode()[:60])
            evil = whole[:place] + value + whole[place:]
            assert peer.store(uid, evil).status == 0, name
            assert any(stored.endswith(evil) for stored in running.stored_files())
        peer.release()
        assert running.rows("SELECT count(*) FROM instance") == [(len(EVIL),)]
        after = {path for path in names_below(tmp_path) if not path.startswith("data/objects")}
        assert after == before


@pytest.mark.parametrize("title", ["'; DROP TABLE x", "../../../x", "$(touch x)", "`touch x`", "%s%n", "a\nINFO b"])
def test_as_ae_titles_they_are_names_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    monkeypatch.chdir(tmp_path)
    known = [SourceSettings(name="evil", ae_titles=(title,))] if "\n" not in title else []
    with running_receiver(tmp_path / "data", sources=known) as running:
        with RawPeer(running.port) as peer:
            answer = peer.associate(associate_rq(((1, CT, (EXPLICIT,)),), calling=title))
            assert answer[0] == (2 if known else 3) or answer[0] == 7
            if answer[0] == 2:
                peer.send(pdu(4, pdv(1, 3, store_rq())), pdu(4, pdv(1, 2, data_set())))
                assert peer.response().status == 0
                assert running.rows("SELECT calling_ae_title FROM association") == [(title,)]
        assert not list(tmp_path.glob("x*"))


def test_a_key_that_is_none_reaches_no_file(tmp_path: Path) -> None:
    store = InstanceStore(tmp_path / "data")
    for key in (*EVIL, "q-../../x", "a" * 31 + "/", "A" * 32):
        with pytest.raises(UnknownObject):
            store.path(key)
