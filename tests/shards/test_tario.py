import contextlib
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from pattlite_dist.errors import UserError
from pattlite_dist.shards.manifest import ImageInfo, ShardInfo, load_manifest
from pattlite_dist.shards.tario import (
    BLANK,
    CONFLICT,
    COPY,
    LEAK,
    NEAR_BLANK,
    Block,
    check_bytes,
    decode_png,
    decode_shard,
    has_targets,
    read_members,
)
from pattlite_dist.shards.writer import encode_pngs
from tests.shards.conftest import LEAKS, VAL_BLANKS, random_image, tiny_images, tiny_rows


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    return encode_pngs(pixels[None])[0]


IMAGE = ImageInfo(channels=1, height=48, width=48)
PNG = encode_png(random_image(0))
FACTS = b'{"blank": false, "label": "angry", "leak": false, "row": 0, "split": "train"}'
WHERE = "some/where/train-000000.tar"


def tar_of(parts: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of these members; a TarInfo is used with everything it claims."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for what, data in parts:
            if isinstance(what, str):
                member = tarfile.TarInfo(what)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            else:
                header = what.tobuf(tarfile.USTAR_FORMAT)
                stream.write(header)  # from Python 3.13 on `addfile` requires the data as well
                tar.offset += len(header)
    return stream.getvalue()


def sample(
    key: str = "00000000", png: bytes = PNG, cls: bytes = b"0", facts: bytes = FACTS
) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", png), (f"{key}.cls", cls), (f"{key}.json", facts)]


def describe(data: bytes, samples: int = 1, counts: list[int] | None = None) -> ShardInfo:
    """A manifest entry for these bytes, as a forger would write it to match."""
    return ShardInfo(
        name="train-000000.tar",
        samples=samples,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        class_counts=counts or [samples, 0, 0, 0, 0, 0, 0],
    )


def decode(data: bytes, samples: int = 1, counts: list[int] | None = None) -> Block:
    return decode_shard(data, describe(data, samples, counts), IMAGE, WHERE)


def refusal(data: bytes, samples: int = 1, counts: list[int] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        decode(data, samples, counts)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(WHERE)
    assert message.endswith("; create the shards again")
    return message


@pytest.mark.parametrize("name", ["train-000000.tar", "val-000000.tar", "test-000000.tar"])
def test_a_shard_gives_the_pixels_labels_and_flags_of_its_rows(
    tiny_shards: Path, name: str
) -> None:
    manifest = load_manifest(tiny_shards)
    (shard,) = (s for shards in manifest.shards.values() for s in shards if s.name == name)
    block = decode_shard((tiny_shards / name).read_bytes(), shard, manifest.image, name)
    kept = {"train": [*range(5), *range(6, 11)], "val": range(24, 32), "test": range(32, 40)}
    indices = list(kept[name.split("-")[0]])
    images, rows = tiny_images(), tiny_rows()
    assert (block.images.dtype, block.labels.dtype, block.flags.dtype) == (
        np.uint8,
        np.int64,
        np.uint8,
    )
    np.testing.assert_array_equal(block.images, np.stack([images[row] for row in indices]))
    assert block.labels.tolist() == [int(rows[row].emotion) for row in indices]
    assert (block.flags & (BLANK | LEAK)).tolist() == [
        BLANK * (row in VAL_BLANKS) + LEAK * (row in LEAKS) for row in indices
    ]
    looks = [image.tobytes() for image in images]
    assert (block.flags & COPY > 0).tolist() == [looks.count(looks[row]) > 1 for row in indices]
    for row, flag in zip(indices, block.flags, strict=True):
        labels = {rows[i].emotion for i, look in enumerate(looks) if look == looks[row]}
        assert bool(flag & CONFLICT) == (len(labels) > 1)


@pytest.mark.parametrize(
    ("blank", "leak", "flags"), [(0, 0, 0), (1, 0, BLANK), (0, 1, LEAK), (1, 1, BLANK | LEAK)]
)
def test_flags_are_bits(blank: int, leak: int, flags: int) -> None:
    facts = json.dumps({"blank": bool(blank), "leak": bool(leak)}).encode()
    assert decode(tar_of(sample(facts=facts))).flags.tolist() == [flags]


NOTHING: dict[str, object] = {"blank": False, "leak": False}


@pytest.mark.parametrize(
    ("facts", "flags"),
    [
        ({"near_blank": True}, NEAR_BLANK),
        ({"conflict": True}, CONFLICT),
        ({"copies": 2}, COPY),
        ({"copies": 1, "conflict": False, "near_blank": False}, 0),
        ({"blank": True, "copies": 12}, BLANK | COPY),
        (
            {"blank": True, "leak": True, "near_blank": True, "conflict": True, "copies": 2},
            BLANK | LEAK | NEAR_BLANK | CONFLICT | COPY,
        ),
    ],
)
def test_flags_that_the_first_version_did_not_know_are_bits_too(
    facts: dict[str, object], flags: int
) -> None:
    data = tar_of(sample(facts=json.dumps({**NOTHING, **facts}).encode()))
    assert decode(data).flags.tolist() == [flags]


SHARES = [0.5, 0.25, 0.25, 0, 0, 0, 0]


def soft(target: object, key: str = "00000000") -> list[tuple[str, bytes]]:
    """The members of a sample with this target."""
    return sample(key, facts=json.dumps({**NOTHING, "target": target}).encode())


def decode_soft(data: bytes, samples: int = 1) -> Block:
    return decode_shard(data, describe(data, samples), IMAGE, WHERE, soft=True)


def test_targets_are_read_where_the_manifest_has_them() -> None:
    other = [1, 0, 0, 0, 0, 0, 0]
    data = tar_of([*soft(SHARES), *soft(other, "00000001")])
    found = decode_soft(data, 2).targets
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [SHARES, other])
    assert decode(data, 2).targets is None


def test_a_rounded_target_is_taken_as_it_is() -> None:
    thirds = [0.333, 0.333, 0.333, 0, 0, 0, 0]
    found = decode_soft(tar_of(soft(thirds))).targets
    np.testing.assert_array_equal(found, np.array([thirds], np.float32))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, "no target of 7 shares"),
        ("0.5", "no target of 7 shares"),
        ({"happy": 1}, "no target of 7 shares"),
        (SHARES[:6], "no target of 7 shares"),
        ([*SHARES, 0], "no target of 7 shares"),
        ([1.5, -0.5, 0, 0, 0, 0, 0], "an invalid share"),
        ([float("nan"), 1, 0, 0, 0, 0, 0], "an invalid share"),
        ([float("inf"), 1, 0, 0, 0, 0, 0], "an invalid share"),
        ([10**400, 0, 0, 0, 0, 0, 0], "an invalid share"),
        ([True, False, 0, 0, 0, 0, 0], "an invalid share"),
        (["1", 0, 0, 0, 0, 0, 0], "an invalid share"),
        ([None, 1, 0, 0, 0, 0, 0], "an invalid share"),
        ([[1], 0, 0, 0, 0, 0, 0], "an invalid share"),
        ([0] * 7, "sums to 0, not to 1"),
        ([0.5, 0.4, 0, 0, 0, 0, 0], "sums to 0.9, not to 1"),
        ([0.5, 0.502, 0, 0, 0, 0, 0], "sums to 1.002, not to 1"),
    ],
)
def test_a_bad_target_is_told_with_its_shard_and_sample(target: object, told: str) -> None:
    data = tar_of([*soft(SHARES), *soft(target, "00000007")])
    with pytest.raises(UserError) as caught:
        decode_soft(data, 2)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: sample 00000007 has ")
    assert message.endswith(f"{told}; create the shards again")
    assert decode(data, 2).labels.tolist() == [0, 0]  # targets are checked only on request


def test_a_sample_without_the_target_that_it_should_have_is_named() -> None:
    with pytest.raises(UserError, match=f"^{WHERE}: sample 00000000 has no target of 7 shares; "):
        decode_soft(tar_of(sample()))


def test_a_set_has_targets_where_its_manifest_says_so(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    assert not has_targets(manifest)
    for target, expected in (("soft", True), ("majority", False), ("labels", False)):
        options = manifest.options.model_copy(update={"reading": {"target": target}})
        assert has_targets(manifest.model_copy(update={"options": options})) == expected


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = tar_of(sample())
    shard = describe(data)
    places = [*range(0, 512, 37), *random.Random(0).sample(range(len(data)), 100), len(data) - 1]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"differs from its manifest \(SHA-256\); fetch it"):
            decode_shard(bytes(damaged), shard, IMAGE, WHERE)


@pytest.mark.parametrize("change", [-1, -512, 1, None])
def test_another_size_is_told(change: int | None) -> None:
    data = tar_of(sample())
    shard = describe(data)
    other = b"" if change is None else data[:change] if change < 0 else data + b"\0" * change
    told = f"^{WHERE} has {len(other)} bytes, its manifest says {len(data)}; fetch it again"
    with pytest.raises(UserError, match=told):
        check_bytes(other, shard, WHERE)
    with pytest.raises(UserError, match=told):
        decode_shard(other, shard, IMAGE, WHERE)


def test_good_bytes_pass_the_check() -> None:
    data = tar_of(sample())
    check_bytes(data, describe(data), WHERE)
    assert decode(data).labels.tolist() == [0]


def special(name: str, kind: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize(
    "name",
    [
        "deep/00000000.png",
        "./00000000.png",
        "../00000000.png",
        "../../etc/cron.json",
        "/00000000.png",
        "/etc/passwd.json",
        "..",
        "..png",
        "00000000.pkl",
        "00000000.pyd",
        "00000000.pickle",
        "00000000.png.pkl",
        "00000000.pth",
        "00000000.npy",
        "00000000.PNG",
        "00000000",
        "00000000.",
        "__init__.py",
    ],
)
def test_a_member_of_another_name_is_refused(name: str) -> None:
    message = refusal(tar_of([*sample(), (name, PNG)]))
    assert f"member {name!r} is not a <key>.png, .cls or .json file" in message


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    # This one creates a file when unpickled.
    spy = tmp_path / "loaded"
    pickle = f"cos\nsystem\n(S'touch {spy}'\ntR.".encode()
    for kind in ("pkl", "pyd", "cls", "json", "png"):
        parts = [*sample(), (f"00000001.{kind}", pickle)]
        refusal(tar_of(parts), samples=2)
        parts = [(name, pickle if name.endswith(kind) else data) for name, data in sample()]
        if kind in ("cls", "json", "png"):
            refusal(tar_of(parts))
    assert not spy.exists()


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "00000000.png"),
        (tarfile.LNKTYPE, "00000000.png"),
        (tarfile.DIRTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
    ],
)
def test_a_member_that_is_no_file_is_refused(kind: bytes, link: str) -> None:
    parts = [*sample(), (special("00000001.png", kind, link), b"")]
    assert "member '00000001.png' is not a <key>.png" in refusal(tar_of(parts))


@pytest.mark.parametrize("size", [(1 << 24) + 1, 1 << 32])
def test_a_member_that_claims_a_giant_size_is_refused_unread(size: int) -> None:
    parts = [*sample(), (special("00000001.png", tarfile.REGTYPE, size=size), b"")]
    assert f"member '00000001.png' claims {size} bytes" in refusal(tar_of(parts))


def test_a_sparse_member_that_would_swell_is_refused() -> None:
    header = bytearray(special("00000000.png", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (1 << 32)  # its size once the holes are filled
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    message = refusal(bytes(header) + bytes(1024))
    assert "member '00000000.png' is not a <key>.png, .cls or .json file" in message


@pytest.mark.parametrize("kind", [tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_change_the_next_member_is_refused(kind: bytes) -> None:
    assert "is not a <key>.png" in refusal(tar_of([(special("x.png", kind), b""), *sample()]))


def test_a_member_in_a_folder_by_its_prefix_is_refused() -> None:
    header = bytearray(tar_of(sample())[:512])
    header[345:353] = b"../../up"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "member '../../up/00000000.png' is not a" in refusal(bytes(header) + bytes(1024))


@pytest.mark.parametrize("size", [b"-0000000001\0", b"0x000000010\0", b"\x80" + bytes(11)])
def test_a_size_that_is_none_is_refused(size: bytes) -> None:
    header = bytearray(tar_of(sample())[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "has no readable size" in refusal(bytes(header) + bytes(4096))


def test_a_member_that_is_cut_off_is_named() -> None:
    assert "member '00000000.png' is truncated" in refusal(tar_of(sample())[:1024])


def test_the_largest_honest_images_are_read() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 600, 800), dtype=np.uint8)
    data = tar_of(sample(png=encode_png(image)))
    block = decode_shard(data, describe(data), ImageInfo(channels=3, height=600, width=800), WHERE)
    np.testing.assert_array_equal(block.images[0], image)


@pytest.mark.parametrize(("present", "claimed"), [(2, 1), (1, 2), (3, 2)])
def test_another_number_of_samples_is_told(present: int, claimed: int) -> None:
    data = tar_of(part for index in range(present) for part in sample(f"{index:08d}"))
    told = f"{present} samples, the manifest says {claimed}"
    assert told in refusal(data, claimed)


@pytest.mark.parametrize("missing", ["png", "cls", "json"])
def test_a_sample_without_a_member_is_named(missing: str) -> None:
    parts = [part for part in sample("00000007") if not part[0].endswith(missing)]
    assert "sample 00000007 has the members" in refusal(tar_of(parts))


@pytest.mark.parametrize("again", ["png", "cls", "json"])
def test_a_member_that_is_there_twice_is_refused(again: str) -> None:
    parts = sample("00000007")
    double = [part for part in parts if part[0].endswith(again)]
    assert f"'00000007.{again}' appears twice" in refusal(tar_of([*parts, *double]))


def test_other_class_counts_are_told() -> None:
    data = tar_of([*sample("00000000", cls=b"2"), *sample("00000001", cls=b"5")])
    assert decode(data, 2, [0, 0, 1, 0, 0, 1, 0]).labels.tolist() == [2, 5]
    message = refusal(data, 2, [0, 0, 2, 0, 0, 0, 0])
    assert "class counts [0, 0, 1, 0, 0, 1, 0], its manifest says [0, 0, 2, 0, 0, 0, 0]" in message


@pytest.mark.parametrize(
    "text", [b"x", b"", b"1.5", b"0x1", b"\xff", b"7", b"-1", b"9" * 12, b"9" * 30, b"9" * 5000]
)
def test_a_label_that_is_none_is_refused(text: bytes) -> None:
    refusal(tar_of(sample(cls=text)))


@pytest.mark.parametrize(
    "facts",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"blank": true}',
        b'{"leak": true}',
        b'{"blank": false, "leak": false, "copies": "2"}',
        b'{"blank": false, "leak": false, "copies": null}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_facts_that_are_none_are_refused(facts: bytes) -> None:
    refusal(tar_of(sample(facts=facts)))


def picture(mode: str, size: tuple[int, int] = (48, 48), form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGB", "RGBA", "I;16"])
def test_an_image_of_another_mode_is_refused(mode: str) -> None:
    assert f"an image is {mode} of 48x48, but must be L of 48x48" in refusal(
        tar_of(sample(png=picture(mode)))
    )


@pytest.mark.parametrize("size", [(47, 48), (48, 49), (24, 96), (1, 1), (480, 480)])
def test_an_image_of_another_size_is_refused(size: tuple[int, int]) -> None:
    assert f"an image is L of {size[0]}x{size[1]}, but must be L of 48x48" in refusal(
        tar_of(sample(png=picture("L", size)))
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P"])
def test_where_colour_is_needed_other_modes_are_refused(mode: str) -> None:
    image = ImageInfo(channels=3, height=48, width=48)
    assert decode_png(picture("RGB"), image).shape == (3, 48, 48)
    with pytest.raises(ValueError, match="an image is "):
        decode_png(picture(mode), image)


@pytest.mark.parametrize("form", ["JPEG", "BMP", "GIF", "TIFF", "PPM"])
def test_an_image_of_another_format_is_refused(form: str) -> None:
    refusal(tar_of(sample(png=picture("L", form=form))))


# Pillow itself warns about the second one and refuses the others.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 10_000), (10_000, 10_000), (65_535, 65_535)]
)
def test_a_decompression_bomb_is_refused(width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99)))
    refusal(tar_of(sample(png=bomb + chunk(b"IEND", b""))))


@pytest.mark.parametrize("length", [0, 1, 8, 20, 40, 45, 60, len(PNG) // 2, len(PNG) - 99])
def test_a_truncated_image_is_refused(length: int) -> None:
    refusal(tar_of(sample(png=PNG[:length])))


def test_a_damaged_image_is_refused_or_has_its_shape() -> None:
    chance = random.Random(3)
    refused = 0
    for turn in range(400):
        damaged = bytearray(PNG)
        damaged[chance.randrange(60) if turn % 2 else chance.randrange(len(PNG))] ^= (
            1 << chance.randrange(8)
        )
        try:
            assert decode(tar_of(sample(png=bytes(damaged)))).images.shape == (1, 1, 48, 48)
        except UserError as error:
            assert str(error).startswith(WHERE)
            refused += 1
    assert refused > 200


def test_a_damaged_header_is_refused_or_changes_nothing() -> None:
    # The checksum is fixed after the damage; otherwise tarfile itself would reject it.
    good, chance = tar_of(sample()), random.Random(4)
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        starts = [member.offset for member in tar]
    refused = 0
    for _ in range(400):
        damaged = bytearray(good)
        start = chance.choice(starts)
        field = chance.choice([0, 100, 124, 156, 257, 345])
        damaged[start + field + chance.randrange(8)] = chance.randrange(256)
        header = damaged[start : start + 512]
        header[148:156] = b" " * 8
        damaged[start + 148 : start + 156] = b"%06o\0 " % sum(header)
        try:
            assert decode(bytes(damaged)).labels.tolist() == [0]
        except UserError as error:
            assert str(error).startswith(WHERE)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("data", [b"\0", b"not a tar", bytes(10240), PNG])
def test_what_is_no_tar_is_refused(data: bytes) -> None:
    refusal(data)


def test_a_compressed_tar_is_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("00000000.png")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    refusal(stream.getvalue())


def pillow_png(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    stream = io.BytesIO()
    plain = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(plain).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 48, 48), (3, 1, 1), (3, 7, 5), (3, 48, 48)])
def test_pixels_are_the_same_whoever_wrote_and_whoever_reads_them(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = ImageInfo.model_validate(dict(zip(("channels", "height", "width"), shape, strict=True)))
    own = encode_pngs(pixels[None])[0]
    for data in (own, pillow_png(pixels), pillow_png(pixels, optimize=True)):
        np.testing.assert_array_equal(decode_png(data, image), pixels)
        np.testing.assert_array_equal(decode_png(memoryview(data), image), pixels)
    # Our own PNGs are read without Pillow.
    monkeypatch.setattr("pattlite_dist.shards.png._decode_any", lambda *_: None)
    np.testing.assert_array_equal(decode_png(own, image), pixels)


def test_a_png_of_ours_with_any_byte_changed_is_refused_or_gives_what_pillow_gives() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 6, 4), dtype=np.uint8)
    image = ImageInfo(channels=1, height=6, width=4)
    own = encode_pngs(pixels[None])[0]
    for place in range(len(own)):
        data = bytearray(own)
        data[place] ^= 1
        try:
            found = decode_png(bytes(data), image)
        except ValueError:
            continue
        with Image.open(io.BytesIO(data)) as picture:
            np.testing.assert_array_equal(found[0], np.asarray(picture))
    for length in range(len(own)):  # Pillow does not notice a missing end of file
        with contextlib.suppress(ValueError):
            np.testing.assert_array_equal(decode_png(own[:length], image), pixels)


def test_a_png_that_unpacks_to_more_than_its_pixels_is_not_unpacked_to_its_end() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    own = encode_pngs(np.zeros((1, 1, 6, 4), np.uint8))[0]
    bomb = zlib.compress(b"\2" + bytes(1 << 26), 9)
    data = own[:33] + chunk(b"IDAT", bomb) + own[-12:]
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        decode_png(data, ImageInfo(channels=1, height=6, width=4))
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def written_again(data: bytes, how: str, tmp_path: Path) -> bytes:
    """The members of a shard in a tar by another program."""
    out, members = tmp_path / "again.tar", members_of(data)
    if how == "ShardWriter":
        samples: dict[str, dict[str, Any]] = {}
        for name, content in members:
            key, _, suffix = name.partition(".")
            samples.setdefault(key, {"__key__": key})[suffix] = content
        with webdataset.TarWriter(str(out)) as sink:
            for sample in samples.values():
                sink.write(sample)
        return out.read_bytes()
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, content in members:
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(1_700_000_000_123_456_789,) * 2)
    names = [name for name, _ in members]
    if how == "tarfile.add":
        with tarfile.open(out, "w") as tar:
            for name in names:
                tar.add(folder / name, name)
    else:
        subprocess.run(["tar", *how.split(), "-cf", out, *names], cwd=folder, check=True)
    return out.read_bytes()


@pytest.mark.parametrize(
    "how", ["ShardWriter", "tarfile.add", "--format=posix", "--format=pax --pax-option=comment=x"]
)
def test_headers_of_exact_times_are_passed_over(
    tiny_shards: Path, tmp_path: Path, how: str
) -> None:
    data = (tiny_shards / "val-000000.tar").read_bytes()
    again = written_again(data, how, tmp_path)
    assert again != data
    ours, theirs = read_members(data), read_members(again)
    assert theirs == ours


def pax(content: bytes, kind: bytes = b"x") -> bytes:
    """A tar whose first member is a PAX header, before a PNG."""
    header = tarfile.TarInfo("PaxHeader")
    header.size, header.type = len(content), kind
    first = header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
    return first + tar_of([("00000000.png", b"png")])


@pytest.mark.parametrize("kind", [b"x", b"g"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"11 path=abc\n", "sets 'path'; write plain headers, such as with tar --format=ustar"),
        (b"11 mtime=1\n12 size=999\n", "sets 'size'"),
        (b"22 GNU.sparse.major=1\n", "sets 'GNU.sparse.major'"),
        (b"99 mtime=1\n", "a PAX header is damaged"),
        (b"0 mtime=1\n", "a PAX header is damaged"),
        (b"mtime", "a PAX header is damaged"),
        (b"999999999999999999 mtime=1\n", "a PAX header is damaged"),
    ],
)
def test_headers_that_would_change_what_is_read_are_refused(
    kind: bytes, content: bytes, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        read_members(pax(content, kind))
    assert list(read_members(pax(b"11 mtime=1\n", kind))) == ["00000000"]
