"""How each kind of question is worded: wordings that are trained on, and others that are only measured with.

`{}` is what is asked about, a phrase such as "small red star"; `{place}` is a place with its preposition. Of a wording
that names the image, `word` draws the noun: people say image and picture, and some do not name it at all.
"""

import random
from typing import NamedTuple

from embedded_model.world.language import with_article
from embedded_model.world.scene import HELD_OUT, TRAIN


class Wordings(NamedTuple):
    """Wordings of one kind of question.

    Args:
        train: What training draws from.
        held_out: What no training row holds.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


WORDINGS = {
    "color": Wordings(
        (
            "What color is the {}?",
            "What is the color of the {}?",
            "Which color does the {} have?",
            "Which color is the {}?",
            "What color does the {} have?",
            "Tell me the color of the {}.",
            "Name the color of the {}.",
            "The {} is what color?",
            "Which is the color of the {}?",
            "What color has the {}?",
            "Name the color that the {} has.",
            "The color of the {} is what?",
        ),
        ("The color of the {}?", "In which color is the {} drawn?"),
    ),
    "shape at": Wordings(
        (
            "What shape is {place}?",
            "Which shape is {place}?",
            "What is {place}?",
            "What do you see {place}?",
            "Which shape do you see {place}?",
            "Name the shape {place}.",
            "Tell me which shape is {place}.",
            "What shape do you see {place}?",
            "Which shape is there {place}?",
            "The shape {place} is what?",
            "What kind of shape is {place}?",
        ),
        ("Which kind of shape is {place}?", "What shape can you see {place}?"),
    ),
    "shape": Wordings(
        (
            "What kind of shape is the {}?",
            "Which kind of shape is the {}?",
            "What shape is the {}?",
            "What is the {}?",
            "Which shape is the {}?",
            "Tell me what the {} is.",
            "The {} is what shape?",
            "The {} is what kind of shape?",
            "What shape does the {} have?",
            "Name the shape of the {}.",
        ),
        ("Which shape does the {} have?", "The shape of the {}?"),
    ),
    "count": Wordings(
        (
            "How many {} are there?",
            "How many {} are in the image?",
            "How many {} do you see?",
            "How many {} can you see?",
            "Count the {}.",
            "What is the number of {}?",
            "How many {} does the image show?",
            "Tell me how many {} there are.",
            "How many {} does the image have?",
            "What number of {} do you see?",
            "The image shows how many {}?",
            "How many {} are there in total?",
        ),
        ("How many {} can I see?", "The number of {}?"),
    ),
    "place": Wordings(
        (
            "Where is the {}?",
            "Where do you see the {}?",
            "What is the position of the {}?",
            "Where in the image is the {}?",
            "Where can I see the {}?",
            "Tell me where the {} is.",
            "In which part of the image is the {}?",
            "Where can you see the {}?",
            "In which place is the {}?",
            "At what position is the {}?",
            "Which place is the {} in?",
            "The {} is where?",
        ),
        ("Which part of the image is the {} in?", "The {}: where is it?"),
    ),
    "all places": Wordings(
        (
            "Where are the {}?",
            "Where do you see {}?",
            "Find all {}.",
            "Tell me where the {} are.",
            "Where are all {}?",
            "Where can you see {}?",
            "In which places are the {}?",
            "Which places are the {} in?",
            "Where can I find all {}?",
        ),
        ("Where can I see all {}?", "Which parts of the image are the {} in?"),
    ),
    "which": Wordings(
        (
            "Which is {further}, the {one} or the {other}?",
            "What is {further}, the {one} or the {other}?",
            "Which one is {further}: the {one} or the {other}?",
            "Is the {one} or the {other} {further}?",
            "Tell me which is {further}, the {one} or the {other}.",
            "Which of the two is {further}, the {one} or the {other}?",
            "Which shape is {further}, the {one} or the {other}?",
            "What do you see {further}, the {one} or the {other}?",
            "Of the {one} and the {other}, which is {further}?",
            "Which do you see {further}, the {one} or the {other}?",
        ),
        (
            "Which do I see {further}, the {one} or the {other}?",
            "Which of them is {further}, the {one} or the {other}?",
        ),
    ),
    "whether": Wordings(
        (
            "Is the {one} {relation} the {other}?",
            "Do you see the {one} {relation} the {other}?",
            "Is it true that the {one} is {relation} the {other}?",
            "In the image, is the {one} {relation} the {other}?",
            "Tell me whether the {one} is {relation} the {other}.",
            "Does the {one} stand {relation} the {other}?",
            "Is there a {one} {relation} the {other}?",
            "Does the image show the {one} {relation} the {other}?",
            "The {one} is {relation} the {other}, is that true?",
            "Can you see the {one} {relation} the {other}?",
            "Is the position of the {one} {relation} the {other}?",
            "The {one}: is it {relation} the {other}?",
            "Does the {one} have a place {relation} the {other}?",
        ),
        ("Can I see the {one} {relation} the {other}?", "Do you see that the {one} is {relation} the {other}?"),
    ),
    "size": Wordings(
        (
            "What size is the {}?",
            "How big is the {}?",
            "Is the {} small or large?",
            "Is the {} large or small?",
            "How large is the {}?",
            "What is the size of the {}?",
            "Tell me the size of the {}.",
            "Which size does the {} have?",
            "Which size is the {}?",
            "The {} is what size?",
            "What size does the {} have?",
        ),
        ("How large or small is the {}?", "The size of the {}?"),
    ),
    "word": Wordings(
        (
            "What word is written in the image?",
            "Which word do you see?",
            "What does the text say?",
            "Read the word.",
            "What is written in the image?",
            "What does the word say?",
            "Which word does the image show?",
            "What text is in the image?",
            "What word is in the image?",
            "Read the text in the image.",
            "Which text is written in the image?",
            "What word can you see?",
        ),
        ("Which word is there in the image?", "What text do you see?"),
    ),
    "presence": Wordings(
        (
            "Is there a {}?",
            "Is there a {} in the image?",
            "Do you see a {}?",
            "Can you see a {}?",
            "Does the image show a {}?",
            "Is a {} in the image?",
            "Does the image contain a {}?",
            "Tell me whether there is a {}.",
            "Is a {} there?",
            "There is a {}, is that true?",
            "Is it true that there is a {}?",
            "Does the image have a {}?",
            "Is there a {} to see?",
            "Can you find a {}?",
            "Is a {} to be seen in the image?",
        ),
        ("Do I see a {}?", "Is there a {} that you can see?"),
    ),
    "caption": Wordings(
        (
            "Describe the image.",
            "Describe this image.",
            "What is in the image?",
            "What do you see?",
            "What is this?",
            "Describe the image in detail.",
            "What does the image show?",
            "What can you see?",
            "Tell me what is in the image.",
            "Provide a one-sentence caption for the provided image.",
            "Write a caption for the image.",
            "Please describe the image.",
            "What do you see in the image?",
            "Can you describe the image?",
            "What is there to see?",
        ),
        ("What can you see in the image?", "Give a caption for the image."),
    ),
    # Questions about two images.
    "which image": Wordings(
        (
            "Which image has a {}?",
            "Which image is there a {} in?",
            "Which image shows a {}?",
            "In which image is there a {}?",
            "Which of the two images has a {}?",
            "In which image do you see a {}?",
            "Which image is a {} in?",
            "Which of the images shows a {}?",
            "Which one of the images has a {}?",
            "In which of the images is there a {}?",
        ),
        ("Which of these images shows a {}?", "Which image can you see a {} in?"),
    ),
    "which more": Wordings(
        (
            "Which image has {} shapes?",
            "Which has {} shapes, the first or the second image?",
            "In which image are there {} shapes?",
            "Which image shows {} shapes?",
            "Which of the two images has {} shapes?",
            "In which image do you see {} shapes?",
            "Which of the images has {} shapes?",
            "Which one of the images has {} shapes?",
            "Where do you see {} shapes, in the first or in the second image?",
        ),
        ("In which of the images are there {} shapes?", "Which of the two has {} shapes?"),
    ),
    "same background": Wordings(
        (
            "Is the background the same in both images?",
            "Do both images have the same background?",
            "Are the backgrounds of the two images the same?",
            "Is the color of the background the same in both images?",
            "Do the two images have the same background?",
            "Is the background of both images the same?",
            "Do you see the same background in both images?",
            "Are both backgrounds the same?",
            "Is it the same background in both images?",
        ),
        ("Do the images have the same background?", "Is the background in both images the same?"),
    ),
    "both word": Wordings(
        (
            "Is there a word in both images?",
            "Do both images have a word?",
            "Do both images show a word?",
            "Do you see a word in both images?",
            "Do the two images both have a word?",
            "Can you see a word in both images?",
            "Does each of the images have a word?",
            "Are there words in both images?",
            "Do you see a word in the first and in the second image?",
        ),
        ("Do both of the images have a word?", "Can I see a word in both images?"),
    ),
    # Yes/no questions as MME words them, about one trait of one thing.
    "check color": Wordings(
        (
            "Is the {} {value}?",
            "Is the color of the {} {value}?",
            "Is there a {} that is {value}?",
            "Does the {} have the color {value}?",
            "Do you see a {} that is {value}?",
            "Is {value} the color of the {}?",
            "In the image, is the {} {value}?",
            "The {} is {value}, is that true?",
            "Is it true that the {} is {value}?",
            "Can you see that the {} is {value}?",
            "Is the {} {value} in color?",
            "Does the {} look {value}?",
        ),
        ("Do you see that the {} is {value}?", "Is the {} drawn in {value}?"),
    ),
    "check count": Wordings(
        (
            "Are there {value} {}?",
            "Are there {value} {} in the image?",
            "Do you see {value} {}?",
            "Does the image show {value} {}?",
            "Is the number of {} {value}?",
            "Can you count {value} {}?",
            "There are {value} {}, is that true?",
            "In the image, are there {value} {}?",
            "Can you see {value} {}?",
            "Is it true that there are {value} {}?",
            "Is it {value} {} that you see?",
            "Does the image have {value} {}?",
        ),
        ("Do I see {value} {}?", "Is {value} the number of {}?"),
    ),
    "check place": Wordings(
        (
            "Is the {} {value}?",
            "Is the {} {value} of the image?",
            "Do you see the {} {value}?",
            "Does the {} stand {value}?",
            "In the image, is the {} {value}?",
            "Does the image show the {} {value}?",
            "The {} is {value}, is that true?",
            "Is it true that the {} is {value}?",
            "Can you see the {} {value}?",
            "Can I see the {} {value}?",
            "Is the place of the {} {value}?",
        ),
        ("Can you see the {} {value} of the image?", "Do you see that the {} is {value}?"),
    ),
    "check word": Wordings(
        (
            "Is the word in the image {value}?",
            "Does the text say {value}?",
            "Is the word {value} written in the image?",
            "Does the word say {value}?",
            "Do you see the word {value}?",
            "Is {value} the word in the image?",
            "The word is {value}, is that true?",
            "Is the text in the image {value}?",
            "Is it true that the word is {value}?",
            "Does the image show the word {value}?",
            "Can you read the word {value}?",
            "Does it say {value}?",
        ),
        ("Do I see the word {value}?", "Is {value} what the word says?"),
    ),
}
# What is asked, as it stands behind "tell me": the same in training and held out, where only the leads differ.
_INDIRECT = {
    "color": ("the color of the {}", "what color the {} is", "which color the {} has"),
    "shape at": ("the shape {place}", "what shape is {place}", "what you see {place}"),
    "shape": ("what the {} is", "what kind of shape the {} is", "which shape the {} is"),
    "count": ("the number of {}", "how many {} there are", "how many {} you see"),
    "place": ("the position of the {}", "the place of the {}", "where the {} is", "where you see the {}"),
    "all places": ("the places of the {}", "where the {} are", "where you see {}"),
    "which": ("which is {further}, the {one} or the {other}", "which one is {further}: the {one} or the {other}"),
    "whether": (
        "whether the {one} is {relation} the {other}",
        "if the {one} is {relation} the {other}",
        "whether you see the {one} {relation} the {other}",
        "if the {one} stands {relation} the {other}",
    ),
    "size": ("the size of the {}", "how big the {} is", "what size the {} is", "how large the {} is"),
    "word": ("the word in the image", "what the word is", "what the text says", "which word you see"),
    "presence": ("whether there is a {}", "if there is a {}", "if you see a {}", "whether the image shows a {}"),
    "caption": ("what you see", "what is in the image", "what the image shows"),
    "which image": ("which image has a {}", "which image shows a {}", "in which image you see a {}"),
    "which more": ("which image has {} shapes", "which image shows {} shapes"),
    "same background": (
        "whether both images have the same background",
        "if the background is the same in both images",
    ),
    "both word": ("whether both images have a word", "if there is a word in both images"),
    "check color": ("whether the {} is {value}", "if the {} is {value}"),
    "check count": ("whether there are {value} {}", "if you see {value} {}"),
    "check place": ("whether the {} is {value}", "if the {} is {value}"),
    "check word": ("whether the word is {value}", "if the text says {value}"),
}
_LEADS = {
    TRAIN: (
        *("Tell me {}.", "Please tell me {}.", "I want to know {}.", "Say {}.", "Do you know {}?", "Now tell me {}."),
        *("Answer me {}.", "I want you to tell me {}.", "Please answer {}.", "Show me {}.", "I do not know {}."),
        *("Can you tell me {}?", "Please say {}.", "I have to know {}."),
        *("Can you say {}?", "I want you to say {}.", "Do tell me {}."),
    ),
    HELD_OUT: ("Let me know {}.", "Please let me know {}.", "I ask you to tell me {}."),
}
PLAIN = "plain"
ORDINALS = ("first", "second")
_NAMES = (
    "the image",
    "the image",
    "the image",
    "this image",
    "this image",
    "the picture",
    "the picture",
    "this picture",
)
_OPENINGS = {
    TRAIN: (
        *("Please tell me: ", "Look at the image. ", "Question: ", "Hi! ", "Hello, ", "Now tell me: ", "Tell me: "),
        *("In the image, ", "In this image: ", "Look: ", "Now: ", "Please: ", "Tell me, ", "And "),
        *("Look at this: ", "Please answer: ", "Now tell me, "),
        *("Here is a question: ", "Please look: ", "Tell me this: "),
    ),
    HELD_OUT: ("Look here: ", "Please say: ", "I ask you: "),
}
_OPENED, _NAMED, _TYPED, _LED = 0.15, 0.25, 0.05, 0.3


def point_at(text: str, ordinal: str, rng: random.Random) -> str:
    """Makes a question about an image one about the first or the second image."""
    noun = rng.choice(("image", "image", "picture"))
    shown = f"the {ordinal} {noun}" if rng.random() < 0.8 else f"{noun} {ORDINALS.index(ordinal) + 1}"
    for name in dict.fromkeys(_NAMES):
        if name in text:
            return text.replace(name, shown)
    if rng.random() < 0.3:
        return f"In {shown}, {text[0].lower()}{text[1:]}"
    end = len(text) - (text[-1] in "?.")
    return f"{text[:end]} in {shown}{text[end:]}"


def word(name: str, rng: random.Random, wording: str, *phrases: str, **parts: str) -> str:
    """Words a question.

    Args:
        name: A key of `WORDINGS`.
        rng: Source of randomness; it is advanced.
        wording: `TRAIN`, `HELD_OUT`, or "plain": the first wording alone, as tables and prompts show it.
        *phrases: What `{}` stands for.
        **parts: What named gaps stand for.

    Returns:
        The question.
    """
    if wording == PLAIN:
        return with_article(WORDINGS[name].train[0].format(*phrases, **parts))
    text = rng.choice(getattr(WORDINGS[name], "train" if wording == TRAIN else "held_out"))
    if rng.random() < _LED:
        text = rng.choice(_LEADS[wording]).format(rng.choice(_INDIRECT[name]))
    text = with_article(text.format(*phrases, **parts))
    if name != "caption" and not name.endswith("image") and "image" not in text and rng.random() < _NAMED:
        text = f"{text[:-1]} in the image{text[-1]}"
    if "images" in text or "Which image" in text or "which image" in text or "second image" in text:
        return text.replace("image", rng.choice(("image", "image", "picture")))
    text = text.replace("the image", rng.choice(_NAMES))
    if rng.random() < _OPENED:
        opening = rng.choice(_OPENINGS[wording])
        text = opening + (text if opening[-2] in ".!" or text.startswith("I ") else f"{text[0].lower()}{text[1:]}")
    elif rng.random() < _TYPED:
        text = f"{text[0].lower()}{text[1:-1]}"
    return text
