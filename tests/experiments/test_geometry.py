"""Geometry: figures of clouds whose answer is known, maps against scikit-learn's, the logit lens
against the model, the command.
"""

from __future__ import annotations

import base64
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive import alone, subject
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances

from experiments import cli
from experiments.demo import demo_paths
from experiments.features.layout import Layout
from experiments.studies.attend.study import plain_sentence
from experiments.studies.geometry import maps, measures
from experiments.studies.geometry.lens import Lens, LensError, logit_lens
from experiments.studies.geometry.map_points import norms_by_position
from experiments.studies.geometry.study import _similar, cka_bytes
from hooks import capture


def cloud(n: int = 300, d: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def turned(vectors: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(cloud(vectors.shape[1], vectors.shape[1], 9))
    return vectors @ q


def test_components_are_those_of_scikit_learn() -> None:
    vectors = cloud() * np.geomspace(5, 0.1, 20) + 3
    ours, theirs = measures.components(vectors), PCA().fit(vectors)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(ours.coordinates, theirs.transform(vectors), atol=1e-8)
    flat = cloud(50, 3) @ cloud(3, 10, 1)
    assert measures.components(flat).needed(1 - 1e-9) == 3


def test_anisotropy_is_the_mean_cosine() -> None:
    vectors = cloud(40, 5) + 1
    cosine = 1 - pairwise_distances(vectors, metric="cosine")
    assert measures.anisotropy(vectors) == pytest.approx(cosine[~np.eye(40, dtype=bool)].mean())
    assert measures.anisotropy(np.ones((10, 4)) * np.arange(1, 11)[:, None]) == pytest.approx(1)
    assert abs(measures.anisotropy(cloud(2000, 50))) < 0.01


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_dimension_of_a_flat_cube_in_many_directions_is_its_own(d: int) -> None:
    flat = np.random.default_rng(0).random((1200, d)) @ cloud(d, 30, 1)
    assert measures.intrinsic_dimension(flat) == pytest.approx(d, rel=0.15)
    twice = np.concatenate([flat, flat[:100]])
    assert measures.intrinsic_dimension(twice) == pytest.approx(
        measures.intrinsic_dimension(flat), rel=1e-6
    )


def test_neighbours_are_the_largest_cosines() -> None:
    vectors = cloud(60, 8)
    cosine = 1 - pairwise_distances(vectors, metric="cosine") - 9 * np.eye(60)
    np.testing.assert_array_equal(measures.nearest(vectors, 4), np.argsort(-cosine, axis=1)[:, :4])


def test_cka_of_a_rotated_copy_is_1_and_of_an_unrelated_cloud_0() -> None:
    vectors = cloud(200, 30)
    grams = np.stack(
        [measures.centred_gram(v) for v in (vectors, 7 * turned(vectors) + 2, cloud(200, 30, 5))]
    )
    found = measures.cka(grams, grams)
    assert found[0, 1] == pytest.approx(1)
    np.testing.assert_allclose(np.diag(found), 1)
    # a biased estimate would say 0.13 here: 30 directions of 200 words
    assert abs(found[0, 2]) < 0.05
    half = np.concatenate([vectors[:, :15], cloud(200, 15, 7)], axis=1)
    assert 0.3 < measures.cka(grams[:1], measures.centred_gram(half)[None])[0, 0] < 0.7


def test_separability_finds_planted_classes_and_none_where_there_are_none() -> None:
    labels = np.array(["a", "b"])[np.random.default_rng(1).integers(0, 2, 300)]
    sentences = np.arange(300) // 5
    apart = cloud(300, 4) + 6 * (labels == "a")[:, None]
    assert measures.separability(apart, labels, sentences).value > 0.98
    none = measures.separability(cloud(300, 4), labels, sentences)
    assert none.low < 0.55
    assert abs(none.value - 0.5) < 0.12
    # Words of a sentence that lie together tell nothing of the class: neighbours come from other
    # sentences.
    together = 50 * cloud(60, 4)[sentences] + cloud(300, 4)
    by_sentence = np.array(["a", "b"])[np.random.default_rng(2).integers(0, 2, 60)][sentences]
    assert measures.separability(together, by_sentence, sentences).value < 0.75


def test_a_word_and_its_sentence_do_not_vote_where_others_are_few() -> None:
    sentences = np.array([0] * 12 + [1] * 2)
    # so that every word of another sentence is of the other class
    labels = np.where(sentences == 0, "a", "b")
    assert measures.separability(cloud(14, 3), labels, sentences).value == 0


def test_what_cka_holds_is_what_is_planned() -> None:
    vectors = {f"blocks.{i}": cloud(200, 8, i) for i in range(4)}
    tracemalloc.start()
    _similar(vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.6 * cka_bytes(4, 200) < peak <= 1.1 * cka_bytes(4, 200)


def test_maps_lie_on_each_other_and_are_trusted_where_they_should_be() -> None:
    flat = cloud(150, 2) @ cloud(2, 10, 3)
    found = measures.components(flat)
    points = maps.draw("pca", found)
    assert maps.trustworthiness(flat, points) == pytest.approx(1)
    assert maps.trustworthiness(cloud(150, 40), cloud(150, 2, 8)) < 0.6
    spun = points @ np.array([[0.6, -0.8], [-0.8, -0.6]]) * 3 + 5
    np.testing.assert_allclose(
        maps.aligned(spun, maps.aligned(points, None)), maps.aligned(points, None), atol=1e-9
    )
    three = np.concatenate([cloud(40, 10, s) + 12 * np.eye(10)[s] for s in range(3)])
    drawn = maps.draw("tsne", measures.components(three), seed=1, perplexity=10.0)
    labels = np.repeat(["a", "b", "c"], 40)
    assert measures.separability(drawn, labels, np.arange(120)).value > 0.95
    np.testing.assert_array_equal(
        drawn, maps.draw("tsne", measures.components(three), seed=1, perplexity=10.0)
    )
    with pytest.raises(maps.MapError, match="expected pca, tsne, umap"):
        maps.require(["mds"])


def test_umap_where_it_is_installed() -> None:
    pytest.importorskip("umap")
    three = np.concatenate([cloud(40, 10, s) + 12 * np.eye(10)[s] for s in range(3)])
    drawn = maps.draw("umap", measures.components(three), seed=1)
    assert measures.separability(drawn, np.repeat(["a", "b", "c"], 40), np.arange(120)).value > 0.95


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_the_last_row_of_the_lens_is_the_model_and_the_first_the_embedding(name: str) -> None:
    one = subject(name)
    texts = one.encode(["w3 w4 w5 w6", "w7 w8 w9 w10 w11 w12", "w5 w9"])
    found = logit_lens(one, texts, batch_tokens=16)
    for number, text in enumerate(texts):
        logp = alone(one, text.text)[:-1]
        targets = torch.tensor(text.ids[1:])
        at = found.texts == number
        own = logp.gather(1, targets[:, None])
        np.testing.assert_allclose(found.log2p[-1, at], own[:, 0].numpy(), atol=1e-4)
        np.testing.assert_array_equal(found.rank[-1, at], (logp > own).sum(-1).numpy())
        np.testing.assert_array_equal(found.top[-1, at], logp.argmax(-1).numpy())
        with torch.no_grad(), capture(one.model, "blocks.0.hook_resid_pre") as acts:
            one.model(torch.tensor([text.ids]))
            body = one.body
            norm = body.norm if hasattr(body, "norm") else body.ln_f
            logits = one.model.lm_head(norm(acts["blocks.0.hook_resid_pre"]))[0, :-1]
            if name == "gemma2":
                cap = one.config.final_logit_softcapping
                logits = cap * torch.tanh(logits / cap)
        first = torch.log_softmax(logits.double(), -1).gather(1, targets[:, None])[:, 0] / np.log(2)
        np.testing.assert_allclose(found.log2p[0, at], first.numpy(), atol=1e-4)
    assert [record.layer for record in found.records()] == [-1, 0, 1]
    with pytest.raises(LensError, match="sees the next ones"):
        logit_lens(subject("bert"), texts)


def test_the_lens_tells_the_share_of_right_tokens_and_the_median_rank() -> None:
    rank = np.array([[0, 0, 3, 9, 4], [1, 0, 7, 8, 20]])
    log2p = -np.arange(10.0).reshape(2, 5)
    first, second = Lens(log2p, rank, rank, log2p, np.arange(5)).records()
    assert (first.top1, first.median_rank, first.log2p) == pytest.approx((0.4, 3, -2))
    assert (second.top1, second.median_rank, second.log2p) == pytest.approx((0.2, 7, -7))
    assert first.top1_interval.low < 0.4 < first.top1_interval.high


def test_norms_by_position_are_those_of_single_texts() -> None:
    one = subject("gpt2")
    sentences = [plain_sentence(t, t) for t in ("w3 w4 w5", "w6 w7", "w8 w9 w10 w11")]
    layout, site = Layout.of(one, sentences), "blocks.1.hook_resid_post"
    found = norms_by_position(one, layout, [site])[site]
    sizes = []
    for text in layout.encoded:
        with torch.no_grad(), capture(one.model, site) as acts:
            one.model(torch.tensor([text.ids]))
        sizes.append(acts[site][0].norm(dim=-1).numpy())
    assert found["norm_first"] == pytest.approx(np.mean([s[0] for s in sizes]), rel=1e-5)
    assert found["norms"][3] == pytest.approx(
        np.mean([s[3] for s in sizes if len(s) > 3]), rel=1e-5
    )
    assert found["norms"][5] is None


PATHS = demo_paths()


def command(out: Path, *more: str) -> list[str]:
    told = {
        "model": PATHS.model,
        "corpus": PATHS.dev,
        "limit": 40,
        "words": 90,
        "lens": 3,
        "out": out,
    }
    return [
        "geometry",
        *(word for name, value in told.items() for word in (f"--{name}", str(value))),
        *more,
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("geometry") / "run"
    more = [
        "--property",
        "upos",
        "--property",
        "depth",
        "--method",
        "pca",
        "--export",
        "npz",
        "--export",
        "projector",
    ]
    assert cli.main(command(out, *more, "--compare", str(PATHS.model))) == 0
    return json.loads((out / "results.json").read_text(encoding="utf-8")), out


def test_the_run_tells_every_layer(found: tuple[dict[str, Any], Path]) -> None:
    results, out = found
    records = results["records"]
    assert [r["layer"] for r in records] == [-1, 0, 1, 2, 3, 4]
    for record in records:
        upos = record["separability"]["upos"]
        in_space = upos["places"]["space"]
        ends = in_space["accuracy_interval"]
        assert ends["low"] <= in_space["accuracy"] <= ends["high"]
        assert in_space["accuracy"] > upos["majority"]
        assert sum(record["explained"]) <= 1 + 1e-9
        assert "depth:space" not in record  # a number has no classes
    between = np.array(results["cka_between"]["values"])
    # the same model beside itself
    np.testing.assert_allclose(between, results["cka"]["values"], atol=1e-4)
    np.testing.assert_allclose(np.diag(between), 1, atol=1e-3)
    lens = results["lens"]["records"]
    assert len(lens) == 6
    assert lens[-1]["log2p"] > lens[0]["log2p"]
    assert lens[-1]["top1"] > lens[0]["top1"]
    assert lens[-1]["median_rank"] < lens[0]["median_rank"]
    near = np.frombuffer(base64.b64decode(results["near"][3]), np.uint16).reshape(90, 5)
    assert near.max() < 90
    assert (near != np.arange(90)[:, None]).all()
    assert "data-map" in (out / "report.html").read_text(encoding="utf-8")
    assert not (out / "features").exists()


def test_exports_hold_the_words_and_open_without_pickle(found: tuple[dict[str, Any], Path]) -> None:
    results, out = found
    site = "blocks.2.hook_resid_post"
    with np.load(out / "words.npz", allow_pickle=False) as arrays:
        assert arrays[f"vectors/{site}"].shape == (90, 128)
        assert arrays[f"pca/{site}"].shape == (90, 2)
        forms = arrays["words/form"].tolist()
    shown = results["words"]
    assert forms == [shown["sentences"][s][i] for s, i in shown["at"]]
    table = (out / "projector" / f"{site}.tsv").read_text(encoding="utf-8").splitlines()
    labels = (out / "projector" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert (len(table), len(labels), len(table[0].split("\t"))) == (90, 91, 128)
    assert labels[0].split("\t")[:3] == ["form", "sentence", "word"]
    assert f'tensor_path: "{site}.tsv"' in (out / "projector" / "projector_config.pbtxt").read_text(
        encoding="utf-8"
    )


def test_parquet_has_a_row_for_each_word_and_site(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from experiments.studies.geometry import export

    vectors = {"a": cloud(5, 3).astype(np.float32), "b": cloud(5, 4, 1).astype(np.float32)[:, :3]}
    planes = {site: {"pca": value[:, :2].astype(float)} for site, value in vectors.items()}
    export.write(
        ["parquet"],
        tmp_path,
        {"form": list("vwxyz"), "depth": [1.0, None, 2.0, 3.0, 4.0]},
        vectors,
        planes,
    )
    rows = parquet.read_table(tmp_path / "words.parquet").to_pylist()
    assert len(rows) == 10
    assert (rows[6]["form"], rows[6]["site"], rows[6]["depth"]) == ("w", "b", None)
    np.testing.assert_allclose(rows[6]["vector"], vectors["b"][1])
    assert rows[6]["pca_y"] == pytest.approx(vectors["b"][1, 1])


def test_bad_input_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (["--method", "mds"], "--method mds: expected pca, tsne, umap"),
        (["--export", "csv"], "--export csv: expected npz, parquet, projector"),
        (["--property", "tree_depth"], "expected a property of words, it is one of a sentence"),
        (["--sample", "5"], "expected at least 30 words to draw, got 5"),
        (
            ["--site", "hook_resid_post[0]"],
            "expected a whole site, without an index: hook_resid_post",
        ),
    ):
        assert cli.main(command(tmp_path / "x", *more)) == 2
        assert message in capsys.readouterr().err


def test_another_model_to_compare_with_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other model's configuration alone decides CKA: a finished run is not returned for it."""
    other = tmp_path / "other"
    shutil.copytree(PATHS.model, other)
    given = command(
        tmp_path / "run", "--method", "pca", "--lens-texts", "0", "--compare", str(other)
    )
    assert cli.main(given) == 0
    before = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))[
        "cka_between"
    ]["values"]
    settings = json.loads((other / "config.json").read_text(encoding="utf-8"))
    settings["rms_norm_eps"] = 0.5
    (other / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert cli.main(given) == 2
    assert "data: " in capsys.readouterr().err
    assert cli.main([*given, "--out", str(tmp_path / "again")]) == 0
    after = json.loads((tmp_path / "again" / "results.json").read_text(encoding="utf-8"))[
        "cka_between"
    ]["values"]
    assert np.abs(np.subtract(before, after)).max() > 1e-3


def test_one_vector_for_all_words_is_one_line():
    from experiments.studies.geometry.measures import intrinsic_dimension
    from layerscope.errors import InputError

    with pytest.raises(
        InputError, match="expected at least 3 different vectors at every layer, got 1"
    ):
        intrinsic_dimension(np.zeros((5, 4)))
