"""Other loaders over the same images, as their own documentation shows them.

Does not import pattlite_dist, so that a peer can run in a separate environment:

    python benchmarks/peers.py NAME FOLDER {uint8,float} SECONDS

prints one line of JSON: images per second of the clock and of the CPU, and the growth of the
process's memory.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

BATCH, SIZE = 128, 96
MEAN = STD = (0.5, 0.5, 0.5)
WARM_UP = 10  # batches before the clock starts


def per_sample(kind: str) -> Callable[[Any], torch.Tensor]:
    """Torchvision's transforms: plain pixels, or flip, rotation, 96 px, normalised floats."""
    from torchvision.transforms import v2

    if kind == "uint8":
        return v2.Compose([v2.Grayscale(1), v2.PILToTensor()])
    return v2.Compose(
        [v2.Grayscale(3), v2.Resize((SIZE, SIZE)), v2.RandomHorizontalFlip(),
         v2.RandomRotation(10), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize(MEAN, STD)]
    )  # fmt: skip


def stock_webdataset(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """Webdataset as in its README: shuffle, decode, per-sample transforms, batched."""
    import webdataset

    urls = sorted(str(path) for path in folder.glob("train-*.tar"))
    transform = per_sample(kind)
    while True:
        data = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000).decode("pil")
        data = data.to_tuple("png", "cls").map_tuple(transform, lambda label: label)
        for images, _ in data.batched(BATCH, partial=False):
            yield images


def image_folder(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """Torchvision's ImageFolder in a DataLoader, one PNG file per sample."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    data = ImageFolder(str(folder), per_sample(kind))
    while True:
        for images, _ in DataLoader(data, BATCH, shuffle=True, drop_last=True):
            yield images


def mosaic(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """mosaicml-streaming over PNGs in its own format, which keeps them encoded."""
    from streaming import StreamingDataLoader, StreamingDataset

    transform = per_sample(kind)

    class Faces(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return transform(super().__getitem__(at)["image"])

    data = Faces(local=str(folder), shuffle=True, batch_size=BATCH)
    while True:
        yield from StreamingDataLoader(data, batch_size=BATCH, drop_last=True)


def write_mosaic(pictures: Path, folder: Path) -> None:
    """Convert a folder of PNGs by class into mosaicml-streaming's format."""
    from PIL import Image
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "png", "label": "int"}) as writer:
        for path in sorted(pictures.glob("*/*.png")):
            with Image.open(path) as picture:
                writer.write({"image": picture.copy(), "label": int(path.parent.name)})


def energon(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """Megatron-Energon on a copy that `order.py prepare` has prepared, shuffled as a whole."""
    from megatron.energon import (
        DefaultTaskEncoder,
        SampleDecoder,
        WorkerConfig,
        get_loader,
        get_train_dataset,
    )

    transform = per_sample(kind)

    class Faces(DefaultTaskEncoder):  # type: ignore[misc]
        decoder = SampleDecoder(image_decode="pil")

        def encode_sample(self, sample: Any) -> Any:
            sample.image = transform(sample.image)
            return sample

    data = get_train_dataset(
        folder, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=BATCH,
        shuffle_buffer_size=None, max_samples_per_sequence=1, task_encoder=Faces(),
    )  # fmt: skip
    return (batch.image for batch in get_loader(data))


def grain(folder: Path, kind: str) -> Iterator[torch.Tensor]:
    """Grain over offsets into the tars, shuffled as a whole, read by this thread."""
    from grain import MapDataset, ReadOptions
    from order import Tars
    from PIL import Image

    transform = per_sample(kind)
    data = MapDataset.source(Tars(folder)).seed(0).shuffle().repeat()
    data = data.map(lambda sample: transform(Image.open(sample[1])).numpy())
    batches = data.batch(BATCH, drop_remainder=True).to_iter_dataset(ReadOptions(num_threads=0))
    return (torch.from_numpy(batch) for batch in batches)


def memory() -> tuple[float, float]:
    """Resident MB of this process: its own pages, and those plus mapped shared ones."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    fields = {key: value.split()[0] for key, value in lines if value.split()}
    return int(fields["RssAnon"]) / 1e3, int(fields["VmRSS"]) / 1e3


def measure(batches: Iterable[torch.Tensor], seconds: float) -> dict[str, float]:
    """Images per second, also of CPU time, after a few batches; growth of memory until the end."""
    own, resident = memory()
    images, begin, used = 0, 0.0, 0.0
    for number, batch in enumerate(batches):
        if number < WARM_UP:
            begin, used = time.perf_counter(), time.process_time()
            continue
        images += len(batch)
        if time.perf_counter() - begin > seconds:
            break
    rate = images / (time.perf_counter() - begin)
    busy = images / (time.process_time() - used)
    own, resident = memory()[0] - own, memory()[1] - resident
    return {
        "images_per_second": rate, "images_per_cpu_second": busy,
        "own_mb": own, "resident_mb": resident,
    }  # fmt: skip


PEERS = {
    "webdataset": stock_webdataset, "imagefolder": image_folder, "mosaic": mosaic,
    "energon": energon, "grain": grain,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    name, where = sys.argv[1], Path(sys.argv[2])
    if name == "write-mosaic":
        write_mosaic(where, Path(sys.argv[3]))
        print("{}")
    else:
        print(json.dumps(measure(PEERS[name](where, sys.argv[3]), float(sys.argv[4]))))
