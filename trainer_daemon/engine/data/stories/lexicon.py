"""The words a story may draw, in three sizes: a model of a million parameters keeps 16 names long before it keeps 80.

Each list has three rows: what level 1 has, what level 2 adds, what level 3 adds. An entry maps a form to its spelling: ""
is the word itself, "a" the word with its article, "s" its plural; people have "he him his himself child", places "in";
every form is also there with a capital. Names are never words that a plot writes by hand, so a name found in a story is
a name. Every place is outdoors and has spots to hide a small thing.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from trainer_daemon.engine.data.stories.grammar import CAPITAL

Entry: TypeAlias = Mapping[str, str]
Pool: TypeAlias = tuple[Entry, ...]

LEVELS = (1, 2, 3)

GIRLS = (
    "Mia, Lily, Anna, Rosa, Zoe, Nina",
    "Ella, Lucy, Emma, Clara, Sophie, Maya, Nora, Ada, Jane, Tess",
    (
        "Alice, Amira, Bella, Carmen, Diana, Elsa, Fatima, Freya, Gina, Hana, Ingrid, Julia, Kate, Laura, Leila, Mary, Molly, Olga, Paula, Petra,"
        " Priya, Rita, Sally, Sonia, Tara, Vera"
    ),
)
BOYS = (
    "Tom, Ben, Max, Leo, Sam, Finn",
    "Noah, Jack, Theo, Hugo, Oscar, Adam, Emil, Omar, Paul, Luke",
    (
        "Ali, Anton, Carlo, Daniel, David, Diego, Eric, Felix, George, Henry, Ivan, Jacob, Joe, Karl, Kenji, Liam, Louie, Martin, Mateo, Milo,"
        " Peter, Rafi, Simon, Tim, Victor, Yusuf"
    ),
)
PETS_SHE = ("Coco", "Luna, Kiki", "Tilly, Mimi, Fifi")
PETS_HE = ("Pip", "Rex, Bobo", "Toto, Benji, Rufus")
KINDS_OF_PET = ("puppy, kitten", "hamster", "lamb")
ANIMALS = (
    "rabbit, fox, bear, cat, frog, duck, owl, pig",
    "squirrel, goat, hedgehog",
    "otter, pony, turtle, badger, donkey, crow",
)
WOMEN = ("Mom, Grandma", "Aunt Helen", "Aunt Ruth, Aunt Wendy")
MEN = ("Dad, Grandpa", "Uncle Bob", "Uncle Frank, Uncle Ned")
NEIGHBOURS_SHE = ("Mrs. Lane", "Mrs. Potts", "Mrs. Novak, Mrs. Silva")
NEIGHBOURS_HE = ("Mr. Stone", "Mr. Pepper", "Mr. Kim, Mr. Hart")

TOYS = ("truck, drum, doll, train", "robot, rocket", "puppet, whistle, tractor, airplane")
THINGS = (
    "ball, hat, book, bell, cup, scarf",
    "umbrella, ribbon, lamp, key, coin",
    "basket, button, marble, mask, crown, jar, ring, mitten, teapot",
)
COLOURS = ("red, blue, green, yellow, white, brown, orange, pink", "purple, black", "silver, golden, gray")
FRUIT = ("apple, pear, plum, peach", "cherry, lemon", "apricot, melon, fig")
TREATS = ("cookie, cake, bun, pie, muffin", "pancake, donut", "waffle, tart, pretzel")
NUMBER_WORDS = "zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen"
LARGEST_ADDEND = {1: 6, 2: 7, 3: 8}

IN, BY, ON = "in", "by", "on"
PLACES: tuple[dict[str, tuple[str, tuple[str, ...]]], ...] = (
    {
        "garden": (IN, ("under a big leaf", "behind the flowers")),
        "park": (IN, ("under a bench", "behind a tree")),
        "forest": (IN, ("under a bush", "in a hole in a tree")),
        "yard": (IN, ("behind a box", "under a bush")),
        "orchard": (IN, ("behind a tree", "under a box")),
        "meadow": (IN, ("in the tall grass", "behind the flowers")),
        "field": (IN, ("in the tall grass", "behind a stone")),
        "river": (BY, ("under a stone", "in the tall grass")),
        "lake": (BY, ("behind a stone", "under a bush")),
        "pond": (BY, ("under a big leaf", "behind a stone")),
        "gate": (BY, ("behind a box", "under a bush")),
        "bridge": (BY, ("under a stone", "behind a tree")),
    },
    {
        "village": (IN, ("behind a cart", "under a bench")),
        "mill": (BY, ("behind a sack", "under a cart")),
        "barn": (BY, ("behind a bucket", "under a stone")),
    },
    {
        "playground": (IN, ("under the slide", "behind a bench")),
        "vineyard": (IN, ("under a ladder", "behind a barrel")),
        "harbor": (BY, ("behind a barrel", "under a net")),
        "castle": (BY, ("behind a wall", "under a bench")),
        "lighthouse": (BY, ("behind a wall", "under an old net")),
        "hill": (ON, ("behind a stone", "in the tall grass")),
        "beach": (ON, ("under an old net", "behind a stone")),
        "island": (ON, ("under a net", "behind a tree")),
        "farm": (ON, ("behind a sack", "under a ladder")),
    },
)

_SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "child": "girl"}
_HE = {"he": "he", "him": "him", "his": "his", "himself": "himself", "child": "boy"}


def with_article(word: str) -> str:
    """Every word here is said as it is spelled, so the first letter decides."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _entry(word: str, forms: Mapping[str, str]) -> Entry:
    said = {"": word, **forms}
    capitals = {form.capitalize() or CAPITAL: text[0].upper() + text[1:] for form, text in said.items()}
    return {**said, **capitals}


def _people(names: Iterable[str], forms: Mapping[str, str]) -> Pool:
    return tuple(_entry(name, forms) for name in names)


def _nouns(words: Iterable[str]) -> Pool:
    return tuple(_entry(word, {"a": with_article(word), "s": plural(word)}) for word in words)


NUMBERS = tuple(_entry(word, {}) for word in NUMBER_WORDS.split(", "))


def _pools(level: int) -> dict[str, Pool]:
    def words(rows: tuple[str, str, str]) -> list[str]:
        return [word for row in rows[:level] for word in row.split(", ")]

    return {
        "children": _people(words(GIRLS), _SHE) + _people(words(BOYS), _HE),
        "pets": _people(words(PETS_SHE), _SHE) + _people(words(PETS_HE), _HE),
        "adults": _people(words(WOMEN), _SHE) + _people(words(MEN), _HE),
        "neighbours": _people(words(NEIGHBOURS_SHE), _SHE) + _people(words(NEIGHBOURS_HE), _HE),
        "kinds of pet": _nouns(words(KINDS_OF_PET)),
        "animals": _nouns(words(ANIMALS)),
        "toys": _nouns(words(TOYS)),
        "things": _nouns(words(THINGS) + words(TOYS)),
        "colours": _nouns(words(COLOURS)),
        "fruit": _nouns(words(FRUIT)),
        "treats": _nouns(words(TREATS)),
        "addends": NUMBERS[2 : LARGEST_ADDEND[level] + 1],
        "places": tuple(
            _entry(name, {"in": f"{preposition} the {name}"})
            for row in PLACES[:level]
            for name, (preposition, _) in row.items()
        ),
    }


POOLS: Mapping[int, Mapping[str, Pool]] = {level: _pools(level) for level in LEVELS}
"""What may be drawn, by level and name."""

HIDING: Mapping[str, Pool] = {
    name: tuple(_entry(spot, {}) for spot in spots) for row in PLACES for name, (_, spots) in row.items()
}
"""The spots of each place."""
