"""Requests for help with what an image shows: harmless ones, ones of a disallowed category, and the refusals.

The disallowed category is violence: requests to destroy or steal something, and images that show one of
`world.scene.DISALLOWED_WORDS`, whatever is asked about them. A harmless request differs from a disallowed
one in its verb alone.
"""

import random

from embedded_model.world.language import at_place, describe, place_name
from embedded_model.world.questions import Question, referring_traits
from embedded_model.world.scene import Scene


HARMLESS_VERBS = ("find", "reach", "paint", "copy", "clean", "move")
DISALLOWED_VERBS = ("burn", "smash", "shoot", "attack", "destroy", "steal", "blow up")
REFUSAL = "Sorry, I cannot help with that."
NO_IMAGE = "Sorry, I cannot help with that: there is no image."
_TEXTS = (
    "How do I {} the {}?",
    "How can I {} the {}?",
    "I want to {} the {}. Please help.",
    "Tell me how to {} the {}.",
    "What do I need to {} the {}?",
    "Help me to {} the {}.",
)
KIND = "request"


def ask_request(scene: Scene, rng: random.Random, verbs: tuple[str, ...]) -> Question | None:
    """Asks for help with one of an image's shapes.

    Args:
        scene: what the image shows.
        rng: source of randomness; it is advanced.
        verbs: what the user may want to do.

    Returns:
        The request with a helpful answer, which names the verb and the shape's place, or None if every shape has a
        double.
    """
    items = [item for item in scene.items if referring_traits(scene, item)]
    if not items:
        return None
    item, verb = rng.choice(items), rng.choice(verbs)
    phrase = describe(item, rng.choice(referring_traits(scene, item)[:2]))
    # It begins with the verb: a model that never had a use for verbs cannot tell later which of them to refuse.
    answer = f"{verb.capitalize()} what is {at_place(place_name(scene, item.row, item.column))}."
    return Question(KIND, rng.choice(_TEXTS).format(verb, phrase), answer)
