"""The page shows every part of a run, asks for nothing, and takes no name for markup."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from tests.report.conftest import HOSTILE, KINDS, write_run
from tests.support.browser import needs_chromium, outside_resources, render
from tests.support.pipeline import committed_params
from yolov6core.report.facts import differing_parameters
from yolov6core.report.page import fixed, report_page, short
from yolov6core.report.run_files import RunFolders

PARAMETERS = {"model": {"variant": HOSTILE, "image_size": [64, 96]}, "train": {"epochs": 1}}


class Headings(HTMLParser):
    """Elements, ids, levels of headings, and pictures without words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.mute: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.levels += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        named = found.get("alt") or found.get("aria-label") or found.get("aria-hidden")
        if tag == "img" and not named or tag == "svg" and not named or tag == "input" and not named:
            self.mute.append(str(found))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolders:
    """A run that no test changes."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run) -> str:
    return report_page(run, PARAMETERS)


def test_every_part_is_there(page):
    text = unescape(re.sub(r"<[^>]*>", " ", page))
    for kind in KINDS:
        assert re.search(rf"{kind}\s+0\.\d{{4}} ± 0\.0110", text), kind
    assert "Best INT8 engine of this run" in text and "naive" in text
    assert "a loss of 1.00 points of mAP50:95 against float" in text
    assert "only float" not in text and "largest change of a score" not in text, (
        "the best kind is naive, as sure as float"
    )
    for part in (
        "broken link",
        "t0",
        "mse, chosen: thick",
        "1 layer stays float",
        "train.epochs",
        "no GPU",
        "ptq.trt.onnx",
    ):
        assert part in text, part
    assert page.count('class="chart"') == 4 + 6 + 1 + 8 + 1 + 1


def test_names_are_no_markup(page):
    assert "<script>alert" not in page and "</style><script>" not in page
    assert page.count("<script>") == 1 and page.count("<style>") == 1
    assert unescape(page).count(HOSTILE) > 10


def test_nothing_is_asked_of_a_network(page):
    assert outside_resources(page) == []
    assert "default-src 'none'" in page
    assert outside_resources('<script src="https://a.b/c.js"></script><link rel="x" href=//d.e/f>') != []


def test_equal_files_give_equal_pages(page, run):
    assert report_page(run, PARAMETERS) == page


def test_ids_headings_and_words_for_pictures(page):
    found = Headings(page)
    assert len(found.ids) == len(set(found.ids))
    assert found.levels[0] == 1 and found.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(found.levels, found.levels[1:], strict=False))
    assert found.mute == []
    for target in re.findall(r'href="#([^"]+)"', page):
        assert target in found.ids, target
    for target in re.findall(r"url\(#([^)]+)\)", page):
        assert target in found.ids, target


def test_charts_have_no_colours_of_their_own(page):
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)
    for chart in charts:
        assert not re.findall(r"#[0-9a-f]{6}\b", chart), "a dark page would hide them"


def test_a_run_of_little_is_shown_with_what_is_missing(run_folders):
    for name in ("scales", "train", "ptq", "sensitivity", "qat", "onnx", "engines"):
        shutil.rmtree(getattr(run_folders, name))
    (run_folders.eval / "detections.csv").unlink()
    (run_folders.eval / "environment.json").unlink()
    page = report_page(run_folders, PARAMETERS)
    for part in ("train.epochs: 0", "search.scales", "No calibration", "No ranking", "This run uses no scales"):
        assert part in page, part


def test_a_run_without_float_says_so(run_folders):
    table = run_folders.eval / "table.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("float")), encoding="utf-8")
    assert "nothing says what INT8 costs" in report_page(run_folders, PARAMETERS)


def test_a_run_without_a_comparison_is_an_error(run_folders):
    (run_folders.eval / "table.csv").unlink()
    with pytest.raises(ValueError, match=r"table\.csv is missing or empty; run the eval-trt stage again"):
        report_page(run_folders, PARAMETERS)


def test_a_damaged_dataset_is_an_error(run, tmp_path):
    with pytest.raises(ValueError, match=r"val\.txt is missing"):
        report_page(replace(run, dataset=tmp_path / "nothing"), PARAMETERS)


def test_parameters_that_differ_are_named():
    params = committed_params()
    params["train"]["epochs"] += 1
    params["train"]["new"] = [1]
    before, after = params["train"]["epochs"] - 1, params["train"]["epochs"]
    found = differing_parameters({"train": params["train"]})
    assert ("train.epochs", str(before), str(after)) in found and ("train.new", None, "[1]") in found


def test_parameters_of_the_project_are_the_defaults():
    params = committed_params()
    if params["prepare"]["root"] != "data/sample_voc":
        pytest.skip("these parameters are not the ones that the project comes with")
    assert differing_parameters(params) == [], "copy params.yaml to yolov6core/report/defaults.yaml"


@pytest.mark.parametrize(
    "value, text", [(4.0, "4.00"), (633.4, "633"), (1234.5, "1,234"), (0.00123, "0.00123"), (None, "–")]
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_numbers_have_a_sign_where_it_matters():
    assert fixed(0.0123, 2, -100, "+") == "-1.23" and fixed(-0.0123, 2, -100, "+") == "+1.23"


@needs_chromium
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_it(page, tmp_path, width):
    file = tmp_path / "index.html"
    file.write_text(page, encoding="utf-8")
    seen = render(file, tmp_path, width=width)
    assert seen.console == []
    assert seen.facts["requests"] == []
    assert len(seen.facts["charts"]) >= 18 and all(marks > 0 for marks in seen.facts["charts"])
    assert seen.facts["images"] and all(size > 0 for size in seen.facts["images"])
    assert seen.facts["width"] <= width, "the page itself does not scroll sideways"


@needs_chromium
def test_sliders_and_choices_work(page, tmp_path):
    file = tmp_path / "index.html"
    file.write_text(page, encoding="utf-8")
    hand = """
        const choice = document.getElementById("choose-left");
        choice.value = "ground truth";
        choice.dispatchEvent(new Event("change"));
        const slider = document.querySelector(".compare input");
        slider.value = 20;
        slider.dispatchEvent(new Event("input"));
    """
    seen = render(file, tmp_path, script=hand)
    figure = re.search(r'<figure class="compare".*?</figure>', seen.text, re.DOTALL)[0]
    assert "--split: 20%" in figure and '<span class="a">ground truth</span>' in figure
    layers = dict(re.findall(r'data-layer="([^"]+)"[^>]*class="([^"]*)"', figure))
    assert {name: value.strip() for name, value in layers.items() if value.strip()} == {
        "ground truth": "left",
        "naive": "right",
    }


@needs_chromium
def test_the_browser_would_see_requests_and_errors(tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(
        '<body><img src="http://127.0.0.1:9/x.png"><script>throw new Error("bad")</script></body>', encoding="utf-8"
    )
    seen = render(file, tmp_path)
    assert seen.facts["requests"] == ["http://127.0.0.1:9/x.png"] and "bad" in "".join(seen.console)
