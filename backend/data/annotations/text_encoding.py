"""Detects the encoding of a table: marked, UTF-16, UTF-8, or the code page that fits its text and its images.

Of a table's columns it uses only the endings x and y, which all tables of landmarks share.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

UTF_8 = "utf-8"
# Python's name -> who writes it, the likelier first if nothing else decides
CODE_PAGES = {
    "cp1256": "Windows, Persian and Arabic",
    "cp1252": "Windows, Western Europe",
    "cp1251": "Windows, Cyrillic",
    "cp1253": "Windows, Greek",
    "cp1254": "Windows, Turkish",
    "cp1250": "Windows, Central Europe",
    "cp1255": "Windows, Hebrew",
    "cp1257": "Windows, Baltic",
    "cp932": "Windows, Japanese",
    "gb18030": "simplified Chinese",
    "cp949": "Windows, Korean",
    "big5hkscs": "traditional Chinese",
    "mac-roman": "older Macintosh",
}
_MARKS = (  # byte order mark, encoding that strips it; UTF-32 before UTF-16, with which it begins
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# Lead bytes of the characters in daily use: what is read with a wrong code page mostly lands beside them.
_COMMON_LEADS = {
    "gb18030": range(0xB0, 0xD8),
    "big5hkscs": range(0xA4, 0xC7),
    "cp932": range(0x81, 0x98),
    "cp949": range(0xB0, 0xC9),
}
_RARE = {"cp1252": "ðýþÐÝÞ"}  # Icelandic; the same bytes are in every Turkish text
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
_JOINERS = "\u200c\u200d"  # within Persian words
# cp1256 has no Persian yeh, so the Arabic one is typed
_PERSIAN_YEH = str.maketrans("\u064a\u0649", "\u06cc\u06cc")
_WORD = re.compile(r"[^\s,;|\"'/\\._:()\[\]\-0-9]+")
_CELL_END = re.compile(r"[,;|\t\r\n\"]+")
_AXIS = re.compile(r"[_. ][xy](?=[,;|\t\r\n\"]|$)|(?:^|(?<=[,;|\t\n\"]))[xy][_. ]", re.IGNORECASE)
_SAMPLE_BYTES = 100_000
_MAX_NAMES = 50_000  # files looked at, where the names of images decide
MAX_ODD_SHARE = 0.6  # of a word's characters, above which it is no word


@dataclass(frozen=True)
class Decoded:
    """A table's text, without byte order mark, and its encoding."""

    text: str
    encoding: str  # Python's name
    remark: str = ""  # what the user should know about it; "" for UTF-8


class NotTextError(ValueError):
    """Bytes are not a table: what is wrong, and the cure."""

    def __init__(self, what: str, cure: str) -> None:
        self.what, self.cure = what, cure
        super().__init__(what)


def decode_table(content: bytes, folder: Path | None = None) -> Decoded:
    """Decode a table. If its `folder` is given, the names of the files in it decide between code pages.

    Raises NotTextError.
    """
    if content.startswith(_WORKBOOKS):
        raise NotTextError("is an Excel workbook and not CSV", "save it as CSV UTF-8 in Excel")
    encoding = _find_unicode(content)
    if encoding:
        try:
            text = content.decode(encoding).lstrip("\ufeff")
        except UnicodeDecodeError as error:
            raise NotTextError(
                f"is not {encoding.removesuffix('-sig').upper()} text from byte {error.start} on",
                "export it again as UTF-8",
            ) from error
        remark = "" if encoding.startswith(UTF_8) else f"read as {encoding.upper()}"
        return Decoded(text, encoding, remark)
    _refuse_mixture(content)
    return _choose_code_page(content, folder)


def _find_unicode(content: bytes) -> str:
    """Find the Unicode encoding by mark or by its bytes; "" if it is none."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    if b"\0" in content:
        # Commas, digits and ends of lines are ASCII in every table: their zeros are in front in big-endian
        # text.
        if content.count(0) * 10 < len(content):
            raise NotTextError(f"is not text: byte {content.index(0)} is zero", "export it again as UTF-8")
        quarters = [content[start::4].count(0) for start in range(4)]
        if min(quarters[1:3]) > len(content) / 6:
            return "utf-32-be" if quarters[0] > quarters[3] else "utf-32-le"
        big = quarters[0] + quarters[2] > quarters[1] + quarters[3]
        return "utf-16-be" if big else "utf-16-le"
    try:
        content.decode(UTF_8)
    except UnicodeDecodeError:
        return ""
    return UTF_8


def _refuse_mixture(content: bytes) -> None:
    """Raise NotTextError for UTF-8 with lines of another encoding in it: no encoding reads both."""
    foreign = [(n, line) for n, line in enumerate(content.splitlines(), start=1) if not line.isascii()]
    wrong = [number for number, line in foreign if not _is_utf_8(line)]
    if len(wrong) * 2 < len(foreign):
        raise NotTextError(
            f"is UTF-8 text, but line {wrong[0]} is not", "write that line again, and save the file as UTF-8"
        )


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode(UTF_8)
    except UnicodeDecodeError:
        return False
    return True


def _choose_code_page(content: bytes, folder: Path | None) -> Decoded:
    """Choose first by the images on disk, then by intact columns and words, then by likely language."""
    lines = [line for line in content.splitlines(keepends=True) if not line.isascii()]
    sample = b"".join(lines)[:_SAMPLE_BYTES]
    file_names = _names_below(folder) if folder else set()
    likelihood = _likelihoods(content[:_SAMPLE_BYTES])
    ranked: list[tuple[tuple[float, ...], str, bool]] = []
    for order, encoding in enumerate(CODE_PAGES):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        text = sample.decode(encoding, errors="ignore")  # the sample may end within a character
        odd = odd_share(text, encoding)
        is_persian = encoding == "cp1256" and odd == 0 and _script_of_words(text) == "ARABIC"
        rest = (
            -len(_AXIS.findall(text)),
            round(odd, 1),
            encoding == "mac-roman",
            not is_persian,
            -round(likelihood.get(encoding, 0.0), 2),
            order,
        )
        ranked.append(((-_num_known(text, file_names), *rest), encoding, False))
        if encoding == "cp1256":
            num_known = _num_known(text.translate(_PERSIAN_YEH), file_names)
            ranked.append(((-num_known, *rest, 1), encoding, True))
    if not ranked or (best := min(ranked))[0][2] > MAX_ODD_SHARE:
        raise NotTextError("is not text in an encoding that is known here", "save it as UTF-8")
    _, encoding, has_persian_yeh = best
    text = content.decode(encoding)
    remark = f"is not UTF-8; read as {encoding} ({CODE_PAGES[encoding]})"
    if has_persian_yeh:
        return Decoded(
            text.translate(_PERSIAN_YEH), encoding, f"{remark}, with ی for ي as in the images' names"
        )
    return Decoded(text, encoding, remark)


def _likelihoods(sample: bytes) -> dict[str, float]:
    """Rate how much each code page's text resembles a language, by chardet's models of whole words."""
    import chardet  # its models take a moment to load, and few tables need them

    guesses = chardet.detect_all(sample, ignore_threshold=True, compat_names=False)
    return {str(guess["encoding"]): float(guess["confidence"] or 0) for guess in guesses}


def odd_share(text: str, encoding: str) -> float:
    """Return the share of odd characters in its words, 0 if all look right; words in ASCII do not count."""
    words = {word for word in _WORD.findall(text) if not word.isascii()}
    return sum(_num_odd(word, encoding) / len(word) for word in words) / max(1, len(words))


def _num_odd(word: str, encoding: str) -> float:
    letters = [c for c in word if unicodedata.category(c)[0] in "LM"]
    joins = any(_script(c) == "ARABIC" for c in letters)
    odd: float = sum(c not in letters and not (joins and c in _JOINERS) for c in word)
    odd += sum(c in _RARE.get(encoding, "") for c in word)
    leads = _COMMON_LEADS.get(encoding)
    if leads:
        odd += sum(len(code := c.encode(encoding)) > 2 or code[0] not in leads for c in letters if c > "\x7f")
    odd += len({_script(c) for c in letters}) > 1
    has_case = word.lower() != word.upper()
    odd += has_case and not (word.isupper() or word[1:].islower() or len(word) == 1)
    latin = [c for c in letters if _script(c) == "LATIN"]
    if len(latin) > 2 and sum(c > "\x7f" for c in latin) * 3 > 2 * len(latin):
        odd += len(word) / 2  # no language writes Latin words mostly in accents
    return odd


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return _ONE_SCRIPT.get(name, name)


def _script_of_words(text: str) -> str:
    """Return the one script of the words beyond ASCII, "" if there are several."""
    scripts = {_script(c) for c in text if c > "\x7f" and unicodedata.category(c) == "Lo"}
    return scripts.pop() if len(scripts) == 1 else ""


def _names_below(folder: Path) -> set[str]:
    """List the names of files below a folder that are beyond ASCII, with and without suffix."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    foreign = (unicodedata.normalize("NFC", name) for name in islice(files, _MAX_NAMES) if not name.isascii())
    return {part for name in foreign for part in (name, PurePosixPath(name).stem)}


def _num_known(text: str, names: set[str]) -> int:
    """Count the different cells beyond ASCII that are the name of a file, in any folder."""
    cells = {cell.strip().replace("\\", "/").rsplit("/", 1)[-1] for cell in _CELL_END.split(text)}
    return sum(not cell.isascii() and unicodedata.normalize("NFC", cell) in names for cell in cells)
