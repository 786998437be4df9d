"""The destinations that a worker delivers to; others can take their place while it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from config.settings import DestinationSettings, DicomDestinationSettings, DicomwebDestinationSettings
from dicom_node.destinations.base import Destination

AnySettings = DicomDestinationSettings | DicomwebDestinationSettings
T = TypeVar("T")


class _View(Mapping[str, T], Generic[T]):
    """A mapping that is looked up anew each time."""

    def __init__(self, current: Callable[[], Mapping[str, T]]) -> None:
        self._current = current

    def __getitem__(self, name: str) -> T:
        return self._current()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())


class DestinationBook:
    """Destinations by name, with their settings.

    Parameters
    ----------
    make
        Makes a destination.
    entries
        Settings of each.
    """

    def __init__(self, make: Callable[[AnySettings], Destination], entries: Sequence[AnySettings]) -> None:
        self._make = make
        self._settings: Mapping[str, DestinationSettings] = {}
        self._destinations: Mapping[str, Destination] = {}
        self.replace(entries)
        # What holds these sees every change; an attempt keeps what it began with.
        self.settings: Mapping[str, DestinationSettings] = _View(lambda: self._settings)
        self.destinations: Mapping[str, Destination] = _View(lambda: self._destinations)

    def replace(self, entries: Sequence[AnySettings]) -> list[str]:
        """Let `entries` be the destinations from now on; returns the names that are new. What is the same stays."""
        before = self._settings
        self._destinations = {
            entry.name: self._destinations[entry.name] if before.get(entry.name) == entry else self._make(entry)
            for entry in entries
        }
        self._settings = {entry.name: entry for entry in entries}
        return [entry.name for entry in entries if entry.name not in before]
