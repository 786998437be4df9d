"""One dead and one slow destination beside a good one; and the queue commands on a running node."""

from __future__ import annotations

from pathlib import Path

from tests.support.node import RunningNode, default_routes, destination
from tests.support.peers import MockScp, find_free_port, requires_dcmtk, wait_until
from tests.support.radiographs import CT, write_radiographs

pytestmark = requires_dcmtk
BREAKER = {"breaker": {"failures": 2, "probe_every_s": 0.5}}


def sent(node: RunningNode, name: str) -> int:
    """Return how many deliveries a destination has."""
    query = f"SELECT count(*) FROM delivery WHERE destination = '{name}' AND state = 'sent'"
    return int(node.rows(query)[0][0])


def test_a_dead_and_a_slow_pacs_delay_no_other_and_get_everything_later(tmp_path: Path) -> None:
    series = [write_radiographs(tmp_path / "in", 2, series=n, sop_class=CT) for n in range(1, 5)]
    paths = [path for one in series for path in one]
    dead_port = find_free_port()
    with MockScp() as good, MockScp(delay_s=30.0) as slow:
        destinations = [
            destination("good", good.port),
            destination("slow", slow.port, dimse_timeout_s=60),
            destination("dead", dead_port, **BREAKER),
        ]
        with RunningNode(
            tmp_path / "node",
            destinations=destinations,
            routes=default_routes("good", "slow", "dead"),
            alarms={"destination_down_s": 0},
        ) as node:
            for one in series:
                node.send(*one)
            wait_until(lambda: sent(node, "good") == 4, timeout_s=60, what="the good one")
            # The slow one has not answered once, so nothing waited for it.
            assert (sent(node, "slow"), sent(node, "dead")) == (0, 0)
            assert len(good.objects) == len(paths)

            def is_down() -> bool:
                alarms = node.command("status")["alarms"]
                return [(a["alarm"], a["destination"]) for a in alarms] == [("destination_down", "dead")]

            wait_until(is_down, timeout_s=30, what="the alarm")
            # While it is down no attempt is made: the count of attempts stands still.
            begun = node.rows("SELECT sum(attempts) FROM delivery WHERE destination = 'dead'")
            with MockScp(port=dead_port) as dead:
                wait_until(lambda: sent(node, "dead") == 4, timeout_s=60, what="the dead one's return")
                assert begun[0][0] <= node.rows("SELECT sum(attempts) FROM delivery WHERE destination = 'dead'")[0][0]
                assert len(dead.objects) == len(paths)
            assert node.command("status")["alarms"] == []
            node.command("queue", "cancel", "--destination", "slow", "--yes", exit_codes=(0, 1))


def test_hold_release_reroute_cancel_and_originals_again(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 2)
    with MockScp() as first, MockScp() as second:
        destinations = [destination("first", first.port), destination("second", second.port)]
        with RunningNode(tmp_path / "node", destinations=destinations, routes=default_routes("first")) as node:
            assert node.command("queue", "hold", "--destination", "first")["destination"] == "first"
            node.send(*paths)
            node.wait_for_rows("SELECT 1 FROM delivery")
            (line,) = node.command("queue", "list")["deliveries"]
            number = str(line["delivery"])
            assert (line["state"], line["pending"]) == ("pending", 2)
            # A cancel for all asks first, and here is nobody to be asked.
            node.command("queue", "hold", number)
            assert node.command("queue", "cancel", number, "--reason", "not this one", "--yes")["cancelled"] == [
                line["delivery"]
            ]
            assert node.verify().balance.total.cancelled == 2
            assert node.command("queue", "retry", number)["requeued"] == [line["delivery"]]
            assert first.stores == 0
            now = node.command("queue", "reroute", number, "--to", "second")["now"]
            target = str(now[number])
            node.wait_balanced(2)
            assert (first.stores, second.stores) == (0, 2)
            assert node.command("queue", "resend-original", target)["originals"] == {target: 2}
            node.wait_balanced(2)
            assert len(second.objects) == 4
            node.command("queue", "release", "--destination", "first")
            assert node.command("queue", "list")["holds"] == []


def test_what_a_dead_pacs_lacks_goes_to_its_failover(tmp_path: Path) -> None:
    paths = write_radiographs(tmp_path / "in", 2, sop_class=CT)
    with MockScp() as spare:
        destinations = [
            destination("main", find_free_port(), failover="spare", failover_after_s=0.5, **BREAKER),
            destination("spare", spare.port),
        ]
        with RunningNode(tmp_path / "node", destinations=destinations, routes=default_routes("main")) as node:
            node.send(*paths)
            node.wait_balanced(2)
            assert len(spare.objects) == 2
            assert node.rows("SELECT destination, state FROM delivery ORDER BY id") == [
                ("main", "rerouted"),
                ("spare", "sent"),
            ]
