"""Files from outside: the one place where they are opened, limited, decoded, and where their names become text."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import stat
import unicodedata
from typing import Any

MAX_TEXT = 2**28
"""Bytes of the largest text file that is read; labels, lists and names take far less."""
MAX_DOCUMENT = 2**34
"""Bytes of the largest JSON file; COCO's own largest takes 2**29."""

_BOMS = (  # UTF-32 first: its mark begins with the one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "ascii": "utf-8"}
_NO_TEXT = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7", "mbcs", "oem"}
_CANDIDATES = ("gb18030", "cp932", "cp949", "big5", "euc_jp", "cp1251", "cp1252")
_COMMON = {  # frequent characters, and those of things that are labelled: Korean and Chinese share their bytes
    "cp949": "이다는을에의가고하지를은로기사도한어나대자시인리아해서그수일스보정여있라부전제것만들주원장상동차개소"
    "양람선화물행교통호등버트럭과파손표판문유모안면결함균열조각새말닭돼컵병책창식음오토바퀴신발얼굴무불연",
    "gb18030": "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里"
    "用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日"
    "军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美"
    "相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解"
    "水名车辆安帽服衣反光火烟焰猫狗鸟牛羊马猪鸡鱼花草树红绿黄蓝白黑灯路标志牌轿货客摩托汽骑电瓶盔口罩脸眼"
    "鼻男女孩缺陷划痕裂纹孔洞破损污渍斑异飞船房桥杯碗椅桌床书包箱盒袋刀枪球鞋裤脑屏幕钢铁铜铝木塑料玻璃苹"
    "香蕉橙叶病虫害负良品类别未目舶管",
    "cp932": "日一国人年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先"
    "名川千水半男西電校語土木聞食車毎何南万白天母火右読友左休父雨犬猫鳥馬牛魚花自動信号標識歩者傷欠陥良品"
    "赤青黄黒緑",
}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}
_ODD_WORDS = {  # Cyrillic and Latin letters side by side; three letters with accents in a row
    "cp1251": re.compile("[a-zA-Z][\u0400-\u045f]|[\u0400-\u045f][a-zA-Z]"),
    "cp1252": re.compile("[\u00c0-\u00ff]{3}"),
}
_SAMPLE = 1 << 16  # characters that a guess looks at


class InputError(ValueError):
    """A file that cannot be taken: not a regular file, too large, or of an unknown encoding; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The text with control characters, terminal escapes, invisible marks and parts of no character escaped."""
    if text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in _HIDDEN else _escaped(c) for c in text)


def fits_a_line(text: str) -> bool:
    """Whether a text has no control character, line break or part of no character; wide spaces are fine."""
    return text.isprintable() or not any(unicodedata.category(c) in _UNSAFE for c in text)


def harmless_cell(value: Any) -> Any:
    """A value as it may stand in a table: a text that spreadsheets take for a formula gets an apostrophe in front."""
    formula = isinstance(value, str) and value != "-" and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def open_input(path: str, *, limit: int | None = None) -> int:
    """A descriptor of a regular file; the caller closes it. A FIFO, device or socket is refused without waiting.

    Raises:
        InputError: not a regular file, or more than `limit` bytes.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a null character
        raise InputError(f"{path} is no name of a file ({error})") from None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} has {found.st_size} bytes; at most {limit} are taken for a file of this kind")
    raise InputError(f"{path} is a {_kind(found.st_mode)}; only regular files are read")


def read_bytes(path: str, *, limit: int | None = MAX_TEXT) -> bytes:
    """All bytes of a regular file, with few system calls. Raises InputError and OSError, see `open_input`."""
    descriptor = open_input(path, limit=limit)
    try:
        return read_rest(descriptor)
    finally:
        os.close(descriptor)


def read_rest(descriptor: int) -> bytes:
    """The unread rest of an open file."""
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_text(path: str, *, limit: int | None = MAX_TEXT) -> tuple[str, str | None]:
    """The text of a file, and the encoding that was guessed; None where the file says it or it is UTF-8.

    Raises:
        InputError: see `open_input`; or no encoding fits.
        OSError: it cannot be opened.
    """
    return decode_text(read_bytes(path, limit=limit), where=path)


def decode_text(data: bytes, *, where: str, declared: str | None = None) -> tuple[str, str | None]:
    """Text of a byte order mark, of the declared encoding, of UTF-8, or of the likeliest other encoding, in this order.

    Returns: the text without a byte order mark, and the encoding if it was guessed.

    Raises:
        InputError: no encoding fits.
    """
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None) or _unmarked_wide(data)
    for name in (marked, declared and text_codec(declared), "utf-8"):
        if name:
            with contextlib.suppress(UnicodeError, LookupError):
                return data.decode(name).removeprefix("\ufeff"), None
    guess = _guess(data)
    if guess is None:
        raise InputError(f"{where} is text in no encoding that is known here; save it as UTF-8")
    return data.decode(guess), guess


def text_codec(name: str) -> str | None:
    """Python's name of a text encoding, the larger one where two are mixed up in use; None for unknown ones."""
    try:
        found = codecs.lookup(name.strip())
    except (LookupError, ValueError):
        return None
    if found.name in _NO_TEXT or not getattr(found, "_is_text_encoding", True):
        return None
    return _SUPERSETS.get(found.name, found.name)


def _unmarked_wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by the null bytes of its first character, which is one of ASCII."""
    nulls = tuple(byte == 0 for byte in data[:4])
    wide: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True): "utf-16-le",
        (True, False): "utf-16-be",
    }
    if len(data) % 4 == 0 and nulls in wide:
        return wide[nulls]
    return wide.get(nulls[:2]) if len(data) % 2 == 0 else None


def _guess(data: bytes) -> str | None:
    """The candidate whose text looks most like a language; the first one of equals."""
    scores = {}
    for name in _CANDIDATES:
        with contextlib.suppress(UnicodeError):
            scores[name] = _likelihood(data.decode(name)[:_SAMPLE], name)
    return max(scores, key=scores.__getitem__, default=None)


def _likelihood(text: str, codec: str) -> float:
    """Mean over the characters outside of ASCII: 1 for those that its texts consist of, -1 for odd ones."""
    foreign = [c for c in text if c > "\x7f"]
    odd = _ODD_WORDS[codec].search(text) is not None if codec in _ODD_WORDS else False
    return sum(_weight(c, codec) for c in foreign) / max(len(foreign), 1) - 0.5 * odd


def _weight(character: str, codec: str) -> float:
    point = ord(character)
    if codec in ("cp1251", "cp1252"):
        script = 0x400 <= point < 0x460 if codec == "cp1251" else 0xC0 <= point < 0x180
        return 0.45 if script and character.isalpha() else -0.5
    if 0x3040 <= point < 0x3100:
        return 1.0 if codec in ("cp932", "euc_jp") else 0.0
    if 0xAC00 <= point < 0xD7A4:
        known = codec == "cp949" and len(character.encode("euc_kr", "ignore")) == 2
        return (1.0 if character in _COMMON[codec] else 0.4) if known else -0.5
    if 0x4E00 <= point < 0xA000:
        return _ideograph(character, codec)
    return 0.3 if unicodedata.category(character) in ("Ps", "Pe", "Po") else -1.0


def _ideograph(character: str, codec: str) -> float:
    """Common characters come first in each national set, ordered by sound or by strokes."""
    try:
        first = character.encode({"gb18030": "gb2312", "cp932": "shift_jis", "cp949": "euc_kr"}.get(codec, codec))[0]
    except UnicodeError:
        return -0.5
    common = {
        "gb18030": 0xB0 <= first <= 0xD7,
        "big5": 0xA4 <= first <= 0xC6,
        "cp932": 0x88 <= first <= 0x97,
        "euc_jp": 0xB0 <= first <= 0xCF,
    }
    if not common.get(codec):
        return -0.3
    return 1.0 if character in _COMMON.get(codec, "") else {"gb18030": 0.5, "big5": 0.6, "cp932": 0.4}.get(codec, 0.35)


def _escaped(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return names.get(stat.S_IFMT(mode), "device")


def xml_declared(data: bytes) -> str | None:
    """The encoding that an XML file declares, None if none."""
    found = re.match(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._:\-]{1,40})[\"']", data[:200].lstrip())
    return found.group(1).decode("ascii") if found else None
