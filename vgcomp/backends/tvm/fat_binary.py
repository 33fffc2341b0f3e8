"""Names the CUDA code in a library as NVIDIA's own tools expect it, so that ``cuobjdump model.so`` lists it.

TVM embeds a module's code objects among the constants of the library. ``cuobjdump`` and ``nvdisasm`` look for a section
``.nv_fatbin``, as nvcc's linker makes it. One more section header that points at the same bytes is all it takes:
section headers are for tools, a loader reads none of them, and no byte of the library moves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from vgcomp.errors import InternalError

SECTION = b".nv_fatbin"
#: First word of a fat binary; then its version, its header's bytes and the bytes after that.
_MAGIC = struct.pack("<I", 0xBA55ED50)
_FAT = struct.Struct("<4sHHQ")

#: The ELF64 header from the sections' offset on, as far as it matters: e_shoff at 40, e_shnum and e_shstrndx at 60.
_OFFSET_AT, _COUNT_AT = 40, 60
#: A section header: name, type, flags, address, offset, size, link, info, alignment, entries' size.
_HEADER = struct.Struct("<IIQQQQIIQQ")
_PROGBITS = 1


@dataclass(frozen=True)
class _Sections:
    """The section headers of a library, and which of them holds their names."""

    headers: tuple[tuple[int, ...], ...]
    names: int


def name_fat_binary(library: Path) -> None:
    """Adds the section header to a 64-bit little-endian ELF library; one whose kernels are no CUDA code stays as it is.

    Raises InternalError where there are several fat binaries: tools would see one of them only.
    """
    content = library.read_bytes()
    if _MAGIC not in content:
        return
    start, size = _fat_binary(content)
    sections = _sections(content)
    names = _bytes_of(content, sections.headers[sections.names])
    grown = bytearray(content)
    names_at = _appended(grown, names + SECTION + b"\0")
    headers = list(sections.headers)
    name, kind, flags, address, _, _, *rest = headers[sections.names]
    headers[sections.names] = (name, kind, flags, address, names_at, len(names) + len(SECTION) + 1, *rest)
    headers.append((len(names), _PROGBITS, 0, 0, start, size, 0, 0, 8, 0))
    table_at = _appended(grown, b"".join(_HEADER.pack(*header) for header in headers))
    struct.pack_into("<Q", grown, _OFFSET_AT, table_at)
    struct.pack_into("<H", grown, _COUNT_AT, len(headers))
    library.write_bytes(grown)


def _fat_binary(content: bytes) -> tuple[int, int]:
    """(offset, bytes) of the one fat binary."""
    found = content.count(_MAGIC)
    if found != 1:
        raise InternalError(f"a library for CUDA devices has {found} fat binaries, not one")
    start = content.index(_MAGIC)
    _, _, header, payload = _FAT.unpack_from(content, start)
    return start, header + payload


def _sections(content: bytes) -> _Sections:
    (offset,) = struct.unpack_from("<Q", content, _OFFSET_AT)
    count, names = struct.unpack_from("<HH", content, _COUNT_AT)
    return _Sections(tuple(_HEADER.unpack_from(content, offset + i * _HEADER.size) for i in range(count)), names)


def _bytes_of(content: bytes, header: tuple[int, ...]) -> bytes:
    offset, size = header[4], header[5]
    return content[offset : offset + size]


def _appended(content: bytearray, data: bytes) -> int:
    """Where ``data`` lies after it was put behind ``content``, at a multiple of eight bytes."""
    content.extend(bytes(-len(content) % 8))
    at = len(content)
    content.extend(data)
    return at
