"""Decodes the names of a zip archive's members, whichever system made it.

The format knows two ways of writing a name: UTF-8 with a flag that says so, and code page 437. macOS writes
UTF-8 without the flag, Windows the code page of its language, and older tools write backslashes between
folders.
"""

from __future__ import annotations

import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from backend.data.annotations.image_names import loosen, stem_of

_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_UNICODE_PATH = 0x7075  # the extra field in which Info-ZIP and others repeat a name in UTF-8
_FORMAT_PAGE = "cp437"
# of Windows and its consoles, likeliest first if names and tables leave it open
_CODE_PAGES = (
    *(
        "cp1256",
        "cp1252",
        "cp850",
        _FORMAT_PAGE,
        "cp1251",
        "cp866",
        "cp1250",
        "cp852",
        "cp1253",
        "cp737",
        "cp1254",
    ),
    *(
        "cp857",
        "cp1255",
        "cp862",
        "cp720",
        "cp932",
        "cp936",
        "cp950",
        "cp949",
        "cp874",
        "cp1257",
        "cp775",
        "cp1258",
    ),
    "mac_roman",
)
_TABLES = (".csv", ".json")
_MAX_TABLE_BYTES = 64 * 2**20  # of all tables that are searched for names
_JSON_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
# Categories of what names of files hold beyond ASCII: letters, their marks, digits, dashes, blanks, joiners.
_IN_NAMES = ("L", "M", "N", "Pd", "Zs", "Cf")
_JAPANESE = ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")  # scripts of one word


def member_names(opened: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, str]]:
    """List every member with its name, slashes between folders. The name may still be harmful.

    Names without the flag are UTF-8 if they can be, else in the code page in which most images have the names
    that the archive's tables give them, or at least read like names.
    """
    members = opened.infolist()
    stored = [_stored_name(member) for member in members]
    others = [name for name in stored if isinstance(name, bytes)]
    page = _choose_page(others, _read_tables(opened, members)) if others else _FORMAT_PAGE
    names = [name if isinstance(name, str) else name.decode(page, errors="replace") for name in stored]
    return [(member, name.replace("\\", "/")) for member, name in zip(members, names, strict=True)]


def _stored_name(member: zipfile.ZipInfo) -> str | bytes:
    """Return the name, or its bytes if the archive does not state their encoding."""
    if member.flag_bits & _UTF8_FLAG:
        return member.orig_filename
    stored = member.orig_filename.encode(_FORMAT_PAGE)  # zipfile has decoded them as this
    try:
        return (_unicode_path(member.extra, stored) or stored).decode("utf-8")
    except UnicodeDecodeError:
        return stored


def _unicode_path(extra: bytes, stored: bytes) -> bytes | None:
    """Return the name in UTF-8 among a member's extra fields, if it is about the stored name."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        content, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and content[1:5] == struct.pack("<I", zlib.crc32(stored)):
            return content[5:]
    return None


def _choose_page(stored: Sequence[bytes], tables: Sequence[bytes]) -> str:
    texts = [(table, _decode_unicode(table)) for table in tables]
    named_in_all = _names_in(text for _, text in texts if text is not None)
    best, best_score = _FORMAT_PAGE, (0, 0)
    for page in _CODE_PAGES:
        try:
            names = [name.decode(page) for name in stored]
        except UnicodeDecodeError:
            continue
        named = _names_in(table.decode(page, errors="replace") for table, text in texts if text is None)
        files = [loosen(stem_of(re.split(r"[/\\]", name)[-1])) for name in names]
        num_named = sum(file in named_in_all or file in named for file in files)
        score = (num_named, sum(map(_reads_like_a_name, names)))
        if score > best_score:
            best, best_score = page, score
    return best


def _read_tables(opened: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo]) -> list[bytes]:
    """Read the tables that may name images; a damaged one is reported when it is unpacked."""
    tables = []
    bytes_left = _MAX_TABLE_BYTES
    for member in members:
        is_table = PurePosixPath(member.filename).suffix.lower() in _TABLES
        if is_table and member.file_size <= bytes_left and not member.flag_bits & _ENCRYPTED_FLAG:
            try:
                tables.append(opened.read(member))
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError):
                continue
            bytes_left -= member.file_size
    return tables


def _names_in(texts: Iterable[str]) -> set[str]:
    """List the parts between separators, as names of files without their suffixes."""
    return {loosen(stem_of(cell.strip())) for text in texts for cell in re.split(r'[,;\t\r\n"/\\|]', text)}


def _decode_unicode(table: bytes) -> str | None:
    """Decode a table, without JSON's escapes; None if it is in some code page."""
    is_utf16 = table[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = table.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    return _JSON_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _reads_like_a_name(name: str) -> bool:
    """Whether it has no odd characters and no word that mixes scripts."""
    beyond_ascii = (character for character in name if not character.isascii())
    if not all(unicodedata.category(character).startswith(_IN_NAMES) for character in beyond_ascii):
        return False
    words = re.findall(r"[^\W\d_]+", name)
    return all(len(set(map(_script_of, word))) == 1 for word in words)


def _script_of(letter: str) -> str:
    script = unicodedata.name(letter, "?").split()[0]
    return "CJK" if script in _JAPANESE else script
