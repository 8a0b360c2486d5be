"""PyTorch's own layers in a model of any kind: recurrences step by step, transformer layers,
padded batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import BertConfig, BertModel

from hooks import UnknownArchitecture, anatomy, capture, edits, intervene, observe, sites, verify
from layerscope.errors import UseError

IDS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([4, 6, 3])
PADDING = torch.arange(6)[None] >= LENGTHS[:, None]


class Recurrent(nn.Module):
    """Embedding, recurrence, head."""

    def __init__(self, kind: Any, packed: bool = False, **options: Any) -> None:
        super().__init__()
        self.packed, self.first = packed, options.get("batch_first", False)
        self.embed = nn.Embedding(20, 8)
        self.rnn = kind(8, 6, 2, **options)
        width = options.get("proj_size") or 6
        self.head = nn.Linear(width * (1 + options.get("bidirectional", False)), 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.packed:
            given = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
            out = pad_packed_sequence(self.rnn(given)[0], batch_first=True)[0]
        else:
            x = x if self.first else x.transpose(0, 1)
            out = self.rnn(x)[0]
            out = out if self.first else out.transpose(0, 1)
        return self.head(out)


def made(kind: Any, **options: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(kind, **options).eval().double()


KINDS = [
    (nn.LSTM, {}),
    (nn.LSTM, {"batch_first": True, "bidirectional": True}),
    (nn.LSTM, {"batch_first": True, "packed": True, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 4, "bias": False}),
    (nn.GRU, {"batch_first": True}),
    (nn.GRU, {"packed": True, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_unit_out_of_the_recurrence_is_a_layer_without_its_columns(
    kind: Any, options: dict[str, Any]
) -> None:
    model = made(kind, **options)
    twin = copy.deepcopy(model)
    twin.rnn.weight_hh_l0.data[:, 2] = 0
    twin.rnn.weight_ih_l1.data[:, 2] = 0
    if options.get("bidirectional"):
        twin.rnn.weight_ih_l1_reverse.data[:, 2] = 0
    with torch.no_grad():
        plain, expected = model(IDS), twin(IDS)
        with intervene(model, {"blocks.0.rnn.hook_state[2]": edits.zero()}):
            found = model(IDS)
        with capture(model, "blocks.*") as acts:
            assert torch.equal(model(IDS), plain)
    assert (expected - plain).abs().max() > 1e-4
    torch.testing.assert_close(found, expected)
    states = [acts[f"blocks.1.{own}.hook_state"] for own in _directions(options)]
    torch.testing.assert_close(model.head(torch.cat(states, -1))[~PADDING], plain[~PADDING])


def _directions(options: dict[str, Any]) -> list[str]:
    return ["rnn", "rnn_reverse"] if options.get("bidirectional") else ["rnn"]


@pytest.mark.parametrize(
    ("kind", "part", "gate"), [(nn.LSTM, "input_gate", 0), (nn.LSTM, "forget_gate", 1),
                               (nn.LSTM, "output_gate", 3), (nn.GRU, "reset_gate", 0), (nn.GRU, "update_gate", 1)],
)  # fmt: skip
def test_a_gate_that_is_shut_is_one_whose_bias_shuts_it(kind: Any, part: str, gate: int) -> None:
    model = made(kind)
    twin = copy.deepcopy(model)
    twin.rnn.bias_ih_l0.data[gate * 6 + 1] = -1e4
    with intervene(model, {f"blocks.0.rnn.hook_{part}[1]": edits.zero()}):
        found = model(IDS)
    torch.testing.assert_close(found, twin(IDS))
    assert not torch.equal(found, model(IDS))


def test_a_cell_is_the_one_that_a_cell_module_has() -> None:
    model = made(nn.LSTM, batch_first=True)
    cell = nn.LSTMCell(8, 6).double()
    cell.load_state_dict(
        {name.removesuffix("_l0"): w for name, w in model.rnn.state_dict().items() if "_l0" in name}
    )
    with capture(model, "blocks.0.rnn.hook_cell") as acts:
        model(IDS)
    states = None
    for at, x in enumerate(model.embed(IDS).unbind(1)):
        states = cell(x, states)
        torch.testing.assert_close(acts["blocks.0.rnn.hook_cell"][:, at], states[1].detach())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_states_gradient_is_that_of_moving_it(frozen: bool) -> None:
    model = made(nn.GRU, batch_first=True).requires_grad_(not frozen)
    site, step = "blocks.0.rnn.hook_state", 1e-6
    with capture(model, site, grad=True) as acts:
        model(IDS)[:, -1, 3].sum().backward()
    found = acts.grad[site]
    moved = torch.zeros(6, dtype=torch.float64)
    moved[4] = step
    with torch.no_grad():
        before = model(IDS)[:, -1, 3].sum()
        for position in (0, 3):
            with intervene(model, {site: edits.add(moved).at(position)}):
                after = model(IDS)[:, -1, 3].sum()
            expected = (after - before) / step
            torch.testing.assert_close(found[:, position, 4].sum(), expected, rtol=1e-4, atol=1e-7)


def test_places_count_the_steps_of_each_text() -> None:
    model = made(nn.GRU, batch_first=True, packed=True)
    site = "blocks.1.rnn.hook_state"
    with torch.no_grad():
        plain = model(IDS)
        with capture(model, site) as clean:
            model(IDS)
        with intervene(model, {site: edits.zero().at(-1)}), capture(model, site) as acts:
            found = model(IDS)
        rows = torch.arange(3)
        assert not acts[site][rows, LENGTHS - 1].any()
        at = torch.zeros_like(PADDING)
        at[rows, LENGTHS - 1] = True
        torch.testing.assert_close(found[~at & ~PADDING], plain[~at & ~PADDING])
        with intervene(model, {site: edits.zero()}), intervene(model, {site: edits.patch(clean)}):
            torch.testing.assert_close(model(IDS)[~PADDING], plain[~PADDING])
        shown: list[Tensor] = []
        with intervene(model, {site: edits.scale(2.0).at(0)}):
            with observe(model, site, see=lambda site, value: shown.append(value.clone())):
                model(IDS)
    torch.testing.assert_close(shown[0][:, 0], 2 * clean[site][:, 0])


def test_what_a_kernel_draws_by_chance_is_refused() -> None:
    model = made(nn.LSTM, dropout=0.5).train()
    with pytest.raises(UseError, match=r"expected no dropout between its layers, got 0\.5"):
        with capture(model, "blocks.0.rnn.hook_state"):
            model(IDS)


class Attending(nn.Module):
    """Embedding, PyTorch's encoder, head."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first = options.get("batch_first", False)
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **options)
        norm = nn.LayerNorm(8) if options.get("norm_first") else None
        nested = self.first and not options.get("norm_first")
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=nested)
        self.head = nn.Linear(8, 20)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        x = x if self.first else x.transpose(0, 1)
        out = self.encoder(x, src_key_padding_mask=padding)
        return self.head(out if self.first else out.transpose(0, 1))


#: What PyTorch says where a model without hooks makes a nested tensor.
NESTED = "ignore:The PyTorch API of nested tensors"
OPTIONS: list[dict[str, Any]] = [
    {"batch_first": True},
    {},
    {"batch_first": True, "norm_first": True, "activation": "gelu"},
]


def attending(**options: Any) -> Attending:
    torch.manual_seed(0)
    model = Attending(**options).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, 0, 0.4)
    return model


def _same_as(cut: Callable[[nn.Module], None], edit: dict[Any, Any], model: Attending) -> None:
    twin = copy.deepcopy(model)
    cut(twin)
    with torch.no_grad():
        for padding in (None, PADDING):
            expected = twin(IDS, padding)
            with intervene(model, edit):
                found = model(IDS, padding)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
            assert (found - model(IDS, padding)).abs().max() > 1e-3


@pytest.mark.filterwarnings(NESTED)
@pytest.mark.parametrize("options", OPTIONS)
def test_parts_of_pytorchs_encoder_are_rows_and_columns_of_its_weights(
    options: dict[str, Any],
) -> None:
    model = attending(**options)

    def head(twin: Any) -> None:
        twin.encoder.layers[0].self_attn.out_proj.weight.data[:, 4:] = 0

    def query(twin: Any) -> None:
        attention = twin.encoder.layers[1].self_attn
        attention.in_proj_weight.data[:4] = 0
        attention.in_proj_bias.data[:4] = 0

    def neuron(twin: Any) -> None:
        twin.encoder.layers[1].linear2.weight.data[:, 5] = 0

    _same_as(head, {"blocks.0.attn.hook_z[1]": edits.zero()}, model)
    _same_as(query, {"blocks.1.attn.hook_q[0]": edits.zero()}, model)
    _same_as(neuron, {"blocks.1.mlp.hook_post[5]": edits.zero()}, model)


@pytest.mark.filterwarnings(NESTED)
@pytest.mark.parametrize("options", OPTIONS)
def test_pytorchs_encoder_is_read_on_padded_batches(options: dict[str, Any]) -> None:
    model = attending(**options)
    with torch.no_grad():
        plain = model(IDS, PADDING)
        with capture(model, "blocks.*", clone=True) as acts:
            seen = model(IDS, PADDING)
        # a fused kernel gives way to its parts: equal to rounding, and at padding what it was
        torch.testing.assert_close(seen, plain, atol=1e-5, rtol=1e-4)
        for row, length in enumerate(LENGTHS.tolist()):
            with capture(model, "blocks.*", clone=True) as alone:
                model(IDS[row : row + 1, :length])
            for site in ("hook_resid_post", "attn.hook_z", "mlp.hook_post", "hook_attn_out"):
                name = f"blocks.1.{site}"
                value = acts[name][row : row + 1, :length]
                torch.testing.assert_close(value, alone[name], atol=1e-5, rtol=1e-4)
        middle = acts["blocks.0.hook_resid_pre"] + acts["blocks.0.hook_attn_out"]
        torch.testing.assert_close(acts["blocks.0.hook_resid_mid"], middle)
        attention: Any = model.encoder.layers[0].self_attn
        x = acts["blocks.0.hook_resid_pre"]
        x = model.encoder.layers[0].norm1(x) if options.get("norm_first") else x
        x = x if options.get("batch_first") else x.transpose(0, 1)
        weights = attention(x, x, x, key_padding_mask=PADDING, average_attn_weights=False)[1]
        torch.testing.assert_close(acts["blocks.0.attn.hook_pattern"], weights)
    assert anatomy(model).n_heads == 2


def test_a_head_and_a_state_of_one_model_have_names_of_their_own() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(8, 8, batch_first=True)
            layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
            self.decoder = nn.TransformerDecoder(layer, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(x, self.rnn(x)[0])

    model = Both().eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    cross = "decoder_blocks.0.cross_attn.hook_pattern"
    with torch.no_grad(), capture(model, cross, "blocks.0.rnn.hook_state") as acts:
        model(x)
    assert acts[cross].shape == (2, 2, 5, 5)
    twin = copy.deepcopy(model)
    decoder: Any = twin.decoder.layers[0]
    decoder.multihead_attn.out_proj.weight.data[:, :4] = 0
    with intervene(model, {"decoder_blocks.0.cross_attn.hook_z[0]": edits.zero()}):
        torch.testing.assert_close(model(x), twin(x))
    with pytest.raises(UnknownArchitecture, match="none of PyTorch's transformer or recurrent"):
        sites(nn.Linear(2, 2))


def test_a_fused_encoder_under_autocast_is_no_fault():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    torch.manual_seed(0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    verdict = verify(model, {"src": torch.randn(3, 5, 8)}, only=["same outputs", "autocast"])
    assert verdict.status == "OK", verdict.wrong
    assert {f.check for f in verdict if f.status == "OK"} == {"same outputs", "autocast"}


class Tagger(nn.Module):
    """A transformers model, a recurrence over its states, and a head."""

    def __init__(self) -> None:
        super().__init__()
        size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        self.bert = BertModel(BertConfig(vocab_size=20, intermediate_size=24, **size))
        self.lstm = nn.LSTM(16, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.bert(ids).last_hidden_state)[0])


class Within(nn.Module):
    """The same, further inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Tagger()

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids)


@pytest.mark.parametrize("kind", [Tagger, Within])
def test_a_transformers_model_and_a_recurrence_beside_it_are_both_there(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    tagger = model if kind is Tagger else model.inner
    states = tagger.bert(IDS, output_hidden_states=True).hidden_states
    names = "blocks.1.hook_resid_post", "lstm_blocks.0.rnn.hook_state"
    with capture(model, *names) as acts:
        clean = model(IDS)
    assert torch.equal(acts[names[0]], states[-1])
    torch.testing.assert_close(acts[names[1]], tagger.lstm(states[-1])[0])
    assert anatomy(model).stacks == {"blocks": 2, "lstm_blocks": 1}
    with intervene(model, {names[1]: edits.zero()}):
        silent = model(IDS)
    torch.testing.assert_close(silent, tagger.head.bias.expand_as(silent))
    assert not torch.allclose(clean, silent)
