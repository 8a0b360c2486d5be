"""The grammar of sites, against lists written by hand."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooks.sites import Site, Span, UnknownSite, expand

KNOWN = [
    f"blocks.{i}.{part}"
    for i in range(3)
    for part in ("hook_resid_pre", "attn.hook_z", "hook_resid_post")
]


@pytest.mark.parametrize(
    ("spec", "name", "select"),
    [
        ("blocks.3.attn.hook_z", "blocks.3.attn.hook_z", None),
        ("blocks.3.attn.hook_z[5]", "blocks.3.attn.hook_z", 5),
        ("blocks.3.attn.hook_z[-1]", "blocks.3.attn.hook_z", -1),
        ("blocks.3.mlp.hook_post[1,4]", "blocks.3.mlp.hook_post", (1, 4)),
        ("blocks.3.mlp.hook_post[2:8]", "blocks.3.mlp.hook_post", Span(2, 8)),
        (("z", 3), "blocks.3.attn.hook_z", None),
        (("resid_post", "*"), "blocks.*.hook_resid_post", None),
        (("pattern", [0, 2]), "blocks.{0,2}.attn.hook_pattern", None),
        ("module:encoder.rnn:output[0]", "module:encoder.rnn:output[0]", None),
    ],
)
def test_parse(spec, name, select):
    site = Site.parse(spec)
    assert (site.name, site.select) == (name, select)
    assert Site.parse(str(site)) == site


def test_layer_part_axis():
    site = Site.parse("blocks.12.attn.hook_pattern[3]")
    assert (site.layer, site.part, site.axis) == (12, "attn.hook_pattern", 1)
    assert Site.parse("ln_final.hook_normalized").layer is None


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["blocks.*.attn.hook_z"], [1, 4, 7]),
        (["blocks.{0,2}.attn.hook_z"], [1, 7]),
        (["blocks.-1.hook_resid_post"], [8]),
        ([("z", -2)], [4]),
        ([("z", [0, -1])], [1, 7]),
        (["blocks.{-1,-3}.attn.hook_z"], [1, 7]),
        (["{blocks.-1,blocks.0}.attn.hook_z"], [1, 7]),
        (["blocks.1.*"], [3, 4, 5]),
        (["blocks.2.attn.hook_z", "blocks.*.attn.hook_z"], [7, 1, 4]),
    ],
)
def test_expand(patterns, expected):
    assert [str(s) for s in expand(patterns, KNOWN)] == [KNOWN[i] for i in expected]


def test_expand_keeps_selections():
    assert [str(s) for s in expand(["blocks.*.attn.hook_z[1]"], KNOWN)] == [
        f"blocks.{i}.attn.hook_z[1]" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("blocks.1.attn.hook_zz", "blocks.1.attn.hook_z"),
        ("blocks.1.hook_residpost", "blocks.1.hook_resid_post"),
        ("blocks.7.hook_resid_post", "blocks 0 to 2"),
        (
            "blocks.{0,7}.hook_resid_post",
            "no site 'blocks.7.hook_resid_post': the model has blocks 0 to 2",
        ),
        ("blocks.0.{attn.hook_z,attn.hook_zz}", "no site 'blocks.0.attn.hook_zz'"),
        (("z", [0, -4]), "no site 'blocks.-4.attn.hook_z'"),
        (("zed", 1), "z"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec, hint):
    with pytest.raises(UnknownSite, match=hint.replace(".", r"\.")):
        expand([spec], KNOWN)


@pytest.mark.parametrize(
    "spec",
    [
        "blocks.1.attn.hook_z[",
        "blocks.1.attn.hook_z[a]",
        "blocks.1.attn.hook_z[1:2:3:4]",
        "z[,]",
        "z[::0]",
    ],
)
def test_bad_brackets(spec):
    with pytest.raises(ValueError, match=r"expected"):
        Site.parse(spec)


# -- any spelling

WORDS = st.text("abcz_0159", min_size=1, max_size=4)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)
NUMBERS = st.none() | st.integers(-99, 99)
SPANS = st.builds(Span, NUMBERS, NUMBERS, NUMBERS.filter(lambda step: step != 0))
SELECTED = (
    st.none()
    | st.integers(-99, 9999)
    | st.lists(st.integers(-9, 99), min_size=1, max_size=4).map(tuple)
    | SPANS
)
#: What may stand in a pattern -> what it may stand for.
CHOICES = {
    **{piece: [piece] for piece in [*"abcz_0159.", "*", "?", "*.", ".*"]},
    "{a,b}": ["a", "b"],
    "{0,1}": ["0", "1"],
    "{a.b,*c}": ["a.b", "*c"],
    "{z}": ["z"],
    "{a,{b,c}}": ["a", "b", "c"],
}
PIECES = st.sampled_from(list(CHOICES))


@settings(max_examples=200)
@given(NAMES, SELECTED)
def test_a_site_is_what_its_spelling_says(name, select):
    site = Site(name, select)
    assert Site.parse(str(site)) == site


def as_regex(pattern: str) -> str:
    """What a pattern means, letter by letter: an oracle that shares nothing with fnmatch."""
    signs = {"*": ".*", "?": "."}
    return "".join(signs.get(c, re.escape(c)) for c in pattern)


@settings(max_examples=300)
@given(
    st.lists(NAMES, min_size=1, max_size=12, unique=True), st.lists(PIECES, min_size=1, max_size=6)
)
def test_a_glob_finds_what_its_regular_expressions_find_and_each_finds_something(known, pieces):
    patterns = map("".join, itertools.product(*map(CHOICES.__getitem__, pieces)))
    matched = [
        {name for name in known if re.fullmatch(as_regex(pattern), name)} for pattern in patterns
    ]
    try:
        found = [str(site) for site in expand(["".join(pieces)], known)]
    except UnknownSite:
        found = []
    assert found == (
        [name for name in known if name in set().union(*matched)] if all(matched) else []
    )


@settings(max_examples=300)
@given(
    st.text(max_size=30) | st.lists(PIECES | st.sampled_from("[]:,- {}"), max_size=9).map("".join)
)
def test_any_text_is_a_site_or_one_clear_line(spec):
    try:
        found, said = expand([spec], KNOWN), ""
    except (ValueError, UnknownSite) as error:
        found, said = [], str(error)
    assert len(said.splitlines()) <= 1
    assert found or said
    assert all(site.name in KNOWN or site.name.startswith("module:") for site in found)


@given(st.integers(-5, 5), st.integers(1, 4))
def test_layers_count_from_the_end(layer, n_layers):
    known = [f"blocks.{i}.hook_resid_post" for i in range(n_layers)]
    if -n_layers <= layer < n_layers:
        assert [str(s) for s in expand([("resid_post", layer)], known)] == [known[layer]]
    else:
        with pytest.raises(UnknownSite):
            expand([("resid_post", layer)], known)
