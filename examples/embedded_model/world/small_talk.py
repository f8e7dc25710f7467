"""Talk that is about no image: greetings, thanks, what the model is, and questions whose answer it cannot know."""

import random

from embedded_model.world.questions import Question
from embedded_model.world.scene import TRAIN


WHAT_IT_IS = "I am a very small xGen-MM model for demos and tests. I answer questions about images of drawn shapes."
UNKNOWN = "I do not know: this model knows drawn shapes only."
GREETING = f"Hello! {WHAT_IT_IS}"
WELCOME = "You are welcome!"
GOODBYE = "Goodbye!"
TALK = "talk"
# What is said (trained, held out) and the answer.
_SAID = (
    (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "hello", "hi", "Good morning!", "Hello there"),
        ("Hello.", "Hey!", "Good evening!"),
        GREETING,
    ),
    (
        (
            "Thanks", "Thanks!", "Thank you", "Thank you!", "Thanks a lot!", "Great, thank you.", "thanks",
            "Thank you very much.",
        ),
        ("Thank you.", "Many thanks!", "Great, thanks!"),
        WELCOME,
    ),
    (
        (
            "What can you do?", "Who are you?", "What are you?", "What do you know?", "Help", "help",
            "How can you help me?", "What can I ask you?", "What model are you?", "Which model is this?",
            "Tell me about you.", "What is your name?", "How are you?", "Are you a person?",
        ),
        ("What can I ask?", "Tell me what you can do.", "What are you able to do?"),
        WHAT_IT_IS,
    ),
    (("Bye", "Bye!", "Goodbye", "Goodbye!", "See you!"), ("Good bye!", "Bye bye"), GOODBYE),
)  # fmt: skip
_ASKED = (
    (
        "What is the capital of {}?", "Who is the president of {}?", "How many people live in {}?", "Where is {}?",
        "Tell me about {}.", "What is the weather in {}?", "Which language do people speak in {}?",
        "When was {} built?", "How far is {}?", "Write a poem about {}.", "Write a story about {}.",
        "What do you think about {}?",
        "What is the price of {}?", "How old is {}?", "Who made {}?", "What is the name of {}?", "Why is {} famous?",
        "Explain {}.", "What is {}?", "Who is {}?", "How do I cook {}?", "What is the history of {}?",
    ),
    ("What is the population of {}?", "Tell me a story about {}.", "What is {} known for?"),
)  # fmt: skip
_TOPICS = (
    (
        "France", "Germany", "China", "India", "the moon", "the man", "the woman", "the dog", "the president",
        "the city", "music", "water", "love", "the sun", "Paris", "London", "football", "pizza", "Python", "history",
        "the car",
        "the building", "the river", "mathematics", "art", "the internet", "the cat", "Africa", "the king",
        "a computer",
    ),
    ("Italy", "the queen", "Japan", "the house", "chemistry", "the train", "Spain", "soup"),
)  # fmt: skip
_PLAIN_QUESTIONS = (
    (
        "What is 2 + 2?", "What is 3 times 4?", "What time is it?", "What day is it?", "What is the person doing?",
        "What brand is it?", "What animal is this?", "What is the man wearing?", "What year is it?", "Is it raining?",
        "Who won the game?", "What is the mood of the image?", "Is the man happy?", "What is on the table?",
        "Tell me a joke.", "Sing a song.", "How does a car work?", "Translate this into French.", "Write some code.",
        "What sport is played here?", "Where was this photo taken?", "Who is in the photo?", "What has changed?",
    ),
    ("What is 5 minus 3?", "What is the woman holding?", "Tell me something funny.", "What month is it?"),
)  # fmt: skip


def say_something(rng: random.Random, wording: str = TRAIN) -> Question:
    """Says hello, thanks or goodbye, or asks what the model is."""
    trained, held_out, answer = rng.choices(_SAID, weights=(3, 3, 4, 1))[0]
    return Question(TALK, rng.choice(trained if wording == TRAIN else held_out), answer)


def ask_unknown(rng: random.Random, wording: str = TRAIN) -> Question:
    """Asks something that no drawn image answers."""
    split = wording != TRAIN
    if rng.random() < 0.3:
        return Question("unknown", rng.choice(_PLAIN_QUESTIONS[split]), UNKNOWN)
    return Question("unknown", rng.choice(_ASKED[split]).format(rng.choice(_TOPICS[split])), UNKNOWN)
