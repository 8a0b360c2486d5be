"""Word lists of the data sets.

Candidates whose answers are several tokens in a model are rejected for that model.
"""

from __future__ import annotations

# fmt: off
MEN = [
    "James",
    "John",
    "Robert",
    "Michael",
    "David",
    "William",
    "Richard",
    "Thomas",
    "Mark",
    "Paul",
    "Andrew",
    "Kevin",
    "Brian",
    "George",
    "Peter",
    "Frank",
    "Adam",
    "Simon",
    "Henry",
    "Jack",
]
WOMEN = [
    "Mary",
    "Linda",
    "Elizabeth",
    "Barbara",
    "Susan",
    "Jessica",
    "Sarah",
    "Karen",
    "Lisa",
    "Nancy",
    "Sandra",
    "Emily",
    "Anna",
    "Laura",
    "Alice",
    "Emma",
    "Kate",
    "Jane",
    "Rachel",
    "Rose",
]
PLACES = [
    "store",
    "school",
    "office",
    "garden",
    "station",
    "market",
    "library",
    "park",
    "hospital",
    "restaurant",
]
THINGS = [
    "book", "ring", "drink", "letter", "key", "ball", "cake", "pen", "present", "ticket",
]
# fmt: on
NOUNS = (
    ("teacher", "teachers"),
    ("doctor", "doctors"),
    ("student", "students"),
    ("guard", "guards"),
    ("farmer", "farmers"),
    ("pilot", "pilots"),
    ("author", "authors"),
    ("driver", "drivers"),
    ("child", "children"),
    ("woman", "women"),
    ("man", "men"),
    ("friend", "friends"),
)
ATTRACTORS = (
    ("house", "houses"),
    ("car", "cars"),
    ("tree", "trees"),
    ("table", "tables"),
    ("window", "windows"),
    ("road", "roads"),
    ("ship", "ships"),
    ("picture", "pictures"),
)
"""Nouns between a subject and its verb."""
VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", "Paris", ("London", "Rome", "Madrid")),
    ("What is the capital of Japan?", "Tokyo", ("Beijing", "Paris", "London")),
    ("What is the capital of Italy?", "Rome", ("Paris", "Berlin", "Madrid")),
    ("What is the capital of Germany?", "Berlin", ("Rome", "Paris", "London")),
    ("What is the capital of Russia?", "Moscow", ("Berlin", "Tokyo", "Rome")),
    ("What is the capital of Spain?", "Madrid", ("Rome", "Paris", "Berlin")),
    ("What is the capital of China?", "Beijing", ("Tokyo", "Moscow", "Rome")),
    ("On which continent is Egypt?", "Africa", ("Asia", "Europe", "America")),
    ("On which continent is India?", "Asia", ("Africa", "Europe", "Australia")),
    ("On which continent is France?", "Europe", ("Asia", "Africa", "Australia")),
    ("What colour is snow?", "white", ("black", "red", "green")),
    ("What colour is grass?", "green", ("white", "blue", "red")),
    ("What colour is blood?", "red", ("green", "blue", "white")),
    ("What colour is a clear sky?", "blue", ("red", "green", "black")),
    ("What colour is coal?", "black", ("white", "green", "blue")),
    ("How many legs does a dog have?", "four", ("two", "six", "eight")),
    ("How many legs does a spider have?", "eight", ("four", "two", "six")),
    ("How many days are in a week?", "seven", ("five", "six", "ten")),
    ("How many months are in a year?", "twelve", ("ten", "seven", "six")),
    ("Which animal barks?", "dog", ("cat", "horse", "fish")),
    ("Which animal swims all its life?", "fish", ("dog", "horse", "cat")),
    ("What do cows give?", "milk", ("wine", "oil", "gold")),
    ("What does ice become when it melts?", "water", ("milk", "oil", "gold")),
    ("Which metal is the dearest of these?", "gold", ("iron", "tin", "lead")),
    ("Which star warms the earth?", "sun", ("moon", "sea", "wind")),
    ("Which season is the coldest?", "winter", ("summer", "spring", "autumn")),
    ("Which season is the hottest?", "summer", ("winter", "spring", "autumn")),
    ("What is the opposite of hot?", "cold", ("warm", "big", "old")),
    ("What is the opposite of old?", "new", ("big", "long", "cold")),
    ("What is the opposite of up?", "down", ("left", "right", "over")),
)
"""(question, answer, wrong answers)."""
