"""The route that a worker finds for what a receiver stored."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from config.settings import RouteSettings, SourceSettings
from dicom_node import worker
from dicom_node.ledger.arrivals import ArrivalLedger
from dicom_node.object_keeping import StoreUnavailable
from dicom_node.state import State
from dicom_node.worker import route_finder
from tests.support.network import RawPeer, receiver_settings, running_receiver


def test_a_route_for_a_source_takes_no_object_of_another_one_with_the_same_ae_title(tmp_path: Path) -> None:
    hosts = {"elsewhere": "192.0.2.1", "here": "localhost"}
    sources = tuple(SourceSettings(name=name, ae_titles=("SENDER",), hosts=(rule,)) for name, rule in hosts.items())
    routes = tuple(RouteSettings(name=f"from-{n}", match={"source": n}, destinations=("pacs",)) for n in hosts)
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store().status == 0
        settings = receiver_settings(tmp_path).model_copy(update={"sources": sources, "routes": routes})
        find = route_finder(State(settings=settings, database=running.database, store=running.store))
        found = find(ArrivalLedger(running.database).instance(1))
    assert found is routes[1]


def test_an_error_that_nobody_foresaw_holds_up_no_other_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("unknown encoding: nobody")

    routes = (
        RouteSettings(name="ct", match={"Modality": "CT"}, destinations=("pacs",)),
        RouteSettings(name="rest", destinations=("pacs",)),
    )
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store().status == 0
        settings = receiver_settings(tmp_path).model_copy(update={"routes": routes})
        find = route_finder(State(settings=settings, database=running.database, store=running.store))
        stored = ArrivalLedger(running.database).instance(1)
        assert find(stored) is routes[0]
        monkeypatch.setattr("dicom_node.worker.open_part10", fail)
        # As if its header could not be read at all.
        assert find(stored) is routes[1]


def test_a_series_whose_files_can_not_be_read_now_takes_no_other_route_before_an_hour_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = (
        RouteSettings(name="ct", match={"Modality": "CT"}, destinations=("pacs",)),
        RouteSettings(name="rest", destinations=("elsewhere",)),
    )
    with running_receiver(tmp_path) as running, RawPeer(running.port) as peer:
        peer.associate()
        assert peer.store("1.2.3.4").status == 0
        assert peer.store("1.2.3.5").status == 0
        settings = receiver_settings(tmp_path).model_copy(update={"routes": routes})
        find = route_finder(State(settings=settings, database=running.database, store=running.store))
        first = ArrivalLedger(running.database).instance(1)
        broken = {running.store.path(first.key)}
        opened = worker.open_part10

        def fail(path: Path, **options: Any) -> Any:
            if path in broken:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return opened(path, **options)

        monkeypatch.setattr("dicom_node.worker.open_part10", fail)
        # The other image of the series says where it goes.
        assert find(first) is routes[0]
        broken.add(running.store.path(ArrivalLedger(running.database).instance(2).key))
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            find(first)
        broken.clear()
        assert find(first) is routes[0]
        broken |= {running.store.path(ArrivalLedger(running.database).instance(n).key) for n in (1, 2)}
        monkeypatch.setattr("dicom_node.worker._UNREADABLE_FOR_S", 0.0)
        assert find(first) is routes[1]
