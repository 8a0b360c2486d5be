"""One model in several threads, processes and captures at once; and nothing left behind,
whichever way a block is left.
"""

from __future__ import annotations

import threading

import pytest
import tiny
import torch
from processes import PROCESSES
from torch.overrides import _get_current_function_mode_stack

from hooks import SiteNeverFired, capture, edits, intervene, observe
from hooks.verify.exam import attached

SITES = ("blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern", "blocks.0.attn.hook_attn_scores")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return tiny.model(request.param)


def seen(model, seed, sites=SITES):
    """What the sites hold on a text of their own."""
    with torch.no_grad(), capture(model, *sites) as acts:
        model(tiny.ids(seed=seed))
    return {site: acts[site] for site in acts}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[site], b[site]) for site in a)


def test_threads_on_one_model_see_their_own_forwards_and_edit_no_others(model):
    """Both are inside their blocks before either runs, and each runs several times."""
    expected, plain = {seed: seen(model, seed) for seed in (1, 2)}, model(tiny.ids(seed=3)).logits
    wait, found, failed = threading.Barrier(4), {}, []

    def reads(seed):
        with torch.no_grad(), capture(model, *SITES) as acts:
            wait.wait(10)
            model(tiny.ids(seed=seed))
        found[seed] = {site: acts[site] for site in acts}

    def edited():
        with torch.no_grad(), intervene(model, {"blocks.*.hook_mlp_out": edits.zero()}):
            wait.wait(10)
            found["edited"] = model(tiny.ids(seed=3)).logits

    def untouched():
        wait.wait(10)
        with torch.no_grad():
            found["plain"] = model(tiny.ids(seed=3)).logits

    def run(work, *given):
        try:
            work(*given)
        except Exception as error:
            failed.append(error)
            wait.abort()

    threads = [
        threading.Thread(target=run, args=a)
        for a in ((reads, 1), (reads, 2), (edited,), (untouched,))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert same(found[1], expected[1])
    assert same(found[2], expected[2])
    assert torch.equal(found["plain"], plain)
    assert not torch.allclose(found["edited"], plain)
    assert attached(model) == 0


@pytest.mark.parametrize("way", ["capture", "intervene", "observe"])
def test_a_forward_in_another_thread_is_not_taken_for_ones_own(model, way):
    site = "blocks.0.hook_mlp_out"
    blocks = {
        "capture": lambda: capture(model, site),
        "intervene": lambda: intervene(model, {site: edits.zero()}),
        "observe": lambda: observe(model, site, see=lambda site, value: None),
    }

    def elsewhere():
        with blocks[way]():
            thread = threading.Thread(target=model, args=(tiny.ids(),))
            thread.start()
            thread.join()

    with pytest.raises(SiteNeverFired, match="ran in another thread"):
        elsewhere()
    assert attached(model) == 0


def send_what_is_seen(name, seed, pipe):
    torch.set_num_threads(1)
    pipe.send({site: value.numpy() for site, value in seen(tiny.model(name), seed).items()})


def test_two_processes_capture_at_once(model):
    expected, pipes = {seed: seen(model, seed) for seed in (1, 2)}, {}
    for seed in (1, 2):
        here, there = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(
            target=send_what_is_seen, args=(model.config.model_type, seed, there)
        )
        process.start()
        there.close()
        pipes[seed] = here, process
    for seed, (here, process) in pipes.items():
        assert here.poll(120), "nothing was sent"
        assert same({site: torch.from_numpy(v) for site, v in here.recv().items()}, expected[seed])
        process.join(120)
        assert process.exitcode == 0


def test_captures_inside_captures(model):
    """The inner one ends first, and the outer one goes on; both hold the same."""
    with torch.no_grad(), capture(model, *SITES) as outer:
        with capture(model, *SITES) as inner:
            model(tiny.ids(seed=1))
        held = {site: inner[site] for site in inner}
        assert same(held, {site: outer[site] for site in outer})
        model(tiny.ids(seed=2))
    assert len(outer.all("blocks.1.attn.hook_pattern")) == 2
    assert same(held, {site: inner[site] for site in inner})
    assert torch.equal(
        outer.all("blocks.1.hook_resid_post")[1], seen(model, 2)["blocks.1.hook_resid_post"]
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit, GeneratorExit])
@pytest.mark.parametrize(
    "site",
    ["blocks.1.attn.hook_pattern", "blocks.0.attn.hook_attn_scores", "blocks.1.mlp.hook_post"],
)
def test_nothing_is_left_when_an_edit_raises_inside_captures(model, site, error):
    before = seen(model, 1)

    def fails(value):
        raise error

    with (
        pytest.raises(error),
        capture(model, *SITES),
        intervene(model, {site: fails}),
        capture(model, site),
    ):
        model(tiny.ids(seed=1))
    assert attached(model) == 0
    assert _get_current_function_mode_stack() == []
    assert same(seen(model, 1), before)


def test_nothing_is_left_when_a_generator_is_closed_early_or_forgotten(model):
    def texts():
        with (
            capture(model, *SITES) as acts,
            intervene(model, {"blocks.0.hook_mlp_out": edits.zero()}),
        ):
            for seed in range(3):
                model(tiny.ids(seed=seed))
                yield acts
        pytest.fail("it went on")

    before = seen(model, 1)
    opened = texts()
    next(opened)
    assert attached(model) > 0
    opened.close()
    assert attached(model) == 0
    forgotten = texts()
    next(forgotten)
    del forgotten
    assert attached(model) == 0
    assert same(seen(model, 1), before)
