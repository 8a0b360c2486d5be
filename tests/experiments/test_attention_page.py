"""The attention viewer in headless Chromium: hiding the first token scales the other weights,
every layer is in view.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from recorded import make

from experiments.pages import render_report

SEES = "document.querySelector('[data-role=sees]').textContent"
HIDE = "document.querySelector('[data-role=hide]').click()"


@pytest.mark.browser
def test_hiding_the_first_token_scales_the_others_to_1(tmp_path: Path) -> None:
    """The pattern's second row is 128, 127, 0 of 255:
    without the first token all of it is the second's.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    results = make.recorded("attend-checkpoints")
    layers, heads = 24, results["shown"]["heads"]
    pattern = base64.b64encode(
        bytes([255, 0, 0, 128, 127, 0, 85, 85, 85]) * heads * layers
    ).decode()
    rollout = base64.b64encode(bytes([255, 0, 0, 64, 191, 0, 100, 55, 100])).decode()
    text = {"tokens": ["<s>", "a", " b"], "weights": pattern, "rollout": rollout}
    results["shown"] |= {"layers": list(range(layers)), "texts": [text]}
    results["records"] = [
        {**r, "layer": n} for n in range(layers) for r in results["records"][:heads]
    ]
    results["layers"] = [{**results["layers"][0], "layer": n} for n in range(layers)]
    page = tmp_path / "page.html"
    page.write_text(render_report(results), encoding="utf-8")
    browser = Browser()
    try:
        browser.open(page, 1200)
        assert browser.errors == []
        assert browser.evaluate(SEES) == "a attends to <s> 0.50, a 0.50"
        browser.evaluate(HIDE)
        assert browser.evaluate(SEES) == "a attends to a 1.00"
        browser.evaluate(HIDE)
        assert browser.evaluate(SEES) == "a attends to <s> 0.50, a 0.50"
        box = "document.querySelector('.thumbs')"
        assert browser.evaluate(
            f"{box}.scrollHeight <= {box}.clientHeight + 1 && {box}.clientHeight < 800"
        )
        assert (
            browser.evaluate("document.querySelector('[data-role=overview]').clientHeight")
            >= 12 * layers
        )
    finally:
        browser.close()
