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


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: &a [*a]", "[" * 5000, "a: 2024-13-45", "a: " + "9" * 5000, "!!int x", "a: !!float [1]", "? [a]\n: 1"],
    ids=range(8),
)
def test_hostile_documents_are_refused(text):
    try:
        parse_yaml(text)
    except ValueError as error:
        assert "not valid YAML" in str(error)
    else:
        assert text.startswith(("?", "a: 2024"))
