"""The text that the embedded base models read before any preference data: made-up things and their facts.

Every document is about an invented name, so what a model can learn from it is form and copying, not
facts; no topic of a data set occurs on purpose.
"""

from __future__ import annotations

import json
import random

OPENINGS = "b br c ch d dr f g gr h j k kl l m n p pr qu r s sh sl st t th tr v w z".split()
VOWELS = "a e i o u a e i o u ai ea io ou".split()
ENDINGS = "b ck d g l ll m n nd nt p r rt s st t th x l n r s t n r l".split()
SUFFIXES = "us ol et le er ity a o in on el ut ey ot ine ock y ade ium age".split()

CATEGORIES = (
    "planet, programming language, instrument, tree, animal, bird, fish, rock, metal, city, food, fruit, sport, game, "
    "vehicle, device, tool, fabric, dance, landform, medicine, river, island, school, festival, spice, drink, "
    "machine, colour, song, castle, insect, engine, lamp, village, ship, flower, organ, unit, method"
).split(", ")
ADJECTIVES = (
    "bright many low strong huge fast great deep faint long readable dynamic large active scientific static lazy pure "
    "concise warm wooden wide loud soft tall hard broad white light small narrow hanging wet thick playful sharp "
    "hooked slow grey pink silver blue red black pale fine coarse smooth high easy green rich quick sweet golden "
    "natural sour fresh tiny thin individual strict early mutual simple lucky quiet electric fixed silent heavy clear "
    "magnetic hot cold dry little steep mild old modern nearby clean busy formal close rough safe single striped "
    "curved tilted new"
).split()
NOUNS = (
    "rings moons density winds spot mass rotation field colour orbit syntax typing library community arrays history "
    "use evaluation types functions strings tone body range sound valves frame pedals wood roots crown life bark "
    "leaves growth branches soil fur feet nature tail eyes dive wings beak legs flight feathers flesh migration jump "
    "scales shell claws antennae blood hump thirst grain origin hardness cooling polish veins surface shaping patina "
    "strength resistance cost form vapour hills trams climate harbour temples gardens houses markets river opera "
    "forests winters crust crumb taste storage protein shapes cooking price stone skin smell seeds rallies ball play "
    "scoring boats rhythm grip throws rules respect strategy players dice rolls wheels ride repair rails power route "
    "hull motion crew mirror image mount needle battery scale reading tray ink output motor head handle impact edge "
    "steel control steps reach touch washing breathing threads hold turns beats dress lava slopes crater clouds "
    "cracks ice air rain days nights relief tablets protection dose testing shine burrow pouch face reed walls views "
    "axis pull sap logic layers"
).split()


def name(generator: random.Random) -> str:
    """An invented name of one to three syllables, sometimes of two words."""

    def word() -> str:
        syllables = [generator.choice(OPENINGS) + generator.choice(VOWELS) for _ in range(generator.choice((1, 1, 2)))]
        close = generator.choice(ENDINGS) + (generator.choice(SUFFIXES) if generator.random() < 0.6 else "")
        return ("".join(syllables) + close).capitalize()

    return word() if generator.random() < 0.9 else f"{word()} {word()}"


def document(generator: random.Random) -> str:
    """A note on an invented thing in one of several forms, or a list said twice; each copies a name."""
    if generator.random() < 0.4:
        names = ", ".join(name(generator) for _ in range(generator.choice((1, 2, 3))))
        return f"{generator.choice(('About', 'Describe', 'Names:'))} {names}.\n{names}\n{names}"
    thing, category = name(generator), generator.choice(CATEGORIES)
    features = [f"{generator.choice(ADJECTIVES)} {generator.choice(NOUNS)}" for _ in range(3)]
    article = "an" if category[0] in "aeiou" else "a"
    listed = f"{features[0]}, {features[1]} and {features[2]}"
    record = json.dumps({"name": thing, "category": category, "features": features})
    sentence = generator.choice(
        (
            f"{thing} is {article} {category} known for {listed}.",
            f"{thing} is {article} {category} with {listed}.",
            f"As {article} {category}, {thing} is known for {listed}.",
            f"{thing}, {article} {category}, is best known for {listed}.",
        )
    )
    return generator.choice(
        (
            f"Record of {thing}.\n{record}",
            f"About {thing}.\n{sentence}",
            f"{thing}\n{record}\n{sentence}",
            f"{sentence}\n{record}",
            f"Notes on {thing}: {features[0]}, {features[1]}.\n{record}",
            f"{thing}: {category}. {thing}, {thing}.\n{sentence}",
        )
    )


def documents(count: int, seed: int) -> list[str]:
    """`count` documents, a function of the seed alone."""
    generator = random.Random(seed)
    return [document(generator) for _ in range(count)]
