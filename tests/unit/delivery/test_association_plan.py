from __future__ import annotations

from pathlib import Path

from dicom_node.destinations.base import DeliveryItem
from dicom_node.destinations.storage_scu import plan_association, propose_contexts

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.67"
EXPLICIT, IMPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"


def item(number: int, sop_class: str = DX, syntax: str = EXPLICIT) -> DeliveryItem:
    return DeliveryItem(
        instance_id=number,
        sop_class_uid=sop_class,
        sop_instance_uid=f"1.2.{number}",
        transfer_syntax_uid=syntax,
        path=Path("nowhere"),
        dataset_offset=0,
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
