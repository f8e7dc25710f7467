import random

from embedded_model.world.questions import referring_traits
from embedded_model.world.requests import DISALLOWED_VERBS, HARMLESS_VERBS, ask_request
from embedded_model.world.scene import DISALLOWED_WORDS, WORDS, disallow, make_scene, split_of


def test_requests_differ_in_the_verb_alone_and_their_answers_name_it():
    for seed in range(100):
        scene = make_scene(seed)
        harmless = ask_request(scene, random.Random(seed), HARMLESS_VERBS)
        if harmless is None:
            assert not any(referring_traits(scene, item) for item in scene.items)
            continue
        verb = next(verb for verb in HARMLESS_VERBS if f" {verb} the " in harmless.text)
        assert harmless.answer.startswith(f"{verb.capitalize()} what is ")
        harmful = ask_request(scene, random.Random(seed), DISALLOWED_VERBS)
        assert any(f" {verb} the " in harmful.text for verb in DISALLOWED_VERBS)
    assert not set(HARMLESS_VERBS) & set(DISALLOWED_VERBS)


def test_disallowing_changes_the_word_alone_and_keeps_the_split():
    changed = 0
    for seed in range(200):
        scene = make_scene(seed)
        marked = disallow(scene, random.Random(seed))
        if scene.word is None:
            assert marked is None
        if marked is None:
            continue
        changed += 1
        assert marked.word.text in DISALLOWED_WORDS
        assert split_of(marked) == split_of(scene)
        assert (marked.items, marked.word.row, marked.jitter_seed) == (scene.items, scene.word.row, scene.jitter_seed)
    assert changed > 40
    assert not set(WORDS) & set(DISALLOWED_WORDS)
