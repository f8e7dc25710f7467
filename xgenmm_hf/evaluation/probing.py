"""Building POPE's probes from annotations: which things are in an image, and which that are not there to ask for.

Each image is asked for the first things it shows and for as many that it does not. The latter are drawn at random,
are what images show most often (popular), or what they show most often together with the thing asked for just before
(adversarial); where that gives nothing, one is drawn at random.

Source: Li et al., Evaluating Object Hallucination in Large Vision-Language Models, arXiv 2305.10355.
"""

import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xgenmm_hf.evaluation.samples import Problem
from xgenmm_hf.evaluation.tasks.probing import STRATEGIES
from xgenmm_hf.evaluation.tasks.records import Record, read_json, read_records


TEMPLATE = "Is there {} {} in the image?"

Objects = dict[str, list[str]]
Probe = dict[str, Any]


@dataclass(frozen=True)
class Probes:
    """Questions about what images show.

    Args:
        rows: Strategy -> rows of POPE's format, in an order that is the same for every strategy.
        problems: Images that were chosen and cannot be asked about.
    """

    rows: dict[str, list[Probe]]
    problems: list[Problem]


def read_objects(path: str | os.PathLike[str]) -> Objects:
    """Reads which things images show.

    Args:
        path: COCO's instances JSON, a JSON object of image -> list of things, or POPE's rows of `{"image",
            "objects"}`.

    Returns:
        File name of an image -> its things, each once, in the order of the annotations.

    Raises:
        ValueError: If the file is none of these, or a part of it is malformed.
    """
    file = Path(path)
    document = read_json(file) if file.suffix.lower() == ".json" else list(read_records(file))
    if isinstance(document, Mapping) and "annotations" in document:
        return _coco_objects(file, document)
    if isinstance(document, Mapping):
        pairs = list(document.items())
    elif isinstance(document, list):
        rows = [one.row if isinstance(one, Record) else one for one in document]
        pairs = [(row.get("image"), row.get("objects")) if isinstance(row, Mapping) else (None, None) for row in rows]
    else:
        pairs = [(None, None)]
    found: Objects = {}
    for number, (image, objects) in enumerate(pairs, start=1):
        things: list[Any] = objects if isinstance(objects, list) else [None]
        named = isinstance(image, str) and image not in found
        if not named or not all(isinstance(thing, str) and thing for thing in things):
            raise ValueError(
                f"{file}, entry {number}: an image's name (each once) and a list of the things that it shows are "
                'needed, such as {"image": "1.jpg", "objects": ["dog"]}.'
            )
        found[str(image)] = list(dict.fromkeys(things))
    return found


def build_probes(
    objects: Mapping[str, Sequence[str]],
    strategies: Sequence[str] = STRATEGIES,
    *,
    images: int = 500,
    per_image: int = 3,
    seed: int = 0,
    template: str = TEMPLATE,
) -> Probes:
    """Builds probes; the same annotations and seed give the same ones.

    Args:
        objects: Image -> the things that it shows, see `read_objects`.
        strategies: How to choose what is not there.
        images: Images to ask about, drawn at random from those that show enough.
        per_image: Things that are there to ask for in each, and as many that are not.
        seed: Seed of the choice.
        template: The question, with places for the article and the thing.

    Returns:
        The probes; all strategies ask about the same images and the same things that are there.

    Raises:
        ValueError: If there is no such strategy, or too few images show enough things.
    """
    if unknown := sorted(set(strategies) - set(STRATEGIES)):
        raise ValueError(f"There is no strategy {unknown[0]!r}; there are {', '.join(STRATEGIES)}.")
    fit = [image for image, things in objects.items() if len(things) >= per_image]
    if len(fit) < images:
        raise ValueError(
            f"{len(fit)} images show {per_image} things or more, but {images} are wanted: ask about fewer "
            "images, or for fewer things in each."
        )
    chosen = random.Random(f"{seed}/images").sample(fit, images)
    chooser = _Absent({image: objects[image] for image in chosen}, seed)
    rows: dict[str, list[Probe]] = {strategy: [] for strategy in strategies}
    problems = []
    for image in chosen:
        # Whatever is not there can run out only for all strategies at once.
        if len(chooser.counts) - len(set(objects[image])) < per_image:
            problems.append(Problem("annotations", image, "it shows nearly everything; too little is left to ask for"))
            continue
        for strategy in strategies:
            rows[strategy] += _probes_of(image, objects[image][:per_image], strategy, chooser, template)
    for probes in rows.values():
        for number, probe in enumerate(probes, start=1):
            probe["question_id"] = number
    return Probes(rows, problems)


def write_probes(probes: Probes, folder: str | os.PathLike[str], name: str = "coco") -> list[Path]:
    """Writes a file of JSON Lines for each strategy, named as POPE's are.

    Args:
        probes: What `build_probes` returned.
        folder: Where to; it is made if it is not there.
        name: Name of the data in the files' names.

    Returns:
        The files; each appears whole or not at all.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    with tempfile.TemporaryDirectory(prefix=".probes-", dir=target) as part:
        for strategy, rows in probes.rows.items():
            file = target / f"{name}_pope_{strategy}.jsonl"
            written = Path(part) / file.name
            written.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            os.replace(written, file)
            files.append(file)
    return files


class _Absent:
    """Chooses things that an image does not show; counts what the chosen images show."""

    def __init__(self, objects: Mapping[str, Sequence[str]], seed: int):
        self.objects, self.seed = objects, seed
        self.counts = Counter(thing for things in objects.values() for thing in things)
        self._together: dict[str, Counter[str]] = {}
        for things in objects.values():
            for thing in things:
                self._together.setdefault(thing, Counter()).update(other for other in things if other != thing)

    def choose(self, image: str, present: str, taken: set[str], strategy: str, rng: random.Random) -> str:
        """Returns a thing that is neither in the image nor among what was asked for; there must be one."""
        out = taken | set(self.objects[image])
        ranked: list[tuple[str, int]] = []
        if strategy != "random":
            # Of equally frequent things the one that was annotated first comes first.
            ranked = (self.counts if strategy == "popular" else self._together[present]).most_common()
        best = next((thing for thing, _ in ranked if thing not in out), None)
        return best or rng.choice([thing for thing in self.counts if thing not in out])


def _probes_of(image: str, present: Sequence[str], strategy: str, chooser: _Absent, template: str) -> list[Probe]:
    """Asks for each thing that is there, and behind it for one that is not."""
    rng = random.Random(f"{chooser.seed}/{strategy}/{image}")
    taken: set[str] = set()
    probes = []
    for thing in present:
        absent = chooser.choose(image, thing, taken, strategy, rng)
        taken.add(absent)
        probes += [_probe(image, thing, "yes", template), _probe(image, absent, "no", template)]
    return probes


def _probe(image: str, thing: str, label: str, template: str) -> Probe:
    article = "an" if thing[0].lower() in "aeiou" else "a"
    return {"question_id": 0, "image": image, "text": template.format(article, thing), "label": label}


def _coco_objects(file: Path, document: Mapping[str, Any]) -> Objects:
    """Returns the things of COCO's annotations, each of an image once."""
    try:
        names = {category["id"]: category["name"] for category in document["categories"]}
        images = {image["id"]: image["file_name"] for image in document["images"]}
        found: Objects = {name: [] for name in images.values()}
        for annotation in document["annotations"]:
            things, thing = found[images[annotation["image_id"]]], names[annotation["category_id"]]
            if thing not in things:
                things.append(thing)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is no instances file of COCO: it needs images, categories, and annotations with image_id and "
            f"category_id ({error!r})."
        ) from None
    return found
