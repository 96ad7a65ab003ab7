"""What is remembered from request to request, within a bound of bytes; the least recently used goes first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class BoundedStore:
    """Values with their sizes.

    Args:
        max_bytes: Most bytes that are kept; 0: nothing is.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes, self.bytes, self.hits, self.misses = max_bytes, 0, 0, 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Any:
        """The value, which is now the most recently used; None where it is not kept."""
        if key not in self._entries:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of so many bytes, if it fits into the bound at all."""
        self.bytes -= self._entries.pop(key, (None, 0))[1]
        if size > self.max_bytes:
            return
        self._entries[key] = value, size
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]
