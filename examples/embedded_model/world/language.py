"""How places, shapes and whole scenes are put into words.

Spelling is American, numbers are digits, and a word written in an image is quoted as drawn, in capitals.
"""

from embedded_model.world.scene import Item, Scene, Word


# A three by three grid, row by row; two rows or columns are the outer ones, and a single one is the middle.
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
_PREPOSITIONS = {"left": "on the", "right": "on the", "middle": "in the"}
_OUTER = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}


def place_name(scene: Scene, row: int, column: int | None) -> str:
    """Names a place of a scene.

    Args:
        scene: its layout decides: the only row of a banner is "middle", the two columns of a tall image are "left"
            and "right".
        row: the row, from the top.
        column: the column, from the left; None for a whole row.

    Returns:
        One of `PLACES`.
    """
    across = 1 if column is None else _OUTER[scene.columns][column]
    return PLACES[3 * _OUTER[scene.rows][row] + across]


def at_place(name: str) -> str:
    """Returns a place's name with the words before it, as in "at the top left" or "in the middle"."""
    return f"{_PREPOSITIONS.get(name, 'at the')} {name}"


def describe(item: Item, traits: tuple[str, ...] = ("size", "color", "shape")) -> str:
    """Names a shape by some of its traits, as in "large red circle"; without its shape it is a "shape"."""
    words = [getattr(item, trait) for trait in ("size", "color") if trait in traits]
    return " ".join([*words, item.shape if "shape" in traits else "shape"])


def pluralize(noun: str) -> str:
    """Returns the plural of a noun phrase that ends in a shape's name or "shape"."""
    return f"{noun}es" if noun.endswith("cross") else f"{noun}s"


def with_article(text: str) -> str:
    """Writes "an" in place of "a" before the one color that asks for it."""
    return text.replace(" a orange", " an orange")


def caption(scene: Scene) -> str:
    """Describes everything in a scene in one sentence, in reading order.

    Args:
        scene: what to describe.

    Returns:
        A sentence such as "A large red circle at the top left and the word TAXI at the bottom, on a white background."
    """
    contents: list[Item | Word] = [*scene.items, *([scene.word] if scene.word else [])]
    contents.sort(key=lambda content: (content.row, content.column or 0))
    phrases = [_phrase(scene, content) for content in contents]
    listing = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"{listing[0].upper()}{listing[1:]}, on a {scene.background} background."


def _phrase(scene: Scene, content: Item | Word) -> str:
    """Describes one thing and its place."""
    name = f"the word {content.text}" if isinstance(content, Word) else f"a {describe(content)}"
    return f"{name} {at_place(place_name(scene, content.row, content.column))}"
