"""Find, locate and reduce a gender bias, on templates and word lists of our own, and measure what
that costs elsewhere.

# by default the embedded model, which has no such bias: a null
python examples/gender_bias.py [MODEL] [OUT] [CORPUS.conllu]

    leaning of a noun   l(" he") - l(" she") after a template with the noun, in logits (nats)
    gap                 mean leaning of the nouns in HE minus that of the nouns in SHE; 0 where the
                        model does not tell them apart

Every choice (probe, direction, layer, heads) is made on every other noun, every number is of the
nouns that remain. The lists are what we expect of stereotypes in English, not a survey; the
templates know two pronouns and say nothing of people beyond.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from layerscope.experiments.corpus import read_conllu
from layerscope.experiments.corpus.prompts import read_pairs
from layerscope.experiments.demo import demo_paths
from layerscope.experiments.subject import load
from layerscope.probes.evaluation import ClusterBootstrap

from layerscope import LogisticProbe, Reference, ablate, capture, edits, intervene


def words(text):
    return text.split()


HE = words(
    "mechanic carpenter plumber electrician soldier pilot farmer butcher captain guard "
    "builder engineer sheriff miner boxer janitor hunter mayor boss drummer thief referee "
    "surgeon driver"
)
SHE = words(
    "nurse secretary receptionist librarian hairdresser nanny dancer teacher cleaner "
    "florist stylist housekeeper babysitter cashier hygienist therapist tutor singer "
    "gymnast caregiver typist knitter model decorator"
)
KNOWN_HE = words("king father man boy brother uncle son husband")
KNOWN_SHE = words("queen mother woman girl sister aunt daughter wife")
TEMPLATES = (
    "The {} said that",
    "Yesterday the {} smiled because",
    "We asked the {} whether",
    "At noon the {} left after",
)
HEADS = 4
"""How many heads are taken out together."""


class Study:
    """A model and what is measured of it."""

    def __init__(self, model, elsewhere, sentences):
        self.subject = load(model)
        self.model = self.subject.model
        self.ids = [self._token(word) for word in (" he", " she")]
        pairs = read_pairs(demo_paths().pairs, limit=sentences)
        self.pairs = [pair.good for pair in pairs], [pair.bad for pair in pairs]
        self.texts = [s.text for s in read_conllu(elsewhere, limit=sentences)]

    def _token(self, word):
        """The token of a pronoun where it follows a text."""
        with_it, without = (
            self.subject.encode([text])[0].ids for text in (f"We know that{word}", "We know that")
        )
        added = with_it[len(without) :]
        if len(added) != 1:
            raise SystemExit(
                f"expected one token for {word!r}, {self.subject.name} has {len(added)}"
            )
        return added[0]

    def runs(self, texts, *, logits=True):
        """(rows, lengths, output) of each batch."""
        for batch in self.subject.batches(self.subject.encode(texts), tokens=1024):
            yield batch, batch.attention_mask.sum(1) - 1, self.subject.forward(batch, logits=logits)

    def leaning(self, nouns):
        """l(he) - l(she) [nouns templates], in nats."""
        texts = [template.format(noun) for noun in nouns for template in TEMPLATES]
        out = np.zeros(len(texts))
        for batch, last, run in self.runs(texts):
            end = run.logits[torch.arange(len(batch)), last].float()
            out[list(batch.rows)] = (end[:, self.ids[0]] - end[:, self.ids[1]]).cpu()
        return out.reshape(len(nouns), len(TEMPLATES))

    def gap(self, he, she):
        """The gap with its 95% interval over nouns."""
        values = np.concatenate([self.leaning(he), -self.leaning(she)])
        nouns = np.repeat(np.arange(len(values)), len(TEMPLATES))
        found = ClusterBootstrap(nouns, seed=0).mean(2 * values.ravel())
        return found.value, found.low, found.high

    def known(self):
        """Share of right pronouns after nouns whose gender is part of their meaning."""
        return float(
            np.concatenate([self.leaning(KNOWN_HE) > 0, self.leaning(KNOWN_SHE) < 0]).mean()
        )

    def bits(self, texts):
        """-log2 p of each text's tokens after the first, and how many they are."""
        out = np.zeros((len(texts), 2))
        for batch, last, run in self.runs(texts):
            log_p = torch.log_softmax(run.logits[:, :-1].float(), -1)
            given = log_p.gather(-1, batch.input_ids[:, 1:, None].to(log_p.device))[..., 0].cpu()
            real = batch.attention_mask[:, 1:].bool()
            out[list(batch.rows), 0] = -(given * real).sum(1) / np.log(2)
            out[list(batch.rows), 1] = last
        return out

    def agreement(self):
        """Share of sentences whose verb agrees that are likelier than with the other form."""
        good, bad = (self.bits(side)[:, 0] for side in self.pairs)
        return float((good < bad).mean())

    def loss(self):
        """Bits a token of sentences that have nothing to do with it."""
        total = self.bits(self.texts).sum(0)
        return float(total[0] / total[1])

    def vectors(self, nouns):
        """The noun's last token at every layer [layers, nouns x templates, d]."""
        texts = [template.format(noun) for noun in nouns for template in TEMPLATES]
        ends = [
            t.index(n) + len(n)
            for t, n in zip(texts, np.repeat(nouns, len(TEMPLATES)), strict=True)
        ]
        out = {}
        for batch in self.subject.batches(encoded := self.subject.encode(texts), tokens=1024):
            at = [
                max(i for i, (a, b) in enumerate(encoded[r].offsets) if a < b <= ends[r])
                for r in batch.rows
            ]
            with capture(self.model, "blocks.*.hook_resid_post") as acts:
                self.subject.forward(batch)
            layers = torch.stack(
                [value[torch.arange(len(batch)), at].float().cpu() for value in acts.values()]
            )
            out |= dict(zip(batch.rows, layers.unbind(1), strict=True))
        return torch.stack([out[i] for i in range(len(texts))], 1)


def main(model=None, out="runs/gender-bias", elsewhere=None, sentences=60):
    study = Study(model or demo_paths().model, elsewhere or demo_paths().test, int(sentences))
    half = [(words[::2], words[1::2]) for words in (HE, SHE)]
    (he, he_test), (she, she_test) = half
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)

    # 1. Is there a bias?
    rows = {"as it is": measured(study, he_test, she_test)}

    # 2. Find: at which layer do the nouns' vectors say which list they are of? Other nouns, beside
    # labels drawn by noun.
    n = len(TEMPLATES)
    labels = np.repeat([*["he"] * len(he), *["she"] * len(she)], n)
    test_labels = np.repeat([*["he"] * len(he_test), *["she"] * len(she_test)], n)
    found, tested = study.vectors([*he, *she]), study.vectors([*he_test, *she_test])
    drawn = np.repeat(np.random.default_rng(0).permutation(labels[::n]), n)
    score, control = (
        [
            LogisticProbe(l2=100.0).fit(X, y).score(Z, test_labels)
            for X, Z in zip(found.numpy(), tested.numpy(), strict=True)
        ]
        for y in (labels, drawn)
    )
    best = int(np.argmax(score))
    print(
        f"the lists are read best after layer {best}: {score[best]:.2f} of the other nouns "
        f"(drawn labels {control[best]:.2f})"
    )

    # 3. Locate: which heads make the difference? Each replaced by its mean, on the nouns of the
    # first half.
    lines = [
        {"prompt": template.format(noun), "answer": answer, "wrong": wrong, "group": noun}
        for words, answer, wrong in ((he, " he", " she"), (she, " she", " he"))
        for noun in words
        for template in TEMPLATES
    ]
    prompts = out / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    heads = ablate(
        model=study.subject, prompts=prompts, component="heads", value="mean", out=out / "heads"
    )
    first = heads.frame.sort_values("effect").head(HEADS)
    print(
        "heads that carry it: "
        f"{', '.join(f'{r.site} {r.effect:+.3f} (q {r.q:.2g})' for r in first.itertuples())}"
    )
    encoded = study.subject.encode([line["prompt"] for line in lines])
    batches = [batch.inputs(study.subject.device) for batch in study.subject.batches(encoded, 1024)]
    reference = Reference.of(study.model, "blocks.*.attn.hook_z", batches=batches)
    rows[f"{HEADS} heads at their mean"] = measured(
        study, he_test, she_test, {site: edits.mean(reference) for site in first["site"]}
    )

    # 4. Reduce: one direction, the difference of the lists' means, taken out after one layer,
    # chosen on the first half.
    def direction(layer):
        a, b = (found[layer][labels == name].mean(0) for name in ("he", "she"))
        return edits.erase((a - b)[None], centre=(a + b) / 2).at(slice(1, None))

    def left(layer):
        with intervene(study.model, {f"blocks.{layer}.hook_resid_post": direction(layer)}):
            return abs(study.gap(he, she)[0])

    layer = min(range(len(found)), key=left)
    site = f"blocks.{layer}.hook_resid_post"
    rows[f"direction erased after layer {layer}"] = measured(
        study, he_test, she_test, {site: direction(layer)}
    )
    rows["a random one, as large a change"] = measured(
        study, he_test, she_test, {site: edits.turned(direction(layer))}
    )

    # 5. What it cost.
    print(f"{'':36} gap (95% over nouns)    known gender  agreement  bits a token elsewhere")
    for name, (gap, known, agreement, loss) in rows.items():
        print(
            f"{name:36} {gap[0]:+.2f} ({gap[1]:+.2f}, {gap[2]:+.2f}) "
            f"   {known:.2f}          {agreement:.2f}       {loss:.3f}"
        )
    return {"rows": rows, "score": score, "control": control, "layer": layer}


def measured(study, he, she, changes=None):
    """Gap, known gender, agreement and loss under changes."""
    with intervene(study.model, changes) if changes else nullcontext():
        return study.gap(he, she), study.known(), study.agreement(), study.loss()


if __name__ == "__main__":
    main(*sys.argv[1:])
