"""What a drawn image holds, independent of pixels.

A scene is a small grid of places (rows x columns) over an image of a given aspect ratio. A place is empty or holds
one shape; one row (or one place, where a row is too short to share) may hold a word instead. Everything is a pure
function of a seed.

Training and held-out scenes never coincide: a scene belongs to one of the two by a hash of what it shows, so two
different seeds cannot bring the same image content into both.
"""

import hashlib
import random
from dataclasses import dataclass, replace


SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "gray", "black")
WORDS = (
    *("BUS", "CAFE", "CITY", "EXIT", "FISH", "GOLD", "HELP", "JAZZ", "KIWI", "LOVE", "MOON", "NEWS"),
    *("OPEN", "PARK", "RAIN", "SALE", "STOP", "TAXI", "WIND", "ZOO"),
)
# Words that only images of the disallowed category show, see `disallow`.
DISALLOWED_WORDS = ("BOMB", "GUN")

TRAIN = "train"
HELD_OUT = "held-out"
SPLITS = (TRAIN, HELD_OUT)
_HELD_OUT_ONE_IN = 8
_MAX_SHAPES = 6


@dataclass(frozen=True)
class Layout:
    """A kind of image: how many places it has and its width divided by its height."""

    rows: int
    columns: int
    aspect: float


LAYOUTS = {
    "square": Layout(rows=3, columns=3, aspect=1.0),
    "wide": Layout(rows=2, columns=3, aspect=2.0),
    "tall": Layout(rows=3, columns=2, aspect=0.5),
    "banner": Layout(rows=1, columns=3, aspect=3.0),
    "column": Layout(rows=3, columns=1, aspect=1 / 3),
}
LAYOUT_WEIGHTS = {"square": 6, "wide": 3, "tall": 3, "banner": 2, "column": 2}


@dataclass(frozen=True)
class Item:
    """One shape in one place of the scene's grid."""

    shape: str
    color: str
    size: str
    row: int
    column: int


@dataclass(frozen=True)
class Word:
    """A word written over one row: over the whole row, or in one place of it (`column`)."""

    text: str
    row: int
    column: int | None = None


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Args:
        layout: a key of `LAYOUTS`: the grid of places.
        background: a name of `BACKGROUNDS`.
        items: the shapes, in reading order.
        word: the word written in the image, if any.
        aspect: width divided by height; close to the layout's own.
        jitter_seed: seed of what has no name: exact tints, offsets, tilts and sizes within their ranges.
    """

    layout: str
    background: str
    items: tuple[Item, ...]
    word: Word | None
    aspect: float
    jitter_seed: int

    @property
    def rows(self) -> int:
        """Number of rows of places."""
        return LAYOUTS[self.layout].rows

    @property
    def columns(self) -> int:
        """Number of columns of places."""
        return LAYOUTS[self.layout].columns

    @property
    def content(self) -> tuple:
        """Everything that has a name, without the jitter: two scenes with equal content call for equal captions."""
        return (self.layout, self.background, self.items, self.word)


def split_of(scene: Scene) -> str:
    """Returns the split, `TRAIN` or `HELD_OUT`, that a scene belongs to by what it shows."""
    digest = hashlib.sha256(repr(scene.content).encode()).digest()
    return HELD_OUT if digest[0] % _HELD_OUT_ONE_IN == 0 else TRAIN


def sample_scene(rng: random.Random, layout: str | None = None, with_word: bool | None = None) -> Scene:
    """Draws a scene of either split.

    Args:
        rng: source of randomness; it is advanced.
        layout: a key of `LAYOUTS`; drawn at random if None.
        with_word: whether a word is written in the image; drawn at random if None.

    Returns:
        The scene; it holds at least one shape.

    Raises:
        ValueError: if the layout is unknown.
    """
    if layout is None:
        layout = rng.choices(list(LAYOUT_WEIGHTS), weights=list(LAYOUT_WEIGHTS.values()))[0]
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}.")
    grid = LAYOUTS[layout]
    if with_word is None:
        with_word = rng.random() < 0.4
    word = _sample_word(rng, grid) if with_word else None
    places = [(r, c) for r in range(grid.rows) for c in range(grid.columns) if not _is_covered(word, r, c)]
    count = rng.randint(1, min(len(places), _MAX_SHAPES))
    items = _sample_items(rng, sorted(rng.sample(places, count)))
    return Scene(
        layout=layout,
        background=rng.choice(BACKGROUNDS),
        items=items,
        word=word,
        aspect=round(grid.aspect * rng.uniform(0.87, 1.15), 4),
        jitter_seed=rng.getrandbits(32),
    )


def make_scene(seed: int, split: str = TRAIN, layout: str | None = None, with_word: bool | None = None) -> Scene:
    """Draws the scene of a seed within a split.

    Args:
        seed: any integer; the same seed gives the same scene.
        split: `TRAIN` or `HELD_OUT`.
        layout: as in `sample_scene`.
        with_word: as in `sample_scene`.

    Returns:
        A scene for which `split_of` gives `split`.

    Raises:
        ValueError: if the split or the layout is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    rng = random.Random(f"{split}/{seed}")
    while True:
        scene = sample_scene(rng, layout, with_word)
        if split_of(scene) == split:
            return scene


def disallow(scene: Scene, rng: random.Random) -> Scene | None:
    """Writes a word of the disallowed category in place of a scene's word.

    Args:
        scene: what the image shows.
        rng: source of randomness; it is advanced.

    Returns:
        A scene of the same split, or None if the scene has no word or no such word keeps it in its split.
    """
    if scene.word is None:
        return None
    marked = [replace(scene, word=replace(scene.word, text=text)) for text in DISALLOWED_WORDS]
    marked = [each for each in marked if split_of(each) == split_of(scene)]
    return rng.choice(marked) if marked else None


def _sample_word(rng: random.Random, grid: Layout) -> Word:
    """Draws a word; where it would fill the image's only row, it takes one place of it."""
    column = rng.randrange(grid.columns) if grid.rows == 1 else None
    return Word(text=rng.choice(WORDS), row=rng.randrange(grid.rows), column=column)


def _is_covered(word: Word | None, row: int, column: int) -> bool:
    """Tells whether a word takes the place (row, column)."""
    return word is not None and word.row == row and word.column in (None, column)


def _sample_items(rng: random.Random, places: list[tuple[int, int]]) -> tuple[Item, ...]:
    """Fills places with shapes; half of the time from few kinds, so that counting is not trivial."""
    shapes, colors = list(SHAPES), list(COLORS)
    if rng.random() < 0.5:
        shapes = rng.sample(SHAPES, 2) if rng.random() < 0.6 else shapes
        colors = rng.sample(COLORS, 2) if rng.random() < 0.6 else colors
    return tuple(
        Item(rng.choice(shapes), rng.choice(colors), rng.choice(SIZES), row, column) for row, column in places
    )
