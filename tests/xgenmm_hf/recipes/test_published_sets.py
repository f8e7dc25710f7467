"""Every set that a shipped mixture names, as it is published: stand-ins that the mixture's own file reads.

docs/data-formats.md lists where the columns come from, and which of them could not be verified.
"""

import io
import json
import shutil
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from xgenmm_hf import recipes
from xgenmm_hf.data.image_refs import image_size
from xgenmm_hf.data.mixture import load_mixture


MIXTURES = [name for name in recipes.names() if name.startswith("mixtures/")]
TEXT = "A red bus in the rain."


def encoded(width=8, height=6, format="JPEG", frames=1) -> bytes:
    file = io.BytesIO()
    images = [Image.new("RGB", (width, height), color) for color in ("red", "green", "blue")[:frames]]
    images[0].save(file, format, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
    return file.getvalue()


def write_table(file, *records):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records)), file)


def write_hub_table(file, *records):
    """Writes a table as `datasets` does, which notes that `image` holds images."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(list(records)).cast_column("image", ImageFeature()).to_parquet(file)


def write_tar(file, members):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            data = json.dumps(data).encode() if isinstance(data, dict) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_zip(file, *names):
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, encoded())


def write_json(file, value):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


def download(folder, *urls, as_archive=True, **columns):
    """Writes what img2dataset leaves: a table with one row per address, and the images of those that succeeded."""
    keys = [f"{index:09}" for index in range(len(urls))]
    table = [
        {"url": url, "key": key, "status": "success", "error_message": None, "width": 8, "height": 6, "sha256": "00"}
        | {name: values[index] for name, values in columns.items()}
        for index, (key, url) in enumerate(zip(keys, urls, strict=True))
    ]
    gone = {"url": "https://example.org/gone.jpg", "key": "000000999", "status": "failed_to_download", "sha256": None}
    write_table(folder / "00000.parquet", *table, {**dict.fromkeys(table[0]), **gone})
    (folder / "00000_stats.json").write_text("{}")
    if as_archive:
        write_tar(folder / "00000.tar", {f"{key}.jpg": encoded() for key in keys})
    else:
        (folder / "00000").mkdir()
        for key in keys:
            (folder / "00000" / f"{key}.jpg").write_bytes(encoded())


def document(*items):
    """Makes parallel lists of texts and images."""
    texts = [item if not item.startswith("http") else None for item in items]
    return {"texts": texts, "images": [item if item.startswith("http") else None for item in items]}


def interleaved_sets(root):
    one, two, gone = "https://example.org/1.jpg", "https://example.org/2.jpg", "https://example.org/gone.jpg"
    fields = {"metadata": "[]", "general_metadata": '{"url": "https://example.org"}'}
    write_table(root / "data/mint-1t-html/shard_0000.parquet", {**document(one, "A.", gone, "B."), **fields})
    download(root / "images/mint-1t-html", one, two)
    write_table(root / "data/obelics/train-00000-of-01439.parquet", {**document("A.", two, "B."), **fields})
    download(root / "images/obelics", one, two, as_archive=False)
    for name in ("mint-1t-pdf", "mint-1t-arxiv"):
        fields = {"texts": [None, "A.", None, "B."], "images": ["page_0_image_0", None, "page_1_image_3", None]}
        sample = {"doc.json": {**fields, "pdf_metadata": {}}, "doc.tiff": encoded(format="TIFF", frames=2)}
        write_tar(root / f"data/{name}/00000.tar", sample)


def ocr_caption(granularity, text):
    return {"text": text, "granularity": granularity, "include_datacomp_raw_cap": False}


def caption_sets(root):
    for name in ("datacomp-1b", "cc12m", "cc3m", "sbu", "visual-genome"):
        facts = {
            "uid": "u1",
            "url": "https://example.org/1.jpg",
            "key": "000000000",
            "status": "success",
            "caption": TEXT,
        }
        sample = {"000000000.jpg": encoded(), "000000000.txt": TEXT.encode(), "000000000.json": facts}
        write_tar(root / f"data/{name}/00000.tar", sample)
    url = "https://example.org/kale.jpg"
    kale = {"key": "1", "url": url, "caption": TEXT, "cogvlm_caption": "Another caption.", "width": 8, "height": 6}
    write_table(root / "data/blip3-kale/core.parquet", kale)
    download(root / "images/blip3-kale", url)
    ocr = [
        ocr_caption(0, 'The image contains the text "SHOP"'),
        ocr_caption(5, "<ocr>SHOP</ocr><bbox>[0, 0][1, 1]</bbox>"),
    ]
    for name in ("blip3-ocr-200m", "blip3-ocr-hd-30m"):
        rows = [
            {"uid": f"u{index}", "url": f"https://example.org/{index}.jpg", "key": str(index), "face_bboxes": "[]"}
            | {"captions": json.dumps(ocr) if index else "[]", "metadata": "{}"}
            for index in range(2)
        ]
        write_table(root / f"data/{name}/001.parquet", *rows)
        # The address was written otherwise when it was downloaded: the uid still finds it.
        download(root / f"images/{name}", "https://example.org/moved.jpg", uid=["u1"])
    place, tags = (
        "A bus (in the center) in the rain.",
        "<object>bus</object><bbox>[0.1, 0.1][0.9, 0.9]</bbox> in the rain.",
    )
    extent = "A bus (starts at (0.1, 0.1) and extends up to (0.9, 0.9)) in the rain."
    grounding = {"uid": "g1", "url": "https://example.org/g.jpg", "captions": json.dumps([tags, extent, place])}
    write_table(
        root / "data/blip3-grounding-50m/0.parquet",
        {**grounding, "metadata": "{}", "cogvlm_caption": "A bus in the rain."},
    )
    download(root / "images/blip3-grounding-50m", "https://example.org/g.jpg")
    page = {"text": ["INVOICE", "Total 7"], "bbox": [[0.1, 0.1, 0.2, 0.1], [0.1, 0.3, 0.2, 0.1]], "score": [0.9, 0.8]}
    pages = {"pages": [page, {"text": [], "bbox": [], "score": []}]}
    sample = {
        "ffbb.json": pages,
        "ffbb.ocr": b"INVOICE",
        "ffbb.pdf": b"%PDF",
        "ffbb.tif": encoded(format="TIFF", frames=2),
    }
    write_tar(root / "data/idl-wds/idl-train-00000.tar", sample)


def turns(*texts, names=("from", "value"), speakers=("human", "gpt")):
    return [{names[0]: speakers[index % 2], names[1]: text} for index, text in enumerate(texts)]


def instruction_sets(root):
    talk = turns("<image>\nWhat is it?", TEXT)
    names = (
        "coco/train2017/1.jpg",
        "gqa/images/1.jpg",
        "ocr_vqa/images/1.jpg",
        "textvqa/train_images/1.jpg",
        "vg/VG_100K/1.jpg",
    )
    write_json(
        root / "data/llava/llava_v1_5_mix665k.json",
        [{"id": str(index), "image": name, "conversations": talk} for index, name in enumerate(names)]
        + [{"id": "text", "model": "", "conversations": turns("Hello?", "Hello.")}],
    )
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(encoded())
    quirks = [
        turns("Hello?", "Hello.", "And a question that nobody answers?"),
        turns("An answer to nothing.", "Hello?", "Hello.", speakers=("gpt", "human"))[:3],
        [{"from": "system", "value": ""}, *turns("Hello?", "Hello.")],
    ]
    write_json(
        root / "data/text_only.json", [{"id": str(i), "image": "", "conversations": t} for i, t in enumerate(quirks)]
    )
    image = {"bytes": encoded(), "path": "1.jpg"}
    rows = [{"id": "1", "image": image, "conversations": talk, "data_source": "llavar"}]
    rows.append({"id": "2", "image": None, "conversations": turns("Hello?", "Hello."), "data_source": "text"})
    write_hub_table(root / "lmms-lab/LLaVA-OneVision-Data/llavar_gpt4_20k/train-00000-of-00001.parquet", *rows)
    write_card(root / "lmms-lab/LLaVA-OneVision-Data", "llavar_gpt4_20k", "llavar_gpt4_20k/train-*")
    chat = turns(
        "<image> <image>\nWhich is red?", "The first.", names=("role", "content"), speakers=("user", "assistant")
    )
    for name in ("nlvr2", "llava_665k_multi"):
        images = [{"bytes": None, "path": f"{index}.jpg"} for index in range(2)]
        record = {"id": f"{name}_1", "images": images, "conversation": chat, "source": name}
        write_table(root / f"data/mantis-instruct/{name}/train-00000-of-00001.parquet", record)
        write_zip(root / f"data/mantis-instruct/{name}/train_images.zip", "0.jpg", "1.jpg")
    asked = turns("Image1: <ImageHere>\nImage2: <ImageHere>\nCompare them.", TEXT, "And the color?", "Red.")
    paths = ["mmdu-45k_pics/a.jpg", "mmdu-45k_pics/b.jpg"]
    write_json(root / "data/mmdu/mmdu-45k.json", [{"id": 64, "image": paths, "conversations": asked}])
    write_zip(root / "data/mmdu/mmdu-45k_pics.zip", *paths)


def preference_sets(root):
    def answer(text, rating):
        aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
        annotations = {aspect: {"Rating": rating, "Rationale": ""} for aspect in aspects}
        return {"annotations": annotations, "model": "m", "response": text}

    record = {"id": "svit-1", "prompt": "What is it?", "models": ["m", "n"]}
    (root / "data/vlfeedback").mkdir(parents=True)
    (root / "data/vlfeedback/vlfeedback_80k.jsonl").write_text(
        json.dumps({**record, "completions": [answer("A dog.", "1"), answer("A bus.", "5")]}) + "\n"
    )
    write_zip(root / "data/vlfeedback/merged_images.zip", "merged_images/svit-1.jpg")
    pair = {"ds_name": "RLAIF-V", "image": {"bytes": encoded(), "path": "1.jpg"}, "question": "What is it?"}
    pair |= {"chosen": "A bus.", "rejected": "A dog.", "origin_dataset": "COCO", "origin_split": "{}", "idx": "0"}
    write_hub_table(root / "openbmb/RLAIF-V-Dataset/RLAIF-V-Dataset_000.parquet", {**pair, "image_path": "1.jpg"})
    write_card(root / "openbmb/RLAIF-V-Dataset", "default", "*.parquet")
    pairs = [{"safe_instruction": "What?", "response": "A bus."}, {"unsafe_instruction": "Do it.", "response": "No."}]
    unsafe = {"id": "2", "image": "bad_ads/2.png", "safe": False, "harmful_category": "x"}
    records = [{"id": "1", "image": "ads/1.png", "safe": True, "instr-resp": pairs}]
    records.append({**unsafe, "instr-resp": [{"instruction": "Do it.", "response": "No."}]})
    write_json(root / "data/vlguard/train.json", records)
    for name in ("ads/1.png", "bad_ads/2.png"):
        (root / "data/vlguard/train" / name).parent.mkdir(parents=True)
        (root / "data/vlguard/train" / name).write_bytes(encoded(format="PNG"))


def write_card(folder, config, files):
    """Writes the head of a data set's card, which says what its configurations are."""
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: train\n    path: '{files}'\n---\n"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the shipped mixtures and a stand-in of every set that they name."""
    folder = tmp_path_factory.mktemp("published")
    for name in MIXTURES:
        shutil.copy(recipes.find(name), folder)
    for make in (interleaved_sets, caption_sets, instruction_sets, preference_sets):
        make(folder)
    return folder


def sources_of(root, name, **options):
    mixture = load_mixture(root / f"{name}.yaml", cache_dir=root / "cache", **options)
    return mixture, {report.source: report for report in mixture.sources}


@pytest.mark.parametrize("name", [name.removeprefix("mixtures/") for name in MIXTURES])
def test_a_shipped_mixture_reads_its_sets_as_published(root, name):
    mixture, reports = sources_of(root, name)
    assert {source: report.rejected for source, report in reports.items() if report.rejected} == {}
    assert all(report.rows for report in reports.values())
    for row in mixture.dataset.select(range(min(200, len(mixture.dataset)))):
        assert all(image_size(image) == (6, 8) for image in row["images"])


def test_interleaved_documents_keep_what_was_downloaded(root):
    _, reports = sources_of(root, "pretrain_stage1")
    assert reports["mint-html"].notes == {"image not downloaded": 1}
    assert reports["ocr-200m"].skipped == {"no text": 1}
    assert reports["obelics"].notes == {}


def test_idl_gives_a_row_per_page(root):
    mixture, reports = sources_of(root, "pretrain_stage2")
    assert (reports["idl"].rows, reports["idl"].notes) == (1, {"page without text": 1})
    row = next(row for row in mixture.dataset if row["source"] == "idl")
    assert row["content"][1]["text"] == '"INVOICE", "Total 7"'


def test_the_grounding_is_trained_and_not_the_plain_caption(root):
    mixture, _ = sources_of(root, "pretrain_stage1")
    row = next(row for row in mixture.dataset if row["source"] == "grounding-50m")
    assert row["content"][1]["text"] == "A bus (in the center) in the rain."


def test_mmdu_and_mantis_images_stand_where_their_marks_do(root):
    mixture, _ = sources_of(root, "sft_interleaved")
    rows = {row["source"]: row for row in mixture.dataset.select(range(3))}
    content = rows["mmdu-45k"]["messages"][0]["content"]
    assert [part["text"] for part in content] == ["Image1: ", None, "Image2: ", None, "Compare them."]
    kinds = [part["type"] for part in rows["mantis-nlvr2"]["messages"][0]["content"]]
    assert kinds == ["image", "text", "image", "text"]
    assert "ImageHere" not in json.dumps(rows["mmdu-45k"]["messages"])


def test_ordinary_quirks_are_taken_and_counted(root):
    _, reports = sources_of(root, "sft_interleaved")
    assert reports["text_only"].rows == 3
    assert reports["text_only"].notes == {
        "empty image": 3,
        "question without an answer": 1,
        "answer before the first question": 1,
        "empty system turn": 1,
    }


def test_a_set_of_the_hub_streams(root):
    (root / "stream.yaml").write_text("datasets: [{dataset: openbmb/RLAIF-V-Dataset, weight: 1}]\n")
    mixture, _ = sources_of(root, "stream", streaming=True)
    (row,) = mixture.dataset
    assert (row["source"], row["chosen"][0]["content"][0]["text"]) == ("openbmb/RLAIF-V-Dataset", "A bus.")
    with pytest.raises(ValueError, match=r"lmms-lab/LLaVA-OneVision-Data, nothing, train cannot be loaded"):
        (root / "wrong.yaml").write_text(
            "datasets: [{dataset: lmms-lab/LLaVA-OneVision-Data, config: nothing, weight: 1}]\n"
        )
        sources_of(root, "wrong")
