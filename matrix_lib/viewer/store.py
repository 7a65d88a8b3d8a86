"""The exhibits that pages may look at: by an id that nobody can guess, and within a bound of memory.

Who has an id may read what it stands for; ids are of 128 random bits. An exhibit that had to make room is known by its
id for a while, so that a page can say what became of it.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from .exhibit import Exhibit

__all__ = ["GoneError", "Store", "UnknownError"]

_REMEMBERED = 1024  # ids of exhibits that are gone


class UnknownError(KeyError):
    """No exhibit has this id, or had it lately."""


class GoneError(KeyError):
    """The exhibit of this id had to make room."""


class Store:
    """Exhibits by id; those that nobody has looked at for the longest make room.

    Args:
        most_bytes: of captures, clips and tracks in all. A capture that several exhibits show counts once.
        most: exhibits.
    """

    def __init__(self, most_bytes: int, most: int = 64) -> None:
        self.most_bytes, self.most = most_bytes, most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Exhibit] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()

    def put(self, exhibit: Exhibit) -> str:
        """Keeps an exhibit and returns its id (32 hexadecimal digits). Raises ValueError for one that is larger by
        itself than all may be."""
        own = exhibit.nbytes + exhibit.capture.nbytes
        if own > self.most_bytes:
            raise ValueError(
                f"the capture and its clip take {own / 1e6:,.0f} MB, and the viewer may keep "
                f"{self.most_bytes / 1e6:,.0f} MB: record fewer layers or steps, or in uint8"
            )
        name = secrets.token_hex(16)
        with self._lock:
            self._kept[name] = exhibit
            self._make_room()
        return name

    def replace(self, name: str, exhibit: Exhibit) -> bool:
        """Puts a later state of the same thing in the place of an exhibit; whether it is still kept, and fits."""
        with self._lock:
            if name not in self._kept or exhibit.nbytes + exhibit.capture.nbytes > self.most_bytes:
                return False
            self._kept[name] = exhibit
            self._kept.move_to_end(name)
            self._make_room()
            return True

    def drop(self, name: str) -> None:
        """Lets go of an exhibit that nobody will ask for."""
        with self._lock:
            if self._kept.pop(name, None) is not None:
                self._gone[name] = None

    def get(self, name: str) -> Exhibit:
        """The exhibit of an id, which counts as looked at. Raises `GoneError` or `UnknownError`."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            raise GoneError(name) if name in self._gone else UnknownError(name)

    def _make_room(self) -> None:
        while len(self._kept) > self.most or self._size() > self.most_bytes:
            old, _ = self._kept.popitem(last=False)
            self._gone[old] = None
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._size()

    def __len__(self) -> int:
        return len(self._kept)

    def _size(self) -> int:
        captures = {id(each.capture): each.capture.nbytes for each in self._kept.values()}
        return sum(captures.values()) + sum(each.nbytes for each in self._kept.values())
