"""Colours of all pictures and pages, light and dark."""

from __future__ import annotations

# Blue, teal, orange and purple, the usual colour-blind safe set; names and dashes tell the curves
# apart without colour. Each is at least 4.5:1 on its background, because the names at the lines'
# ends wear them.
PALETTE: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171c"),
    "ink": ("#1c2129", "#e7e9ec"),
    "quiet": ("#5b6470", "#a3abb6"),
    "hair": ("#e4e7eb", "#2b313a"),
    "rule": ("#c3c9d1", "#4a525e"),
    "wash": ("#f5f6f8", "#1c2027"),
    "choice": ("#edf3fa", "#1a2635"),
    "score": ("#1f5fa6", "#7fb3ee"),
    "f1": ("#0f7a70", "#58c2b4"),
    "control": ("#b4500f", "#ee9a5c"),
    "random": ("#7b4f9d", "#c5a3e4"),
    "plain": ("#5b6470", "#a3abb6"),
    "good": ("#ebf6f3", "#17332f"),
    "warn": ("#fdf3ea", "#3a2616"),
    "mark": ("#fde9a8", "#5b4708"),
}
