"""Colour at the embedding, shape later: a small vision model trained on drawn shapes, probed layer by layer.

The colour of a shape is linear in the pixels, and so in the mean over embedded patches. What shape it is, is not: circles, squares
and triangles of every size, place and turn have the same mean patch. A model that was trained to tell them apart makes the
shape readable in its later layers; one with random weights does not.

    python examples/shapes.py                  # draw, probe, print
    python examples/shapes.py --train FOLDER   # make the weights again: a minute on one core
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from layerscope import probe

WEIGHTS = Path(__file__).parent / "shapes_vit"
SIDE, PATCH = 32, 8
FINE = 4
"""Pictures are drawn so many times larger, so that edges are smooth."""
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230)}
CORNERS = {"triangle": 3, "square": 4, "circle": 40}


def drawn(shape: str, colour: str, rng: np.random.Generator) -> Image.Image:
    """One shape of a random area, place and turn on grey noise; the three shapes have the same areas."""
    area = rng.uniform(90, 200) * FINE**2
    corners = CORNERS[shape]
    # A regular polygon's area is n/2 r^2 sin(2 pi / n).
    radius = math.sqrt(2 * area / (corners * math.sin(2 * math.pi / corners)))
    reach = math.sqrt(2 * 200 * FINE**2 / (3 * math.sin(2 * math.pi / 3)))
    x, y = rng.uniform(reach, SIDE * FINE - reach, size=2)
    turn = rng.uniform(0, 2 * math.pi)
    points = []
    for corner in range(corners):
        angle = turn + 2 * math.pi * corner / corners
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), (128, 128, 128))
    ImageDraw.Draw(image).polygon(points, fill=COLOURS[colour])
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=float)
    noisy = small + rng.normal(0, 6, small.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_table(folder: Path, count: int, seed: int = 1) -> Path:
    """So many pictures, and the table that names their shape, their colour, and a coin that nothing shows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        shape, colour = rng.choice(list(CORNERS)), rng.choice(list(COLOURS))
        drawn(shape, colour, rng).save(folder / f"{number:04d}.png")
        split = ("train", "train", "train", "dev", "test")[number % 5]
        coin = rng.choice(["heads", "tails"])
        rows.append((f"{number:04d}.png", colour, shape, coin, split))
    table = folder / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "colour", "shape", "coin", "split"))
        writer.writerows(rows)
    return table


def train(folder: Path, pictures: int = 8_000, epochs: int = 10, seed: int = 0) -> float:
    """Train a ViT of 4 blocks on shapes alone, save it without its head, and return its accuracy on new pictures."""
    import torch
    import transformers as hf
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names, colours = list(CORNERS), list(COLOURS)
    shapes = rng.integers(0, len(names), pictures)
    images = []
    for shape in shapes:
        image = drawn(names[shape], str(rng.choice(colours)), rng)
        images.append(np.asarray(image, dtype=np.float32) / 127.5 - 1)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    y = torch.from_numpy(shapes)
    config = hf.ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        hidden_act="gelu",
    )
    model: Any = hf.ViTModel(config, add_pooling_layer=False)
    head = torch.nn.Linear(48, len(names))
    held = pictures // 10
    steps = epochs * ((pictures - held) // 64)
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(epochs):
        order = held + torch.randperm(pictures - held)
        for batch in order.split(64)[: steps // epochs]:
            # The probe reads the mean over patches, and so does the head.
            states = model(pixel_values=x[batch]).last_hidden_state[:, 1:].mean(1)
            loss = torch.nn.functional.cross_entropy(head(states), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        states = model(pixel_values=x[:held]).last_hidden_state[:, 1:].mean(1)
        accuracy = float((head(states).argmax(-1) == y[:held]).float().mean())
    model.half().save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_resize=False).save_pretrained(
        folder
    )
    return accuracy


def main(out: Path = Path("runs/shapes"), count: int = 900) -> Any:
    """Probe the trained model and a random twin."""
    table = draw_table(out / "pictures", count)
    results = probe(
        model=WEIGHTS,
        images=table,
        dtype="float32",
        control_seeds=2,
        random_models=1,
        out=out / "probe",
    )
    columns = ["property", "site", "score", "majority", "control", "selectivity"]
    print(results.frame[columns].round(2).to_string(index=False))
    return results


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(f"accuracy on new pictures: {train(Path(sys.argv[2])):.3f}")
    else:
        main()
