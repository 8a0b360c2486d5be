"""The grammar of sites, against lists written by hand."""

from __future__ import annotations

import pytest

from hooks.sites import Site, Span, UnknownSite, expand

KNOWN = [f"blocks.{i}.{part}" for i in range(3) for part in ("hook_resid_pre", "attn.hook_z", "hook_resid_post")]


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
        (("zed", 1), "z"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(spec, hint):
    with pytest.raises(UnknownSite, match=hint.replace(".", r"\.")):
        expand([spec], KNOWN)


@pytest.mark.parametrize("spec", ["blocks.1.attn.hook_z[", "blocks.1.attn.hook_z[a]", "blocks.1.attn.hook_z[1:2:3:4]"])
def test_bad_brackets(spec):
    with pytest.raises(ValueError, match=r"expected"):
        Site.parse(spec)
