from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydicom.uid import JPEGLossless

from config.settings import DicomDestinationSettings
from dicom_node.destinations.base import DeliveryItem
from dicom_node.destinations.storage_scu import plan_association, propose_contexts
from dicom_node.destinations.syntaxes import COMPRESSIONS, compressed_syntax, offered_syntaxes
from dicom_node.pixel_encoding import ENCODABLE

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.67"
EXPLICIT, IMPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"
BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG_LS, LOSSY = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.50"


def item(number: int, sop_class: str = DX, syntax: str = EXPLICIT, *, is_derived: bool = False) -> DeliveryItem:
    return DeliveryItem(
        instance_id=number,
        sop_class_uid=sop_class,
        sop_instance_uid=f"1.2.{number}",
        transfer_syntax_uid=syntax,
        path=Path("nowhere"),
        dataset_offset=0,
        is_derived=is_derived,
    )


def pacs(**changes: object) -> DicomDestinationSettings:
    return DicomDestinationSettings.model_validate(
        {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104, "compress": "jpeg-ls", **changes}
    )


def proposed(*kinds: tuple[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    return [(context.abstract_syntax, context.transfer_syntaxes) for context in propose_contexts(kinds)]


def test_a_class_gets_its_own_syntax_alone_and_the_uncompressed_ones_as_the_way_out() -> None:
    assert proposed((DX, J2K)) == [(DX, (J2K,)), (DX, (EXPLICIT, IMPLICIT))]


def test_the_way_out_does_not_repeat_what_is_proposed_already() -> None:
    assert proposed((DX, EXPLICIT)) == [(DX, (EXPLICIT,)), (DX, (IMPLICIT,))]
    assert proposed((DX, IMPLICIT)) == [(DX, (IMPLICIT,)), (DX, (EXPLICIT,))]
    assert proposed((DX, IMPLICIT), (DX, EXPLICIT)) == [(DX, (IMPLICIT,)), (DX, (EXPLICIT,))]


def test_each_class_of_a_series_gets_contexts_of_its_own() -> None:
    assert proposed((DX, J2K), (SR, EXPLICIT)) == [
        (DX, (J2K,)),
        (DX, (EXPLICIT, IMPLICIT)),
        (SR, (EXPLICIT,)),
        (SR, (IMPLICIT,)),
    ]


def test_the_default_syntax_is_offered_for_every_class() -> None:
    """PS3.5 10.1."""
    for kinds in [((DX, J2K),), ((DX, EXPLICIT),), ((DX, IMPLICIT),), ((DX, "1.2.840.10008.1.2.2"), (SR, J2K))]:
        offered: dict[str, set[str]] = {}
        for context in propose_contexts(kinds):
            offered.setdefault(context.abstract_syntax, set()).update(context.transfer_syntaxes)
        assert all(IMPLICIT in syntaxes for syntaxes in offered.values())


def test_a_series_of_one_kind_goes_on_one_association() -> None:
    plan = plan_association([item(number) for number in range(5000)])
    assert len(plan.items) == 5000
    assert len(plan.contexts) == 2


def test_more_kinds_than_contexts_are_spread_over_associations_without_loss_and_in_order() -> None:
    waiting = [item(number, sop_class=f"1.2.3.{number}") for number in range(150)]
    plans = []
    while waiting:
        plans.append(plan_association(waiting))
        waiting = waiting[len(plans[-1].items) :]
    assert [len(plan.contexts) for plan in plans] == [128, 128, 44]
    assert [entry.instance_id for plan in plans for entry in plan.items] == list(range(150))
    for plan in plans:
        own = {(entry.sop_class_uid, entry.transfer_syntax_uid) for entry in plan.items}
        assert own <= {(c.abstract_syntax, s) for c in plan.contexts for s in c.transfer_syntaxes}


def test_a_known_kind_still_goes_along_when_the_contexts_are_full() -> None:
    kinds = [item(number, sop_class=f"1.2.3.{number}") for number in range(64)]
    plan = plan_association([*kinds, item(900, sop_class="1.2.3.5"), item(901, sop_class="1.2.3.999")])
    assert [entry.instance_id for entry in plan.items][-1] == 900


@pytest.mark.parametrize(
    ("syntax", "is_derived", "originals", "offered"),
    [
        (EXPLICIT, True, False, (JPEG_LS, EXPLICIT, IMPLICIT)),
        (IMPLICIT, True, False, (JPEG_LS, IMPLICIT, EXPLICIT)),
        (BIG, True, False, (JPEG_LS, BIG, EXPLICIT, IMPLICIT)),
        (DEFLATED, True, False, (JPEG_LS, DEFLATED, EXPLICIT, IMPLICIT)),
        (EXPLICIT, False, False, (EXPLICIT, IMPLICIT)),
        (EXPLICIT, False, True, (JPEG_LS, EXPLICIT, IMPLICIT)),
        (J2K, True, True, (J2K, EXPLICIT, IMPLICIT)),
        (LOSSY, False, True, (LOSSY, EXPLICIT, IMPLICIT)),
        ("1.2.3.4", True, True, ("1.2.3.4", EXPLICIT, IMPLICIT)),
    ],
)
def test_compression_comes_first_where_it_is_wanted_and_never_over_another(
    syntax: str, is_derived: bool, originals: bool, offered: tuple[str, ...]
) -> None:
    settings = pacs(compress_originals=originals)
    assert offered_syntaxes(syntax, is_derived=is_derived, settings=settings) == offered


def test_without_the_setting_nothing_is_compressed() -> None:
    assert compressed_syntax(EXPLICIT, is_derived=True, settings=pacs(compress="no")) is None
    assert DicomDestinationSettings(name="p", ae_title="P", host="h", port=104).compress == "no"


def test_every_choice_is_a_syntax_that_is_written_here() -> None:
    # JPEG Lossless with any selection value is written where the source has it; new is selection value 1 alone.
    assert set(COMPRESSIONS.values()) == set(ENCODABLE) - {JPEGLossless}
    literal = DicomDestinationSettings.model_fields["compress"].annotation
    assert set(get_args(literal)) == {"no", *COMPRESSIONS}


def test_the_compressed_syntax_has_a_context_of_its_own_beside_the_objects_own() -> None:
    items = [item(0), item(1, is_derived=True), item(2, SR)]
    plan = plan_association(items, pacs())
    assert plan.items == tuple(items)
    assert [(context.abstract_syntax, context.transfer_syntaxes) for context in plan.contexts] == [
        (DX, (EXPLICIT,)),
        (DX, (JPEG_LS,)),
        (DX, (IMPLICIT,)),
        (SR, (EXPLICIT,)),
        (SR, (IMPLICIT,)),
    ]


def test_compression_counts_in_what_one_association_has_contexts_for() -> None:
    items = [item(number, f"1.2.3.{number}", is_derived=True) for number in range(100)]
    plan = plan_association(items, pacs())
    assert len(plan.items) == 42
    assert len(plan.contexts) == 126
