"""Colour at the embedding, shape later: a small vision model trained on drawn shapes, probed layer
by layer.

The colour of a shape is linear in the pixels, and so in the mean over embedded patches. What shape
it is, is not: circles, squares and triangles of every size and place have the same mean patch. A
model that was trained to tell them apart makes the shape readable in its later layers; one with
random weights does not.

    python examples/shapes.py    # train (half a minute on one core), draw, probe, print

Two controls stand beside the two curves: a coin that no picture shows must stay at chance at every
layer, and a model of the same shape with random weights must hold the colour and not the shape.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from layerscope import probe

SIDE, PATCH = 32, 8
FINE = 4
"""Pictures are drawn so many times larger, so that edges are smooth."""
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230)}
CORNERS = {"triangle": 3, "square": 4, "circle": 40}
UPRIGHT = {"triangle": -math.pi / 2, "square": math.pi / 4, "circle": 0.0}
"""Angle of each shape's first corner."""
TILT = 0.2
"""Largest turn from upright, in radians."""
RATE = 4e-3
"""Highest learning rate."""
AREAS = (120, 240)
"""Smallest and largest, in pixels."""


def drawn(shape: str, colour: str, rng: np.random.Generator) -> Image.Image:
    """One shape of a random area, place and tilt on grey noise;
    the three shapes have the same areas.
    """
    area = rng.uniform(*AREAS) * FINE**2
    corners = CORNERS[shape]
    # A regular polygon's area is n/2 r^2 sin(2 pi / n).
    radius = math.sqrt(2 * area / (corners * math.sin(2 * math.pi / corners)))
    x, y = rng.uniform(radius, SIDE * FINE - radius, size=2)
    first = UPRIGHT[shape] + rng.uniform(-TILT, TILT)
    points = []
    for corner in range(corners):
        angle = first + 2 * math.pi * corner / corners
        points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), (128, 128, 128))
    ImageDraw.Draw(image).polygon(points, fill=COLOURS[colour])
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=float)
    noisy = small + rng.normal(0, 6, small.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_table(folder: Path, count: int, seed: int = 1) -> Path:
    """So many pictures, and the table that names their shape, their colour,
    and a coin that nothing shows.
    """
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


def train(folder: Path, pictures: int = 6_000, epochs: int = 12, seed: int = 0) -> float:
    """Train a ViT of 4 blocks on shapes alone, save it without its head,
    and return its accuracy on new pictures.
    """
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
    optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
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


def curves(frame: Any) -> dict[str, list[float]]:
    """Scores from the embedding to the last block: of each property,
    and of each in the random-weight model.
    """
    by_name = {}
    for name, rows in frame.groupby("property"):
        ordered = rows.sort_values("layer")
        by_name[str(name)] = ordered.score.tolist()
        by_name[f"{name}, random weights"] = ordered.random_model.tolist()
    return by_name


def main(
    out: Path = Path("runs/shapes"), count: int = 900, pictures: int = 6_000, epochs: int = 12
) -> dict[str, Any]:
    """Train a model, and probe it next to a random twin."""
    accuracy = train(out / "model", pictures, epochs)
    print(f"trained on shapes: accuracy {accuracy:.3f} on new pictures")
    results = probe(
        model=out / "model",
        images=draw_table(out / "pictures", count),
        dtype="float32",
        l2=[0.01, 1, 100],
        control_seeds=1,
        random_models=1,
        out=out / "probe",
    )
    found = curves(results.frame)
    for name, scores in found.items():
        print(f"{name:24}" + "".join(f"{score:7.2f}" for score in scores))
    return {"accuracy": accuracy, "curves": found, "results": results}


if __name__ == "__main__":
    main()
