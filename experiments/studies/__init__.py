"""The list of studies: a row a command, with its options, its help and its examples.

The name of a command is its folder's here, and everything else of it lies in that folder
(`experiments.runs.study.Study` says what a folder holds). The command line, the functions in Python
and the completion of shells are read from this list. Nothing of a folder is imported before it is
asked for: the help of all commands needs this module alone.
"""

from __future__ import annotations

from ..runs.study import Study

GPT2 = "--model openai-community/gpt2"
SMOL = "--model HuggingFaceTB/SmolLM2-135M"
INSTRUCT = "--model HuggingFaceTB/SmolLM2-135M-Instruct"
TRAIN, DEV = "--corpus en_ewt-ud-train.conllu", "--corpus en_ewt-ud-dev.conllu"

_ROWS: tuple[Study, ...] = (
    Study(
        "probe",
        "train linear probes on every layer, with controls and baselines",
        (
            f"probe {GPT2} {TRAIN} --dev en_ewt-ud-dev.conllu --test en_ewt-ud-test.conllu "
            "--property upos --property deprel --sample 3000 --out runs/gpt2",
            f"probe {GPT2} {TRAIN} --property feats:Number --site attn.hook_z --calibration",
            f"probe {GPT2} {TRAIN} --property depth --structural 32 --dry-run",
        ),
    ),
    Study(
        "ablate",
        "ablate every head, neuron, MLP, attention or layer in turn",
        (
            f"ablate {GPT2} --prompts ioi.jsonl --component heads --value mean --out runs/ioi",
            f"ablate {GPT2} --pairs agreement.jsonl --component layers",
            f"ablate {GPT2} --prompts ioi.jsonl --component neurons --estimate gradient",
        ),
    ),
    Study(
        "patch",
        "activation patching between a clean and a corrupted run",
        (
            f"patch {GPT2} --clean ioi.jsonl --by position --out runs/ioi-positions",
            f"patch {GPT2} --clean ioi.jsonl --by head --direction denoising --null-draws 20",
        ),
    ),
    Study(
        "attend",
        "attention patterns of every head, over a corpus and on chosen texts",
        (
            f"attend {GPT2} {DEV} --out runs/attention",
            f"attend {GPT2} --prompts ioi.jsonl --effects runs/ioi --flow",
        ),
    ),
    Study(
        "geometry",
        "maps and statistics of every layer's representation space; logit lens",
        (
            f"geometry {GPT2} {DEV} --property upos --out runs/geometry",
            (
                f"geometry {GPT2} {DEV} --property upos --property deprel --method pca --method "
                "umap --export parquet"
            ),
        ),
    ),
    Study(
        "attribute",
        "attribute an answer to the words of the text, with a faithfulness test for each method",
        (
            f"attribute {GPT2} --text 'The keys to the cabinet' --target ' are' --wrong ' is' "
            "--method kernel-shap --method ig --out runs/keys",
            (
                f"attribute {SMOL} --prompts texts.jsonl --method leave-one-out --method "
                "grad-input --generate 5"
            ),
        ),
    ),
    Study(
        "usage",
        "test whether a decodable property is used: erase it at each layer (amnesic probing)",
        (
            (
                f"usage {GPT2} {TRAIN} --property feats:Number --pairs "
                "agreement.jsonl --out runs/number"
            ),
            (
                f"usage {GPT2} {TRAIN} --property upos --prompts texts.jsonl --eraser inlp "
                "--null-draws 20"
            ),
        ),
    ),
    Study(
        "neurons",
        "rank the neurons that encode a property, and test what the model loses without them",
        (
            (
                f"neurons {GPT2} {TRAIN} --property feats:Number --layer 5 --pairs "
                "agreement.jsonl --out runs/number-neurons"
            ),
            f"neurons {GPT2} {TRAIN} --property upos --ranking mutual_information --k 10 --k 100",
        ),
    ),
    Study(
        "capture",
        "write activations to disk for later studies",
        (
            f"capture {GPT2} --site hook_resid_post {TRAIN} --out runs/gpt2-store",
            (
                f"capture {GPT2} --site blocks.5.mlp.hook_post --lines lines.txt --store-as "
                "bfloat16 --max-ram 4GB --max-disk 100GB"
            ),
        ),
    ),
    Study(
        "calibrate",
        "calibration of classifiers and of language models' token probabilities",
        (
            "calibrate --predictions test.jsonl --split 0.5 --out runs/classifier",
            (
                "calibrate --model ./my-classifier --labelled test.jsonl --group-by group --out "
                "runs/by-group"
            ),
            f"calibrate {SMOL} --questions facts.jsonl --out runs/facts",
        ),
    ),
    Study(
        "ask",
        "test what a model says about its answers: its reasons, or its confidence",
        (
            f"ask {INSTRUCT} --reasons --prompts ioi.jsonl --chat --out runs/why",
            (
                f"ask {INSTRUCT} --confidence p_true --confidence verbalised --questions "
                "facts.jsonl --out runs/sure"
            ),
        ),
    ),
    Study(
        "doctor",
        "verify that every site reads the right values on this model",
        (f"doctor {GPT2}", "doctor --model ./my-model --dtype bfloat16 --json"),
    ),
    Study(
        "prune",
        "remove the least important heads from the weights, step by step",
        (
            f"prune {SMOL} --prompts texts.jsonl --out runs/smaller",
            f"prune {SMOL} --prompts texts.jsonl --steps 2 --null-draws 5",
        ),
    ),
    Study(
        "swap",
        "test whether names, pronouns or other words change the answer: a paired swap test of bias",
        (
            "swap --model ./my-classifier --labelled test.jsonl --positive toxic --out runs/swap",
            f"swap {GPT2} --prompts ioi.jsonl --list names --swap actor:actress",
        ),
    ),
    Study(
        "lens",
        "what each layer would predict, how reliable that is, and which parts write the prediction",
        (
            (
                f"lens {GPT2} --text 'The Eiffel Tower is in the city of' --target ' Paris' "
                "--wrong ' Rome' --out runs/tower"
            ),
            (
                f"lens {GPT2} --corpus texts.txt --kind logit --kind least-squares --kind "
                "jacobian --out runs/lens"
            ),
        ),
    ),
)
STUDIES = {study.name: study for study in _ROWS}
"""Name -> study."""
