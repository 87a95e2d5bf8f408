"""The tutorial's preference set: the same facts as a JSON object (chosen) or as a prose sentence (rejected).

Every pair is one (topic, instruction) combination, drawn without repetition, so no prompt of the
evaluation split occurs in training. Twelve topics are in neither split: their prompts serve the
before/after answers.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from typing import Any

from dpo.data.pair import Pair, Source, Split, Text
from dpo.errors import UsageError
from dpo.ranges import Rows, Seed

PROMPT = "### Instruction:\n{instruction}\n\n### Response:\n"
KEYS = ["name", "category", "features"]

INSTRUCTIONS = (
    "Describe {name}.",
    "Tell me about {name}.",
    "What is {name}?",
    "Give me the key facts about {name}.",
    "Summarise {name} briefly.",
    "Write a short note on {name}.",
    "Explain what {name} is.",
    "Introduce {name} to a newcomer.",
    "I need a description of {name}.",
    "List what matters about {name}.",
    "How would you characterise {name}?",
    "Please give an overview of {name}.",
)

PROSE = (
    "{name} is {article} {category} known for {features}.",
    "{name} is {article} {category} with {features}.",
    "As {article} {category}, {name} is known for {features}.",
    "{name}, {article} {category}, is best known for {features}.",
)

# name; category; features
TRAINING_TOPICS = """\
Saturn; planet; bright rings, many moons, low density, strong winds
Jupiter; planet; great red spot, huge mass, fast rotation, strong magnetic field
Neptune; planet; deep blue colour, supersonic winds, faint rings, long orbit
Python; programming language; readable syntax, dynamic typing, large library, active community
Fortran; programming language; fast arrays, long history, scientific use, static typing
Haskell; programming language; lazy evaluation, strong types, pure functions, concise syntax
Violin; instrument; four strings, warm tone, wooden body, wide range
Trumpet; instrument; bright sound, three valves, brass body, loud tone
Harp; instrument; many strings, soft tone, tall frame, foot pedals
Oak; tree; hard wood, deep roots, broad crown, long life
Birch; tree; white bark, light wood, small leaves, fast growth
Willow; tree; hanging branches, narrow leaves, wet soil, soft wood
Otter; animal; thick fur, webbed feet, playful nature, strong tail
Falcon; bird; sharp eyes, fast dive, pointed wings, hooked beak
Heron; bird; long legs, slow flight, grey feathers, sharp beak
Salmon; fish; pink flesh, long migration, strong jump, silver scales
Lobster; animal; hard shell, two claws, long antennae, blue blood
Camel; animal; large hump, long eyelashes, wide feet, low thirst
Basalt; rock; dark colour, fine grain, volcanic origin, high density
Granite; rock; coarse grain, great hardness, pale colour, slow cooling
Marble; rock; smooth polish, pale colour, fine veins, soft surface
Copper; metal; high conductivity, reddish colour, easy shaping, green patina
Titanium; metal; low weight, great strength, rust resistance, high cost
Mercury; metal; liquid form, silver colour, high density, toxic vapour
Lisbon; city; steep hills, yellow trams, mild climate, old harbour
Kyoto; city; quiet temples, old gardens, wooden houses, autumn leaves
Cairo; city; busy markets, old mosques, wide river, dry climate
Oslo; city; clean harbour, modern opera, nearby forests, cold winters
Bread; food; crisp crust, soft crumb, simple ingredients, daily use
Cheese; food; rich flavour, many varieties, long storage, high protein
Honey; food; sweet taste, golden colour, long storage, natural origin
Pasta; food; simple ingredients, many shapes, quick cooking, low price
Mango; fruit; sweet taste, orange flesh, large stone, smooth skin
Lemon; fruit; sour taste, yellow skin, fresh smell, many seeds
Fig; fruit; soft flesh, tiny seeds, sweet taste, thin skin
Tennis; sport; fast rallies, small ball, individual play, strict scoring
Rowing; sport; long boats, strong legs, team rhythm, early mornings
Judo; sport; strong grip, quick throws, strict rules, mutual respect
Chess; game; deep strategy, two players, simple rules, long history
Backgammon; game; two dice, quick turns, simple rules, lucky rolls
Bicycle; vehicle; two wheels, low cost, quiet ride, easy repair
Tram; vehicle; steel rails, electric power, quiet ride, fixed route
Submarine; vehicle; deep diving, strong hull, silent motion, small crew
Telescope; device; large mirror, long range, clear image, heavy mount
Compass; device; magnetic needle, small size, simple use, no battery
Thermometer; device; clear scale, small size, quick reading, simple use
Printer; device; paper tray, coloured ink, quick output, loud motor
Hammer; tool; heavy head, wooden handle, simple use, strong impact
Chisel; tool; sharp edge, hard steel, fine control, wooden handle
Ladder; tool; light frame, safe steps, easy storage, tall reach
Cotton; fabric; soft touch, natural origin, easy washing, good breathing
Wool; fabric; warm touch, natural origin, slow drying, rough surface
Silk; fabric; smooth surface, fine threads, high price, natural shine
Tango; dance; close hold, sharp turns, slow steps, strong rhythm
Waltz; dance; smooth turns, three beats, close hold, formal dress
Volcano; landform; hot lava, steep slopes, wide crater, ash clouds
Glacier; landform; slow motion, deep cracks, blue ice, heavy weight
Desert; landform; dry air, little rain, hot days, cold nights
Aspirin; medicine; pain relief, low price, small tablets, long history
Vaccine; medicine; disease protection, small dose, long testing, wide use
"""

UNSEEN_TOPICS = """\
Uranus; planet; tilted axis, pale blue colour, faint rings, cold clouds
Prolog; programming language; logic rules, pattern matching, deep search, small syntax
Clarinet; instrument; single reed, black body, warm tone, wide range
Maple; tree; red leaves, sweet sap, hard wood, broad crown
Badger; animal; striped face, strong claws, deep burrow, thick fur
Pelican; bird; large pouch, wide wings, white feathers, long beak
Slate; rock; thin layers, dark colour, fine grain, smooth surface
Nickel; metal; silver colour, great hardness, rust resistance, magnetic pull
Dublin; city; old pubs, mild climate, wide river, lively music
Apricot; fruit; soft skin, orange flesh, sweet taste, large stone
Hockey; sport; curved sticks, fast play, hard ball, strong team
Canyon; landform; steep walls, deep river, red rock, wide views
"""


@dataclass(frozen=True)
class Topic:
    """A thing to describe: its facts are the same in both answers."""

    name: str
    category: str
    features: tuple[str, ...]


def topics(table: str) -> list[Topic]:
    """Rows of 'name; category; feature, feature, ...'."""
    rows = [line.split("; ") for line in table.splitlines()]
    return [Topic(name, category, tuple(features.split(", "))) for name, category, features in rows]


def prompt(topic: Topic, instruction: str) -> str:
    """The instruction about this topic in the tutorial's prompt format."""
    return PROMPT.format(instruction=instruction.format(name=topic.name))


def answers(topic: Topic, generator: random.Random) -> tuple[str, str]:
    """(JSON, prose) with the same name, category and three of the features in the same order."""
    features = generator.sample(topic.features, 3)
    as_json = json.dumps({"name": topic.name, "category": topic.category, "features": features})
    prose = generator.choice(PROSE).format(
        name=topic.name,
        article="an" if topic.category[0] in "aeiou" else "a",
        category=topic.category,
        features=f"{features[0]}, {features[1]} and {features[2]}",
    )
    return as_json, prose


@dataclass(frozen=True)
class JsonOverProse(Source):
    """Seeded generator of the tutorial's set (500 pairs, seed 42, 400 train and 100 evaluation by default)."""

    seed: Seed
    train_pairs: Rows
    eval_pairs: Rows

    def __post_init__(self) -> None:
        limit = len(topics(TRAINING_TOPICS)) * len(INSTRUCTIONS)
        total = self.train_pairs + self.eval_pairs
        if self.train_pairs < 1 or self.eval_pairs < 1 or total > limit:
            raise UsageError(
                f"dataset.train_pairs={self.train_pairs} and dataset.eval_pairs={self.eval_pairs}: "
                f"each must be at least 1 and their sum at most {limit}"
            )

    def load(self) -> Split:
        generator = random.Random(self.seed)
        drawn = list(itertools.product(topics(TRAINING_TOPICS), INSTRUCTIONS))
        generator.shuffle(drawn)
        pairs = []
        for number, (topic, instruction) in enumerate(drawn[: self.train_pairs + self.eval_pairs]):
            chosen, rejected = answers(topic, generator)
            pairs.append(
                Pair(f"json-{self.seed}-{number:04d}", prompt(topic, instruction), chosen, rejected, "json_over_prose")
            )
        unseen: list[Text] = [
            prompt(topic, instruction) for instruction in INSTRUCTIONS for topic in topics(UNSEEN_TOPICS)
        ]
        return Split(pairs[self.eval_pairs :], pairs[: self.eval_pairs], unseen)

    def check(self, answers: list[str], train: list[Pair]) -> dict[str, float]:
        """Shares of `answers`: json_rate (parse as a JSON object), schema_rate (exactly the training
        schema), novel_value_rate (a category or feature that no training answer holds)."""
        seen = {value for pair in train for value in values(parse(str(pair.chosen)))}
        parsed = [parse(answer) for answer in answers]
        n = max(len(answers), 1)
        return {
            "json_rate": sum(p is not None for p in parsed) / n,
            "schema_rate": sum(has_schema(p) for p in parsed) / n,
            "novel_value_rate": sum(any(v not in seen for v in values(p)) for p in parsed) / n,
        }


def parse(text: str) -> dict[str, Any] | None:
    """The JSON object that the whole text is, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def has_schema(parsed: dict[str, Any] | None) -> bool:
    """Exactly the training keys in their order: two strings and a list of strings."""
    return (
        parsed is not None
        and list(parsed) == KEYS
        and all(isinstance(parsed[key], str) for key in KEYS[:2])
        and isinstance(parsed["features"], list)
        and all(isinstance(feature, str) for feature in parsed["features"])
    )


def values(parsed: dict[str, Any] | None) -> list[str]:
    """Category and features of an answer in the training schema; empty for any other."""
    if parsed is None or not has_schema(parsed):
        return []
    return [parsed["category"], *parsed["features"]]
