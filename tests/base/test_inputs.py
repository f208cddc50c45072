"""Files from outside: only regular ones, of a known encoding, and names that hide nothing."""

from __future__ import annotations

import os
import socket

import pytest

from yolov6core.base.inputs import (
    InputError,
    decode_text,
    fits_a_line,
    harmless_cell,
    open_input,
    printable,
    read_bytes,
    read_text,
    text_codec,
    xml_declared,
)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, error in ((tmp_path / "fifo", InputError), (tmp_path / "s", OSError), (tmp_path, InputError)):
            with pytest.raises(error):
                read_bytes(str(path))
    with pytest.raises(InputError, match="/dev/zero is a device; only regular files"):
        read_bytes("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_input(str(tmp_path / "gone"))
    with pytest.raises(InputError, match="no name of a file"):
        read_bytes("a\0b")


def test_size_limits(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"12345")
    assert read_bytes(str(path), limit=5) == b"12345"
    with pytest.raises(InputError, match="a.txt has 5 bytes; at most 4"):
        read_bytes(str(path), limit=4)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_unicode_is_never_a_guess(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("a Bär 猫\n".encode(encoding))
    assert read_text(str(path)) == ("a Bär 猫\n", None)


@pytest.mark.parametrize(
    ("encoding", "guess", "text"),
    [
        ("gbk", "gb18030", "猫\n狗\n行人\n汽车\n"),
        ("gb2312", "gb18030", "安全帽\n反光衣\n"),
        ("gbk", "gb18030", "<name>安全帽</name>"),
        ("gbk", "gb18030", "人\n车辆\n"),
        ("gbk", "gb18030", "划痕\n裂纹\n"),
        ("euc-kr", "cp949", "사람\n차\n"),
        ("euc-kr", "cp949", "강아지\n신호등\n"),
        ("shift_jis", "cp932", "犬\n猫\n車\n"),
        ("shift_jis", "cp932", "信号\n歩行者\n"),
        ("shift_jis", "cp932", "ネコ\nいぬ\n自動車\n"),
        ("euc-kr", "cp949", "고양이\n개\n자동차\n"),
        ("big5", "big5", "貓咪\n狗狗\n汽車行人\n"),
        ("cp1251", "cp1251", "кошка\nсобака\nмашина\n"),
        ("cp1252", "cp1252", "Bär\nVögel\ncafé\n"),
    ],
)
def test_other_encodings_are_guessed_and_told(encoding, guess, text):
    data = text.encode(encoding)
    assert decode_text(data, where="a.txt") == (text, guess)
    assert decode_text(data, where="a.txt", declared=encoding) == (text, None)


def test_no_encoding_fits():
    with pytest.raises(InputError, match="a.txt is text in no encoding"):
        decode_text(b"\x81\xff\xfe\x98\xa0\xff\x80\x81", where="a.txt")


@pytest.mark.parametrize("name", ["hex", "rot13", "idna", "unicode_escape", "no-such", "zip", "", "a\0"])
def test_what_is_no_text_encoding(name):
    assert text_codec(name) is None


def test_declared():
    assert xml_declared(b'<?xml version="1.0" encoding="GBK"?><a/>') == "GBK"
    assert xml_declared(b"<?xml version='1.0' standalone='yes'?><a encoding='x'/>") is None
    assert xml_declared(b"<a/>") is None


def test_names_are_shown_as_they_are():
    assert printable("wide\u3000and narrow\xa0spaces, Bär, 猫") == "wide\u3000and narrow\xa0spaces, Bär, 猫"
    assert printable("\x1b[31mred\n\u202e\udcff") == "\\x1b[31mred\\x0a\\u202e\\udcff"
    assert fits_a_line("a\u3000b\xa0c.jpg") and not any(map(fits_a_line, ("a\nb", "a\x1bb", "\u2028", "\udcff")))
    assert str(InputError("a\x1b[2J")) == "a\\x1b[2J"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_cells_are_no_formulas(text):
    assert harmless_cell(text) == "'" + text and harmless_cell("a" + text) == "a" + text


def test_numbers_and_dashes_stay_as_they_are():
    assert [harmless_cell(value) for value in (-1, 0.5, None, "-")] == [-1, 0.5, None, "-"]
