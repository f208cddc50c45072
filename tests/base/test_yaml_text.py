import pytest

from yolov6core.base.yaml_text import parse_yaml


def test_words_are_text_and_numbers_numbers():
    assert parse_yaml("{a: off, b: yes, c: 1e-06, d: [1, 2.5], e: null}") == {
        "a": "off",
        "b": "yes",
        "c": 1e-06,
        "d": [1, 2.5],
        "e": None,
    }


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_plain_yaml_is_refused(text):
    with pytest.raises(ValueError, match="not valid YAML"):
        parse_yaml(text)
