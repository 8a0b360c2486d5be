"""The bench in a browser and in a notebook: its numbers, its keys, what it refuses,
and that it stays on this machine.
"""

from __future__ import annotations

import base64
import json
import random
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import quote

import numpy as np
import pytest
import tiny
from browser import CHROMIUM, Browser
from made import EVIL

from experiments.explorer import grids, views
from experiments.explorer.bench import Bench
from experiments.explorer.runner import Runner
from experiments.explorer.session import View
from experiments.subject import Subject

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from experiments.explorer.server import LARGEST_MESSAGE, Site, bound, server_of

TEXT = "w5 w6 w7 w8 w9"
EDITS = ["blocks.0.attn.hook_z[1]=zero", "blocks.1.hook_mlp_out=scale:0.5@2,3"]
READY = "document.querySelector('.explore').dataset.busy === 'false'"
APP = "document.querySelector('.explore').explore"


class Running:
    """A bench that is served in this process."""

    def __init__(self, name=None, view=None):
        self.bench = Bench(Subject(tiny.model("llama"), tiny.tokenizer(), bos="always", name=name))
        self.start(view or View(TEXT))

    def start(self, view, port=0):
        listener = bound("127.0.0.1", port)
        self.port = listener.getsockname()[1]
        self.site = Site(self.bench, Runner(None), view, "127.0.0.1", self.port)
        self.server = server_of(self.site)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @property
    def socket(self):
        return f"{self.site.address.replace('http', 'ws')}live"

    @property
    def origin(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.server.should_exit = True
        self.thread.join(timeout=30)
        self.site.close()


@pytest.fixture(scope="module")
def running():
    one = Running()
    yield one
    one.stop()


def ask(socket, **request):
    """The messages up to the end of a request."""
    socket.send(json.dumps(request))
    heard = []
    while not heard or heard[-1]["part"] not in ("done", "problem", "stopped"):
        heard.append(json.loads(socket.recv(timeout=30)))
    return heard


def status_of(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, error.headers


def test_who_has_no_token_comes_by_another_name_or_from_another_page_is_refused(running):
    address = running.site.address
    assert status_of(address)[0] == 200
    assert "default-src 'none'" in status_of(address)[1]["Content-Security-Policy"]
    wrong = address.replace(running.site.token, "x" * len(running.site.token))
    assert status_of(wrong)[0] == status_of(f"{wrong}explore.js")[0] == 403
    assert status_of(f"http://127.0.0.1:{running.port}/")[0] == 404
    assert status_of(address, Host=f"evil.example:{running.port}")[0] == 403
    assert status_of(address, Origin="http://evil.example")[0] == 403
    assert status_of(f"{address}runs/0")[0] == 200  # "not there yet"
    assert status_of(f"{address}runs/..%2f..%2fetc%2fpasswd")[0] == 404
    for socket, given in (
        (running.socket, {"origin": "http://evil.example"}),
        (running.socket, {}),
        (f"{wrong.replace('http', 'ws')}live", {"origin": running.origin}),
    ):
        with pytest.raises(InvalidStatus), connect(socket, **given):
            pass
    with connect(running.socket, origin=running.origin) as socket:
        assert json.loads(socket.recv())["part"] == "hello"


def test_giant_and_broken_messages_end_in_a_line_or_a_closed_socket_and_the_server_lives(running):
    with connect(running.socket, origin=running.origin) as socket:
        socket.recv()
        for broken in ("", "[]", "{", "[" * 5000, '{"do": 3}', '{"do": "look"}', '{"do": "run"}',
                       '{"do": "run", "study": "ablate", "lines": "x"}',
                       '{"do": "look", "view": {"text": 1}}', ('{"do": "cell", "view": {"text": '
'"w5"}, "layer": true}')):  # fmt: skip
            socket.send(broken)
            message = json.loads(socket.recv(timeout=30))
            while message["part"] == "done":
                message = json.loads(socket.recv(timeout=30))
            assert message["part"] == "problem", (broken, message)
            assert len(message["text"].splitlines()) == 1
    with connect(running.socket, origin=running.origin, max_size=None) as socket:
        socket.recv()
        with pytest.raises(ConnectionClosed):
            ask(socket, do="look", view={"text": "w5 " * LARGEST_MESSAGE})
    with connect(running.socket, origin=running.origin) as socket:
        socket.recv()
        assert ask(socket, do="look", id=1, view={"text": TEXT})[0]["part"] == "look"


def test_a_socket_that_closes_in_a_forward_leaves_no_hook_and_two_tabs_get_their_own(running):
    for _ in range(5):
        socket = connect(running.socket, origin=running.origin)
        socket.recv()
        socket.send(
            json.dumps({"do": "generate", "view": {"text": TEXT, "edits": EDITS}, "length": 90})
        )
        socket.close()
    assert running.site.worker.idle()
    model = running.bench.model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with (
        connect(running.socket, origin=running.origin) as a,
        connect(running.socket, origin=running.origin) as b,
    ):
        a.recv()
        b.recv()
        one, two = ask(a, do="look", view={"text": "w5"}), ask(b, do="look", view={"text": "w6 w7"})
        assert [len(one[0]["tokens"]), len(two[0]["tokens"])] == [2, 3]


# -- in the browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    one = Browser()
    yield one
    one.close()


def wait(browser, condition=READY, seconds=60):
    end = time.monotonic() + seconds
    while not browser.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def opened(browser, running, view, width=1300):
    # another page first: an address that differs in its fragment alone is not loaded again
    browser.open("about:blank")
    browser.open(f"{running.site.address}#{quote(json.dumps(view))}", width)
    wait(browser)
    assert browser.errors == []


def shown(browser):
    """Every number of the page by its name, as it is held there."""
    script = """[...document.querySelectorAll('[data-name]')].filter((e) => (e.dataset.value ?? e.value) !== undefined)
      .map((e) => [e.dataset.name, Number(e.dataset.value ?? e.value)])"""
    return dict(browser.evaluate(script))


def click(browser, text):
    browser.evaluate(
        "[...document.querySelectorAll('button')].find((b) "
        f"=> b.textContent === {json.dumps(text)}).click()"
    )


@pytest.mark.browser
def test_every_number_on_the_page_is_the_functions(browser, running):
    view = View.parse({"text": TEXT, "edits": EDITS, "other": "w5 w6 w17 w8 w9"})
    bench = running.bench
    opened(browser, running, view.to_json())
    click(browser, "measure the 12 largest exactly")
    wait(browser)
    numbers = shown(browser)
    look, words, alone = views.look(bench, view)
    pair = look["answer"]["contrast"]
    expected = {"contrast-clean": pair["clean"], "contrast-edited": pair["edited"],
                "together": alone["together"], "sum": alone["sum"], "other-difference": look["other"]["difference"]}  # fmt: skip
    for row in look["answer"]["rows"]:
        expected |= {f"clean-{row['id']}": row["clean"], f"edited-{row['id']}": row["edited"]}
    expected |= {f"surprise-{i}": bits for i, bits in enumerate(words["bits"]) if bits is not None}
    expected |= {f"alone-{i}": row["effect"] for i, row in enumerate(alone["alone"])}
    for message in views.lens(bench, view):
        for at, column in zip(message["positions"], message["columns"], strict=True):
            expected |= {f"lens-{n - 1}-{at}": one["p"] for n, one in enumerate(column)}
    grid = grids.heads(bench, view)
    expected |= {f"neuron-{one['site']}": one["effect"] for one in grid["neurons"]}
    expected["agreement"] = grid["agreement"]["spearman"]
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, abs=1e-6), name
    assert len(expected) > 60
    # the grids on canvas, by the keys that walk them
    browser.evaluate("document.querySelector('canvas').focus()")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        browser.press(key)
    numbers = shown(browser)
    assert numbers["cell"] == pytest.approx(grid["rows"][0]["values"][2], abs=1e-6)
    browser.press("m")
    wait(browser)
    pattern = grids.pattern_values(bench, view, 0, 2)
    browser.evaluate("document.querySelectorAll('canvas')[1].focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        browser.press(key)
    assert shown(browser)["weight"] == pytest.approx(float(pattern[3, 1]), abs=1e-6)
    known = set(numbers) | {"weight"}
    assert known <= set(expected) | {
        "cell",
        "cell-exact",
        "chosen-token",
        "weight",
        "surprise-0",
    }, known - set(expected)


@pytest.mark.browser
def test_clicks_undos_and_keys_end_where_they_began_and_nothing_leaves_the_machine(
    browser, running
):
    opened(browser, running, {"text": TEXT})
    start = shown(browser)
    draw = random.Random(1)
    for _ in range(30):
        step = draw.choice(["head", "head", "word", "undo", "redo"])
        if step == "head":
            row, column = draw.randrange(2), draw.randrange(4)
            browser.evaluate("document.querySelector('canvas').focus()")
            for key in (
                ["ArrowUp"] * 2 + ["ArrowLeft"] * 5 + ["ArrowDown"] * row + ["ArrowRight"] * column
            ):
                browser.press(key)
            browser.press("Enter")
        elif step == "word":
            at = draw.randrange(1, 6)
            browser.evaluate(
                f"document.querySelectorAll('.chip')[{at}].dispatchEvent(new "
                "MouseEvent('click', {altKey: true, bubbles: true}))"
            )
        else:
            click(browser, step)
        if draw.random() < 0.5:
            wait(browser)
    wait(browser)
    view = View.parse(browser.evaluate(f"{APP}.view"))
    expected = next(views.look(running.bench, view))["answer"]["contrast"]
    assert shown(browser)["contrast-edited"] == pytest.approx(expected["edited"], abs=1e-6)
    while browser.evaluate(f"{APP}.past.length"):
        click(browser, "undo")
    wait(browser)
    # Some processors' kernels round by where in memory the numbers lie.
    undone = {name: value for name, value in shown(browser).items() if name in start}
    assert undone == pytest.approx(start, abs=1e-6)
    assert browser.evaluate(f"{APP}.view.edits.length") == 0
    assert browser.errors == []
    own = (running.site.address, running.socket, "about:", "blob:")
    assert [url for url in browser.requests if not url.startswith(own)] == []
    assert len(browser.requests) >= 4
    model = running.bench.model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


CONTROLS = """[...document.querySelectorAll('.explore button, .explore input, .explore select, .explore textarea,'
  + ' .explore canvas, .explore [tabindex], .explore a, .explore summary')].filter((part) => part.tabIndex >= 0
  && !part.disabled && part.checkVisibility({visibilityProperty: true}))"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1300, 400])
def test_tab_reaches_every_control_once_and_shows_where_it_is(browser, running, width):
    opened(browser, running, {"text": TEXT, "edits": EDITS}, width)
    browser.evaluate(f"window.controls = {CONTROLS}; document.activeElement.blur(); 0")
    count = browser.evaluate("controls.length")
    reached = []
    for _ in range(count):
        browser.press("Tab")
        at = browser.evaluate("controls.indexOf(document.activeElement)")
        assert at >= 0, browser.evaluate("document.activeElement.outerHTML.slice(0, 100)")
        assert browser.evaluate(
            "(({outlineStyle, boxShadow}) => outlineStyle !== 'none' || boxShadow !== 'none')"
            "(getComputedStyle(document.activeElement))"
        ), browser.evaluate("document.activeElement.outerHTML.slice(0, 100)")
        reached.append(at)
    assert sorted(reached) == list(range(count))
    assert count > 10  # a phone shows one panel at a time


@pytest.mark.browser
def test_a_lost_connection_comes_back_with_what_was_on_the_screen(browser, running):
    opened(browser, running, {"text": TEXT, "edits": EDITS})
    before = shown(browser)
    browser.evaluate(f"{APP}.channel.drop()")
    wait(browser, "document.querySelector('.explore').dataset.state === 'connected'")
    wait(browser)
    assert shown(browser)["contrast-edited"] == before["contrast-edited"]
    assert browser.evaluate(f"{APP}.view.edits") == EDITS


@pytest.mark.browser
def test_hostile_texts_tokens_and_names_run_nothing(browser):
    evil = Running(name=EVIL, view=View(TEXT))
    try:
        opened(
            browser,
            evil,
            {"text": f"w5 {EVIL} w7", "other": EVIL, "edits": [f"blocks.0.{EVIL}=zero"]},
        )
        assert browser.evaluate(
            "window.alerted === undefined && !document.querySelector('.explore img')"
        )
        assert EVIL in browser.evaluate("document.querySelector('h1').textContent")
        problem = browser.evaluate("document.querySelector('.problem').textContent")
        assert problem.startswith("blocks.0.") or "site" in problem or "edit" in problem
        browser.evaluate(f"{APP}.show({{...{APP}.view, edits: []}})")
        wait(browser)
        assert "script" in browser.evaluate(f"{APP}.view.text")
        assert [url for url in browser.requests if "evil" in url and "127.0.0.1" not in url] == []
        page = next(iter(answers(evil, do="page", view=browser.evaluate(f"{APP}.view"))))["html"]
        assert EVIL not in page
    finally:
        evil.stop()


def answers(running, **request):
    with connect(running.socket, origin=running.origin, max_size=None) as socket:
        socket.recv()
        return ask(socket, **request)


@pytest.mark.browser
def test_the_saved_page_shows_the_same_without_a_server(browser, running, tmp_path):
    view = View.parse({"text": TEXT, "edits": EDITS}).to_json()
    path = tmp_path / "saved.html"
    path.write_text(answers(running, do="page", view=view)[0]["html"], encoding="utf-8")
    opened(browser, running, view)
    live = shown(browser)
    browser.open(path)
    wait(browser, "document.querySelector('.explore')?.dataset.state === 'saved'")
    assert browser.errors == []
    saved = shown(browser)
    assert {name: saved.get(name) for name in live} == live
    assert [url for url in browser.requests if not url.startswith("file:")] == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1300])
def test_nothing_is_wider_than_the_page(width, browser, running):
    opened(browser, running, {"text": " ".join(f"w{i}" for i in range(5, 60))}, width)
    tabs = browser.evaluate("document.querySelectorAll('.tabs button').length")
    for number in range(tabs):
        browser.evaluate(f"document.querySelectorAll('.tabs button')[{number}].click()")
        wide = browser.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0
        visible = browser.evaluate(
            "[...document.querySelectorAll('section')].filter((s) => s.offsetHeight).length"
        )
        assert visible == (1 if width == 400 else 4)


@pytest.mark.browser
def test_every_control_is_reached_by_the_keyboard_and_has_a_name(browser, running):
    opened(browser, running, {"text": TEXT, "edits": EDITS})
    nameless = browser.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea, canvas, a')].filter((e) =>
          !e.textContent.trim() && !e.getAttribute('aria-label') && !e.closest('label')).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert browser.evaluate("document.querySelectorAll('[tabindex=\"-1\"]:not(.chip)').length") == 0


# -- in a notebook

NOTEBOOK = """
import sys, time
sys.path[:0] = {path!r}
import tiny
import layerscope as ls
widget = ls.explore(tiny.model("llama"), tiny.tokenizer(), text={text!r})
sent = []
widget.send = sent.append
widget._hear(widget, {{"do": "look", "id": 7, "view": {view!r}, "screen": "s"}}, [])
assert widget.worker.idle()
print([m["part"] for m in sent], sent[0]["answer"]["contrast"]["edited"], sent[0]["screen"])
widget
"""


def test_a_notebook_runs_it_in_the_kernel(tmp_path, running):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("anywidget")
    from pathlib import Path

    tests = Path(__file__).parents[1]
    view = {"text": TEXT, "edits": EDITS}
    source = NOTEBOOK.format(path=[str(tests.parent), str(tests)], text=TEXT, view=view)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    outputs = book.cells[0].outputs
    printed = "".join(one.get("text", "") for one in outputs)
    bench = Bench(Subject(tiny.model("llama"), tiny.tokenizer()))
    expected = next(views.look(bench, View.parse(view)))["answer"]["contrast"]["edited"]
    assert printed.startswith(f"['look', 'surprise', 'edits', 'done'] {expected} s")
    assert any("application/vnd.jupyter.widget-view+json" in one.get("data", {}) for one in outputs)


@pytest.mark.browser
def test_the_notebooks_module_is_the_same_front_end(browser, running, tmp_path):
    from experiments.explorer.assets import front_end
    from experiments.explorer.requests import answered

    css, js = front_end()
    encoded = base64.b64encode(js.encode()).decode()
    view = View.parse({"text": TEXT, "edits": EDITS})
    replies = {}
    for name in ("look", "lens", "heads"):
        replies[name] = list(answered(running.bench, {"do": name, "view": view.to_json()}))
    page = f"""<!doctype html><meta charset="utf-8"><style>{css}</style><div id="cell"></div><script type="module">
    const code = Uint8Array.from(atob("{encoded}"), (c) => c.charCodeAt(0));
    const module = await import(URL.createObjectURL(new Blob([code], {{type: "text/javascript"}})));
    const replies = {json.dumps(replies)}, about = {json.dumps(views.about(running.bench))};
    let hear;
    const model = {{
      on: (_, f) => {{ hear = f; }}, get: (name) => (name === "about" ? about : {json.dumps(view.to_json())}),
      set: (_, view) => {{ window.kept = view; }}, save_changes: () => {{}},
      send: (request) => {{
        const more = {{id: request.id, of_request: request.do, screen: request.screen}};
        for (const reply of [...replies[request.do] ?? [], {{part: "done"}}]) setTimeout(() => hear({{...reply, ...more}}));
      }},
    }};
    module.default.render({{model, el: document.getElementById("cell")}});
    </script>"""
    path = tmp_path / "cell.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path)
    wait(browser, f"document.querySelector('.explore') && {READY}")
    assert browser.errors == []
    pair = replies["look"][0]["answer"]["contrast"]
    assert np.isclose(shown(browser)["contrast-edited"], pair["edited"], atol=1e-9)
    assert browser.evaluate("window.kept.edits") == EDITS
