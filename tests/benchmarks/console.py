"""Milliseconds that each page of the console takes over a ledger full of studies: median and longest.

    python tests/benchmarks/console.py --studies 10000 --repetitions 15
    python tests/benchmarks/console.py --database-url postgresql://user:password@host/empty

Measured in one process, from the request to the last byte of the answer, without a network. The first request of each
page is not counted: it compiles the template. Exit code 1 if the median of a page is above --limit.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
warnings.simplefilter("ignore")

from config.settings import RoleName  # noqa: E402
from tests.support.console import Client, Console, console_over, console_settings  # noqa: E402
from tests.support.department_ledger import DESTINATIONS, SENDERS, fill, patient_of  # noqa: E402


def main() -> int:
    """Fill a ledger, and measure each page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--limit", type=float, default=200, help="milliseconds that the median of a page may take")
    parser.add_argument("--database-url", default="", help="an empty database; a SQLite file unless given")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    destinations = [
        {"name": name, "ae_title": name.upper(), "host": "127.0.0.1", "port": 11113} for name in DESTINATIONS
    ]
    tables = {
        "destinations": destinations,
        "sources": [{"name": "xray", "ae_titles": list(SENDERS)}],
        "routes": [{"name": "radiographs", "destinations": list(DESTINATIONS)}],
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = console_settings(Path(folder), node={"database_url": arguments.database_url}, **tables)
        with console_over(settings) as console:
            begin = time.perf_counter()
            fill(console.state.database, studies=arguments.studies, odd_every=50, recent=arguments.studies // 20)
            kind = console.state.database.engine.dialect.name
            print(f"{arguments.studies} studies in {kind}, written in {time.perf_counter() - begin:.0f} s")
            return measure(console, arguments.studies, arguments.repetitions, arguments.limit)


def pages(console: Console, studies: int) -> Iterator[str]:
    """Yield the address of every page, with what people search for."""
    with console.state.database.read() as connection:
        query = "SELECT study_instance_uid FROM study WHERE id = 77"
        uid = connection.exec_driver_sql(query).scalar()
    yield from ("/", "/studies", f"/studies?uid={uid}", f"/studies?uid={uid}.1", f"/studies?ref={patient_of(50)}")
    yield from (f"/studies?state={state}" for state in ("dead+letter", "on+hold", "in+work", "no+route", "delivered"))
    yield from ("/studies?sender=XRAY2", "/studies?since=2020-01-01&until=2020-02-01")
    yield f"/studies?at={time.time() - 20 * 86_400}&below={studies}"
    yield from (f"/studies/{studies}", f"/studies/{studies // 2}")
    yield from ("/queue", "/queue?show=all", "/queue?show=dead&destination=pacs", "/queue?show=all&reason=A900")
    yield from ("/destinations", "/destinations/pacs", "/users", "/audit")


def measure(console: Console, studies: int, repetitions: int, limit_ms: float) -> int:
    """Print a line for each page; returns the exit code."""
    client: Client = console.signed_in(RoleName.ADMIN, sees_patients=True)
    is_slow = False
    print(f"{'median':>8} {'longest':>8}  page")
    for path in pages(console, studies):
        assert client.get(path).status_code == 200, path
        times = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            client.get(path)
            times.append(1000 * (time.perf_counter() - begin))
        median = statistics.median(times)
        is_slow |= median > limit_ms
        print(f"{median:6.0f} ms {max(times):6.0f} ms  {path.replace(console.state.settings.node.name, 'node')}")
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
