"""What a dry run predicts, by a clock that goes on with the work: a second for each position, or for each timed call."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from naive import subject as make_subject

from experiments import forecast
from experiments.corpus.prompts import Prompt
from experiments.metrics.metrics import get_metric
from experiments.sweep.components import components
from experiments.sweep.sweep import chunks

TEXTS = [" ".join(f"w{3 + i + j}" for j in range(1 + i % 5)) for i in range(20)]
PROMPTS = [Prompt(text, " w7") for text in TEXTS[:12]]


@pytest.fixture(scope="module")
def subject():
    return make_subject("gpt2")


@pytest.fixture
def positions(subject, monkeypatch):
    """The clock of a machine on which each position of a batch takes a second."""
    seconds = [0.0]

    def hear(module, args, given):
        seconds[0] += (given["input_ids"] if "input_ids" in given else args[0]).numel()

    handle = subject.body.register_forward_pre_hook(hear, with_kwargs=True)
    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    yield seconds
    handle.remove()


@pytest.fixture
def calls(monkeypatch):
    """A clock on which every timed call takes a second."""
    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=itertools.count(0.0).__next__))


def groups_of(subject, tokens):
    metric = get_metric("log_probability")
    return metric, list(chunks(subject, metric.reads(subject, PROMPTS), tokens))


@pytest.mark.parametrize("tokens", [4, 16, 1000])
@pytest.mark.parametrize("logits", [False, True])
def test_a_pass_takes_its_positions(subject, positions, tokens, logits):
    encoded = subject.encode(TEXTS)
    expected = sum(batch.input_ids.numel() for batch in subject.batches(encoded, tokens))
    assert forecast.pass_seconds(subject, encoded, tokens, logits=logits) == pytest.approx(expected)
    assert positions[0] < 3 * expected  # and not by doing all of it over and over
    assert forecast.pass_seconds(subject, [], tokens) == 0


def test_a_measurement_takes_its_positions(subject, positions):
    for tokens in (16, 1000):
        metric, groups = groups_of(subject, tokens)
        expected = sum(group.batch.input_ids.numel() for group in groups)
        assert forecast.metric_seconds(subject, metric, groups) == pytest.approx(expected)


def test_items_take_as_many_times_one_as_there_are(subject, monkeypatch):
    clock, done = [0.0], []

    def work(item):
        done.append(item)
        clock[0] += 5.0 if len(done) == 1 else 2.0  # the first also allocates

    monkeypatch.setattr(forecast, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    seconds = forecast.of_items(subject, range(100), work)
    assert seconds is not None
    assert done == []
    assert seconds() == 200.0
    assert done == [0, 0, 50, 99]
    assert forecast.of_items(subject, range(5), work) is None


def test_a_sweep_takes_its_parts_and_runs_on_every_position(subject, calls):
    """A clean forward of the timed chunk takes one second, and so do the four heads of a layer together."""
    for tokens in (16, 1000):
        metric, groups = groups_of(subject, tokens)
        parts = components(subject.model, "heads", groups[0].batch)
        share = sum(g.batch.input_ids.numel() for g in groups) / groups[len(groups) // 2].batch.input_ids.numel()
        for runs in (0.5, 3.0):
            found = forecast.sweep_seconds(subject, metric, groups, parts, runs)
            assert found == pytest.approx(share * (1 + runs * len(parts) / 4))


def test_a_sweep_runs_as_often_as_it_is_asked_to(subject, calls):
    metric, groups = groups_of(subject, 1000)
    parts = components(subject.model, "heads", groups[0].batch)

    def predicted(**options):
        return forecast.of_sweeps(SimpleNamespace(**options), subject, metric, groups, parts, times=2)["seconds"]()

    assert predicted(estimate="none", null=4) == pytest.approx(1 + 2 * (1 + 4) * 8 / 4)
    tested = predicted(estimate="gradient", verify=2, sample=1, null=4)  # 3 of 8 heads
    assert tested == pytest.approx(1 + 2 * (1 + 4) * 3 / 4)
