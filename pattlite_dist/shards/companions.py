"""The files beside a set that let other programs read it: they repeat what its manifest says.

`_info.json` is timm's list of splits, `sizes.json` open_clip's number of samples by shard, and
`README.md` the Hugging Face hub's dataset card, with the names of the classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from pattlite_dist.shards.manifest import SPLIT_NAMES, Manifest, SplitName
from pattlite_dist.shards.target import Target

CARD_NAME = "README.md"
COMPANION_NAMES = ("_info.json", "sizes.json", CARD_NAME)
# In the card's front matter. A card without it is the user's own and is left alone.
_OURS = "# Written by pattlite shards create; remove this line to keep your own version."
_HUB_SPLITS: dict[SplitName, str] = {"train": "train", "val": "validation", "test": "test"}
# Of a sample's JSON, what every one has; `datasets` leaves out what a card does not name.
_FACTS = {
    "row": "int64", "split": "string", "label": "string", "blank": "bool", "near_blank": "bool",
    "leak": "bool", "copies": "int64", "conflict": "bool",
}  # fmt: skip


def companions(manifest: Manifest) -> dict[str, bytes]:
    """The content of each file, by name; depends on nothing but the manifest."""
    return {
        "_info.json": _json(_info(manifest)),
        "sizes.json": _json({shard.name: shard.samples for shard in manifest.all_shards()}),
        CARD_NAME: _card(manifest).encode(),
    }


def is_ours(name: str, content: bytes) -> bool:
    """Whether a file of this name may be replaced: a card that the user has edited may not."""
    return name != CARD_NAME or f"\n{_OURS}\n".encode() in content


def save_companions(target: Target, manifest: Manifest) -> None:
    """Write those that are missing or outdated, each whole or not at all.

    Raises:
        UserError: the target cannot be written.
    """
    for name, content in companions(manifest).items():
        there = target.content(name)
        if there is None or (there != content and is_ours(name, there)):
            target.save(name, content)


def outdated(folder: Path, manifest: Manifest) -> list[str]:
    """The names of files in a folder that say something else than the manifest; none is needed."""
    found = []
    for name, content in companions(manifest).items():
        path = folder / name
        there = path.read_bytes() if path.is_file() else content
        if there != content and is_ours(name, there):
            found.append(name)
    return found


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _info(manifest: Manifest) -> dict[str, object]:
    """What timm's reader of WebDataset shards looks up for `split=NAME`."""
    return {
        "splits": {
            split: {
                "name": split,
                "num_samples": manifest.samples(split),
                "filenames": [shard.name for shard in manifest.shards[split]],
                "shard_lengths": [shard.samples for shard in manifest.shards[split]],
            }
            for split in _splits(manifest)
        }
    }


def _splits(manifest: Manifest) -> list[SplitName]:
    return [split for split in SPLIT_NAMES if manifest.shards.get(split)]


def _card(manifest: Manifest) -> str:
    return "\n".join(["---", *_front_matter(manifest), "---", "", *_text(manifest), ""])


def _front_matter(manifest: Manifest) -> Iterator[str]:
    """YAML: where each split is, and which features a sample has."""
    yield _OURS
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for split in _splits(manifest):
        yield f"  - split: {_HUB_SPLITS[split]}"
        yield "    path:"
        yield from (f"    - {shard.name}" for shard in manifest.shards[split])
    yield "dataset_info:"
    yield "  features:"
    yield "  - name: png"
    yield "    dtype: image"
    yield "  - name: cls"
    yield "    dtype:"
    yield "      class_label:"
    yield "        names:"
    # A JSON string is a YAML string, whatever is in it.
    yield from (f"          '{i}': {json.dumps(name)}" for i, name in enumerate(manifest.labels))
    yield "  - name: json"
    yield "    struct:"
    for name, kind in _FACTS.items():
        yield f"    - name: {name}"
        yield f"      dtype: {kind}"
    yield "  - name: __key__"
    yield "    dtype: string"
    yield "  - name: __url__"
    yield "    dtype: string"


def _text(manifest: Manifest) -> Iterator[str]:
    image = manifest.image
    colour = "grey" if image.channels == 1 else "colour"
    yield f"# {manifest.source.name}"
    yield ""
    yield (
        f"{image.width}x{image.height} {colour} images of {len(manifest.labels)} classes: "
        f"{', '.join(manifest.labels)}."
    )
    yield ""
    yield "| split | samples | shards |"
    yield "|---|---|---|"
    for split in _splits(manifest):
        yield f"| {split} | {manifest.samples(split)} | {len(manifest.shards[split])} |"
    yield ""
    yield (
        "A shard set of pattlite_dist: WebDataset tars (`png`, `cls`, `json`), described by "
        "`manifest.json`."
    )
