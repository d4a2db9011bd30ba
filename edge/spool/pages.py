"""Rows out of a damaged SQLite file, without SQLite: page by page, whatever the others are like.

Flows in: a database file and its write-ahead log. Flows out: the rows of every table leaf page that is still one, as
tuples. Which table a row is of, and whether it is whole, is the caller's to judge. Reads, never writes.

Source: "Database File Format", sqlite.org/fileformat2.html: 1.6 b-tree pages, 2.1 records, 1.5 the freelist, 4 the log.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from edge.spool.rows import SqlRow

TABLE_LEAF = 0x0D
DEFAULT_PAGE_BYTES = 1024
_MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = 0x377F0682
_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24


class DamagedFile:
    """A damaged database, read page by page until `close`. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._log: BinaryIO | None = Path(f"{path}-wal").open("rb")  # noqa: SIM115 - open until `close`
        except OSError:
            self._log = None
        header = self._file.read(100)
        is_header = header.startswith(_MAGIC) and len(header) == 100
        self.page_bytes = _page_bytes(header) if is_header else DEFAULT_PAGE_BYTES
        self._usable = self.page_bytes - (header[20] if is_header else 0)
        self._overlay = dict(_log_pages(self._log, self.page_bytes)) if self._log is not None else {}
        size = os.fstat(self._file.fileno()).st_size
        self.pages = max(-(-size // self.page_bytes), max(self._overlay, default=0))
        self._free = frozenset(self._free_pages())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        if self._log is not None:
            self._log.close()

    def page(self, number: int) -> bytes:
        """A page (from 1), as the log has it last; short or empty past a cut-off end, and where the disk is bad."""
        offset = self._overlay.get(number)
        try:
            if offset is not None and self._log is not None:
                self._log.seek(offset)
                return self._log.read(self.page_bytes)
            self._file.seek((number - 1) * self.page_bytes)
            return self._file.read(self.page_bytes)
        except OSError:
            return b""

    def columns(self, number: int) -> int:
        """How many columns the first row of a page has; 0 where it has none."""
        row = next(self.rows(number), None)
        return 0 if row is None else len(row)

    def rows(self, number: int) -> Iterator[SqlRow]:
        """The rows of a page, their rowid in the first column (where SQLite keeps NULL for an INTEGER PRIMARY KEY)."""
        if number in self._free:  # these still show rows that have left long ago
            return
        data = self.page(number)
        start = 100 if number == 1 else 0
        if len(data) < self.page_bytes or data[start] != TABLE_LEAF:
            return
        (cells,) = struct.unpack_from(">H", data, start + 3)
        for place in range(min(cells, (self.page_bytes - start - 8) // 2)):
            (pointer,) = struct.unpack_from(">H", data, start + 8 + 2 * place)
            try:
                yield self._row(data, pointer)
            except (IndexError, struct.error, UnicodeDecodeError, _NotARow):
                continue

    def _row(self, data: bytes, pointer: int) -> SqlRow:
        length, pointer = _varint(data, pointer)
        rowid, pointer = _varint(data, pointer)
        if rowid >= 1 << 63:
            rowid -= 1 << 64
        values = _values(self._payload(data, pointer, length))
        return values if values[0] is not None else (rowid, *values[1:])

    def _payload(self, data: bytes, pointer: int, length: int) -> bytes:
        """A cell's payload, with what has spilled to other pages (section 1.6)."""
        usable = self._usable
        if length <= usable - 35:
            return data[pointer : pointer + length]
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        if local > usable - 35:
            local = least
        parts = [data[pointer : pointer + local]]
        (spilled,) = struct.unpack_from(">I", data, pointer + local)
        left = length - local
        while left > 0:
            if not spilled or len(parts) > self.pages:
                raise _NotARow
            page = self.page(spilled)
            (spilled,) = struct.unpack_from(">I", page)
            parts.append(page[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
        return b"".join(parts)

    def _free_pages(self) -> Iterator[int]:
        header = self.page(1)
        if len(header) < 100:
            return
        (trunk,) = struct.unpack_from(">I", header, 32)
        seen: set[int] = set()
        while trunk and trunk <= self.pages and trunk not in seen:
            seen.add(trunk)
            page = self.page(trunk)
            if len(page) < self.page_bytes:
                return
            following, count = struct.unpack_from(">II", page)
            if count > self.page_bytes // 4 - 2:
                return  # no trunk page: the list ends here
            yield trunk
            yield from struct.unpack_from(f">{count}I", page, 8)
            trunk = following


class _NotARow(Exception):
    """Bytes that are no record."""


def _page_bytes(header: bytes) -> int:
    (size,) = struct.unpack_from(">H", header, 16)
    size = 65_536 if size == 1 else size
    return int(size) if 512 <= size <= 65_536 and size & (size - 1) == 0 else DEFAULT_PAGE_BYTES


def _log_pages(log: BinaryIO, page_bytes: int) -> Iterator[tuple[int, int]]:
    """Pages that the log's committed transactions wrote, and where in it they are: later ones last."""
    header = log.read(_LOG_HEADER_BYTES)
    if len(header) < _LOG_HEADER_BYTES:
        return
    magic, _, size = struct.unpack_from(">III", header)
    if magic & ~1 != _LOG_MAGIC or size != page_bytes:
        return
    order = ">" if magic & 1 else "<"
    sums = _checksum(header[:24], (0, 0), order)
    if sums != struct.unpack_from(">II", header, 24):
        return
    pending: list[tuple[int, int]] = []
    offset = _LOG_HEADER_BYTES
    while True:
        frame = log.read(_FRAME_HEADER_BYTES + page_bytes)
        if len(frame) < _FRAME_HEADER_BYTES + page_bytes or frame[8:16] != header[16:24]:
            return
        number, committed = struct.unpack_from(">II", frame)
        sums = _checksum(frame[:8] + frame[24:], sums, order)
        if sums != struct.unpack_from(">II", frame, 16):
            return
        pending.append((number, offset + _FRAME_HEADER_BYTES))
        offset += len(frame)
        if committed:
            yield from pending
            pending.clear()


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Section 4.2: a Fibonacci-weighted sum over pairs of 32-bit words."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for x, y in zip(words[::2], words[1::2], strict=True):
        first = (first + x + second) & 0xFFFF_FFFF
        second = (second + y + first) & 0xFFFF_FFFF
    return first, second


def _varint(data: bytes, pointer: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = data[pointer + place]
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, pointer + place + 1
    return value << 8 | data[pointer + 8], pointer + 9


def _values(payload: bytes) -> SqlRow:
    """The columns of a record (section 2.1)."""
    header_bytes, pointer = _varint(payload, 0)
    if header_bytes > len(payload):
        raise _NotARow
    at = header_bytes
    values: list[Any] = []
    while pointer < header_bytes:
        kind, pointer = _varint(payload, pointer)
        value, at = _value(payload, kind, at)
        values.append(value)
    if at != len(payload) or not values:
        raise _NotARow
    return tuple(values)


_INTEGER_BYTES = (0, 1, 2, 3, 4, 6, 8)


def _value(payload: bytes, kind: int, at: int) -> tuple[Any, int]:
    if kind == 0:
        return None, at
    if kind <= 6:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(payload[at:end], "big", signed=True), end
    if kind == 7:
        return struct.unpack_from(">d", payload, at)[0], at + 8
    if kind in (8, 9):
        return kind - 8, at
    if kind < 12:
        raise _NotARow
    end = at + (kind - 12) // 2
    return (payload[at:end].decode() if kind & 1 else payload[at:end]), end
