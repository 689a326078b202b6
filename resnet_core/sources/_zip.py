"""Zip archives: where each member lies, from the directory at the end, and its bytes from there.

A name is read by the first of these that fits: the UTF-8 flag, the field 0x7075, UTF-8 (macOS sets no flag), CP437.

The records as in PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5. A whole listing takes 1.5
times as long with `zipfile`, and half a kilobyte of memory a member. It fails on a comment with the end's signature,
and on names that are not UTF-8. Every reader process would read the directory again.
"""

import bz2
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from resnet_core.errors import UserError

_DIRECTORY_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_END, _END_64, _LOCATOR_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ZIP64, _UNICODE_PATH = b"\x01\x00", b"\x75\x70"  # kinds of extra fields
USUAL_PREFIX = 1024  # bytes of local header, name, times and rights; longer ones cost a second read


class Member(NamedTuple):
    """`offset` of the local header, `length` of the packed bytes, `size` of the unpacked bytes.

    `guessed`: the archive does not say how its name is encoded.
    """

    name: str
    size: int
    crc: int
    offset: int
    length: int
    symbolic_link: bool
    guessed: bool


def read_directory(file: IO[bytes], archive: str) -> Iterator[Member]:
    """Yield every member but folders, in the directory's order. Raises UserError for a damaged archive."""
    begin, length, shift = _find_directory(file, archive)
    file.seek(begin)
    read = held = 0
    while read < length:
        entry = file.read(_DIRECTORY_ENTRY.size)
        if len(entry) < _DIRECTORY_ENTRY.size or entry[:4] != b"PK\1\2":
            raise _damaged(archive, f"no directory entry at byte {begin + read:,}")
        fields = _DIRECTORY_ENTRY.unpack(entry)
        (_, version, _, flags, _, _, _, crc, packed, size, *lengths, _, _, rights, offset) = fields
        rest = file.read(sum(lengths))
        name = rest[: lengths[0]].partition(b"\0")[0]
        extra = rest[lengths[0] : lengths[0] + lengths[1]]
        read += _DIRECTORY_ENTRY.size + sum(lengths)
        if 0xFFFFFFFF in (size, packed, offset):
            size, packed, offset = _wide(extra, size, packed, offset, archive)
        held += packed
        if held > begin:
            raise _damaged(archive, "its members overlap")
        if flags & _UTF8 or (name.isascii() and _UNICODE_PATH not in extra):
            text, guessed = name.decode("utf-8", "surrogateescape"), False
        else:
            text, guessed = _decode_name(name, extra)
        if not text.endswith("/") and (size or not text.endswith("\\")):
            link = version >> 8 == 3 and stat.S_ISLNK(rights >> 16)
            yield Member(text, size, crc, offset + shift, packed, link, guessed)


def _decode_name(name: bytes, extra: bytes) -> tuple[str, bool]:
    """Return the text of a name, and whether its encoding is a guess."""
    field = next((content for kind, content in _extra_fields(extra) if kind == _UNICODE_PATH), b"")
    # The field is of another name if a program that does not know it has renamed the member.
    if field[:5] == b"\1" + struct.pack("<L", zlib.crc32(name)):
        name = field[5:]
    try:
        return name.decode("utf-8"), False
    except UnicodeDecodeError:
        return name.decode("cp437"), True


def data_begin(head: bytes) -> int:
    """Return where the packed bytes begin, counted from the start of the local header `head`. Raises OSError."""
    if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\3\4":
        raise OSError("the archive has no file there")
    *_, name, extra = _LOCAL_HEADER.unpack_from(head)
    return _LOCAL_HEADER.size + int(name) + int(extra)


def unpack(head: bytes, packed: bytes, size: int) -> bytes:
    """Return the bytes of a member, never more than `size`. head: its local header. Raises OSError."""
    _, _, flags, method, *_ = _LOCAL_HEADER.unpack_from(head)
    if flags & _ENCRYPTED:
        raise OSError("is encrypted: decrypt the archive")
    try:
        if method == _STORED:
            data = packed
        elif method == _DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
        elif method == _BZIP2:
            data = bz2.BZ2Decompressor().decompress(packed, size + 1)
        else:
            raise OSError(f"is compressed by method {method}: pack the archive with deflate")
    except zlib.error as error:
        raise OSError(f"does not unpack: {error}") from None
    if len(data) != size:
        raise OSError(f"does not unpack to the {size:,} bytes that the archive says")
    return data


def _find_directory(file: IO[bytes], archive: str) -> tuple[int, int, int]:
    """Return begin and length of the directory, and the number of bytes before the archive itself."""
    whole = file.seek(0, 2)
    tail_at = max(0, whole - _END.size - 0xFFFF - _LOCATOR_64.size)
    file.seek(tail_at)
    tail = file.read()
    end = _find_end(tail)
    if end is None:
        raise _damaged(archive, "it has no directory at its end")
    _, disk, _, _, _, length, offset, _ = _END.unpack_from(tail, end)
    after = tail_at + end
    locator = tail[max(0, end - _LOCATOR_64.size) : end]
    if locator[:4] == b"PK\6\7":
        after = _find_end_64(file, tail_at + end - _LOCATOR_64.size, _LOCATOR_64.unpack(locator)[2], archive)
        file.seek(after)
        _, _, _, _, disk, _, _, _, length, offset = _END_64.unpack(file.read(_END_64.size))
    if disk not in (0, 0xFFFF):
        raise _damaged(archive, "it is one of several volumes")
    if length > after:
        raise _damaged(archive, "its directory does not fit into it")
    return after - length, length, after - length - offset


def _find_end(tail: bytes) -> int | None:
    """Return the place of the end record whose comment is the rest of the file, else the last one's."""
    places = [match.start() for match in re.finditer(b"PK\5\6", tail) if match.start() + _END.size <= len(tail)]
    whole = [place for place in places if place + _END.size + _END.unpack_from(tail, place)[-1] == len(tail)]
    return next(iter(whole or places[::-1]), None)


def _find_end_64(file: IO[bytes], locator_at: int, stated: int, archive: str) -> int:
    """Return the stated place, or the place right before the locator if bytes stand before the archive."""
    for place in (stated, locator_at - _END_64.size):
        if 0 <= place <= locator_at - _END_64.size:
            file.seek(place)
            if file.read(4) == b"PK\6\6":
                return place
    raise _damaged(archive, "it has no directory at its end")


def _wide(extra: bytes, size: int, packed: int, offset: int, archive: str) -> tuple[int, int, int]:
    """Return the three numbers of Zip64: those beyond 32 bits stand in the extra field of type 1."""
    for kind, content in _extra_fields(extra):
        if kind == _ZIP64:
            values = iter(struct.unpack_from(f"<{len(content) // 8}Q", content))
            try:
                size, packed, offset = (next(values) if v == 0xFFFFFFFF else v for v in (size, packed, offset))
            except RuntimeError:
                raise _damaged(archive, "a member's size is missing") from None
            return size, packed, offset
    return size, packed, offset


def _extra_fields(extra: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each extra field of a directory entry."""
    while len(extra) >= 4:
        length = int.from_bytes(extra[2:4], "little")
        yield extra[:2], extra[4 : 4 + length]
        extra = extra[4 + length :]


def _damaged(archive: str, why: str) -> UserError:
    return UserError(f"{archive}: not a whole zip archive, {why}. Fetch or make it again.")
