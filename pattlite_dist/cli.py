"""The command line: `pattlite VERB …`. Only the chosen verb's modules are imported."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist import __version__
from pattlite_dist.console import print_manifest, print_rows, show_progress
from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = f"""\
usage: pattlite VERB [options]

Facial-expression recognition with PAtt-Lite, trained on one GPU or many (version {__version__}).

  shards create SOURCE OUT   convert fer2013.csv (.xz, .gz, .zip) into WebDataset shards
  shards verify DIR          check every shard against the manifest
  shards stats DIR           tell how many samples there are, by split and class
  shards faces OUT           write generated faces in the form of fer2013.csv
  train -c CONFIG            train, or continue, a run (alone or under torchrun)
  evaluate RUN               score a run on val, test and the clean test

`pattlite VERB --help` tells the options of a verb.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for the user's mistake, 1 for bad shards."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"pattlite_dist {__version__}")
        return 0
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"pattlite: error: {_last_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pattlite: interrupted", file=sys.stderr)
        return 130


def _last_line(message: str) -> str:
    # A loader process hands its error over as the text of a traceback; the last line is ours.
    return message.strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _dispatch(arguments: list[str]) -> int:
    verb = " ".join(arguments[:2]) if arguments[0] == "shards" else arguments[0]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        raise UserError(f"{verb!r} is not a verb; known are {known} (see `pattlite --help`)")
    add_options, work = VERBS[verb]
    parser = _parser(verb)
    add_options(parser)
    options = _parse(parser, [_override(text) for text in arguments[len(verb.split()) :]])
    return work(options)


def _override(text: str) -> str:
    """`optim.lr=1e-3` means `--optim.lr=1e-3`, and `--print-config` is spelt as users would."""
    if text == "--print-config":
        return "--print_config"
    key, equals, _ = text.partition("=")
    return f"--{text}" if equals and key.replace(".", "").replace("_", "").isalnum() else text


def _parser(verb: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"pattlite {verb}", exit_on_error=False)


def _parse(parser: "ArgumentParser", arguments: list[str]) -> "Namespace":
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        # jsonargparse and pydantic spread a message over lines; the essence fits one.
        lines = [line.strip() for line in str(error).splitlines()]
        kept = [line for line in lines if not line.startswith(("For further", "1 validation"))]
        text = " ".join(kept).split(" For further")[0]
        raise UserError(f"{text}; see `{parser.prog} --help`") from error


def _create_options(parser: "ArgumentParser") -> None:
    parser.add_argument("source", type=Path, help="fer2013.csv, plain or .xz, .gz, .zip")
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--samples-per-shard", type=int, default=2048)
    parser.add_argument("--force", action="store_true", help="replace another set in OUT")


def _create(options: Any) -> int:
    from pattlite_dist.shards.sources import open_source
    from pattlite_dist.shards.writer import create_shards

    source = open_source(options.source)
    with show_progress() as progress:
        manifest = create_shards(
            source,
            options.out,
            samples_per_shard=options.samples_per_shard,
            force=options.force,
            progress=progress,
        )
    print_manifest(manifest)
    print(f"{options.out}: finished, manifest {manifest.fingerprint()[:12]}")
    return 0


def _folder_option(parser: "ArgumentParser") -> None:
    parser.add_argument("dir", type=Path, help="folder of shards")


def _verify(options: Any) -> int:
    from pattlite_dist.shards.verify import verify_shards

    with show_progress() as progress:
        manifest, problems = verify_shards(options.dir, progress)
    for problem in problems:
        print(f"pattlite: error: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(f"{options.dir}: {len(manifest.all_shards())} shards, all as the manifest says")
    return 0


def _stats(options: Any) -> int:
    from pattlite_dist.shards.manifest import load_manifest

    print_manifest(load_manifest(options.dir))
    return 0


def _faces_options(parser: "ArgumentParser") -> None:
    parser.add_argument("out", type=Path, help="CSV file to write")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--val", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)


def _faces(options: Any) -> int:
    from pattlite_dist.shards.faces import write_faces

    write_faces(options.out, options.train, options.val, options.test, options.seed)
    print(f"{options.out}: {options.train + options.val + options.test} generated faces")
    return 0


def _train_options(parser: "ArgumentParser") -> None:
    from pattlite_dist.config import Config

    parser.add_argument("-c", "--config", action="config", help="YAML file, from configs/")
    parser.add_class_arguments(Config)


def _train(options: Any) -> int:
    from pattlite_dist.config import parse_config

    tree = options.as_dict()
    tree.pop("config", None)
    config = parse_config(tree, "configuration")
    from pattlite_dist.report import draw_curves
    from pattlite_dist.train.run import train
    from pattlite_dist.world import detect

    run = train(config)
    if detect().main:
        picture = draw_curves(run)
        print(f"{run}: trained; curves in {picture}; now `pattlite evaluate {run}`")
    return 0


def _evaluate_options(parser: "ArgumentParser") -> None:
    parser.add_argument("target", type=Path, help="run folder, or one of its checkpoints")
    parser.add_argument("--shards", type=str, default=None, help="instead of the run's own")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def _evaluate(options: Any) -> int:
    from pattlite_dist.evaluate import evaluate
    from pattlite_dist.world import detect

    run, results = evaluate(options.target, options.shards, options.accelerator)
    if detect().main:
        rows = [["split", "samples", "top-1 %", "macro-F1 %", "nll"]]
        for name, r in results.items():
            scores = (f"{100 * r.top1:.2f}", f"{100 * r.macro_f1:.2f}", f"{r.nll:.4f}")
            rows.append([name, f"{r.samples:,}", *scores])
        print_rows(rows)
        print(f"{run / 'evaluation.json'}, {run / 'confusion.png'}")
    return 0


VERBS: dict[str, tuple[Callable[["ArgumentParser"], None], Callable[[Any], int]]] = {
    "shards create": (_create_options, _create),
    "shards verify": (_folder_option, _verify),
    "shards stats": (_folder_option, _stats),
    "shards faces": (_faces_options, _faces),
    "train": (_train_options, _train),
    "evaluate": (_evaluate_options, _evaluate),
}
