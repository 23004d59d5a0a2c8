"""The command line: `pattlite VERB …`. Only the chosen verb's modules are imported."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pattlite_dist import __version__
from pattlite_dist.commands.messages import essence, plain_types, shortened
from pattlite_dist.compat.jsonargparse import actions, formatter
from pattlite_dist.errors import UserError
from pattlite_dist.renamed import rename_words, tell
from pattlite_dist.runtime import failure
from pattlite_dist.runtime.elastic import MISTAKE, first_to_tell, told_before
from pattlite_dist.runtime.signals import Stopped
from pattlite_dist.runtime.world import detect

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

HELP = f"""\
usage: pattlite VERB [options]

Facial-expression recognition with PAtt-Lite, trained on one GPU or many (version {__version__}).

  shards create SOURCE OUT   convert a data set into WebDataset shards
  shards sources             list the kinds of source that can be read
  shards verify DIR          check every shard against the manifest; --repair rewrites bad ones
  shards stats DIR           print what is in a set and plot its class balance
  shards show DIR            draw a sheet of samples by class, flagged ones marked
  shards faces OUT           write generated faces in the format of fer2013.csv
  train -c CONFIG            train, or continue, a run (alone or under torchrun)
  evaluate RUN               score a run on val, test and the clean test
  calibrate RUN              fit a temperature on val, so that probabilities are honest
  predict MODEL SOURCE ...   find faces in pictures and videos, and name their expressions
  export RUN OUT             write a run as one file for use elsewhere: ONNX, safetensors, .pt2
  audit RUN                  show what a score depends on: batches, leaks, choice of epoch
  compare RUN ...            print mean and deviation of runs, and test two configurations
  model -c CONFIG            print parameters and multiply-adds of a network and its variants

On a SLURM cluster, described by a profile in launch/profiles:

  submit -c CONFIG --profile P      train as a job that continues after every stop
  submit evaluate RUN --profile P   score a run as a job
  submit shards SOURCE OUT ...      convert a source as a job
  sweep -c CONFIG KEY=V,V ...       submit a grid of runs as arrays of jobs
  doctor -c CONFIG --profile P      find problems with a job before submitting it
  status [RUN ...]                  show the state of runs
  cancel RUN|JOB ...                end jobs
  sync RUN ...                      upload what Weights & Biases kept offline

`pattlite VERB --help` lists the options of a verb.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for the user's mistake, 1 for bad shards.

    It is also 1 where another rank failed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"pattlite_dist {__version__}")
        return 0
    if told_before():  # torchrun restarts its workers, whatever their exit status
        return MISTAKE
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        message = shortened(_last_line(str(error)))
        if first_to_tell(message):
            print(f"pattlite: error: {message}", file=sys.stderr)
        return MISTAKE
    except (failure.PeerFailed, failure.NoGroup) as error:
        failure.tell(str(error))
        return 1
    except Stopped as stop:
        if detect().main:
            print(f"pattlite: {stop}; the same command continues", file=sys.stderr)
        return 128 + stop.signum
    except BrokenPipeError:  # as of `| head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("pattlite: interrupted", file=sys.stderr)
        return 130


def _last_line(message: str) -> str:
    # A loader process passes on its error as the text of a traceback; the last line is ours.
    return message.strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _dispatch(arguments: list[str]) -> int:
    verb = " ".join(arguments[:2])
    if verb not in VERBS and arguments[0] != "shards":
        verb = arguments[0]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        raise UserError(f"{verb!r} is not a verb; known are {known} (see `pattlite --help`)")
    options = parse(verb, arguments[len(verb.split()) :])
    status: int = _verb(verb)[1](options)
    return status


def parse(verb: str, arguments: Sequence[str]) -> "Namespace":
    """The options of a verb.

    Raises:
        UserError: an argument is unknown, or a value out of range.
    """
    return _parse(parser_of(verb), list(arguments))


def parser_of(verb: str) -> "ArgumentParser":
    """The parser of a verb, which has its options and no others."""
    parser = _parser(verb)
    _verb(verb)[0](parser)
    return parser


def _verb(verb: str) -> tuple[Callable[["ArgumentParser"], None], Callable[[Any], int]]:
    module, _, name = VERBS[verb].partition(":")
    options, work = (f"{name}_options", name) if name else ("add_options", "work")
    verbs = importlib.import_module(module)
    return getattr(verbs, options), getattr(verbs, work)


def _override(text: str) -> str:
    """`optim.lr=1e-3` means `--optim.lr=1e-3`, and `--print-config` means `--print_config`."""
    if text == "--print-config":
        return "--print_config"
    key, equals, _ = text.partition("=")
    return f"--{text}" if equals and key.replace(".", "").replace("_", "").isalnum() else text


def _parser(verb: str) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"pattlite {verb}", exit_on_error=False, formatter_class=formatter(plain_types)
    )


def _parse(parser: "ArgumentParser", arguments: list[str]) -> "Namespace":
    from argparse import ArgumentError

    dests = {action.dest for action in actions(parser)}
    changes = []
    if "profile" in dests:
        changes = [text for text in arguments if text.startswith("profile.") and "=" in text]
        arguments = [text for text in arguments if text not in changes]
    try:
        if "words" in dests:
            # A sweep takes them unchanged; argparse requires them to be contiguous.
            words = [text for text in arguments if "=" in text and not text.startswith("-")]
            arguments = [text for text in arguments if text not in words] + words
        elif "sources" not in dests:  # a file's name may contain an equals sign
            arguments, sentences = rename_words([_override(text) for text in arguments])
            tell(sentences)
        options = parser.parse_args(arguments)
        options["profile_overrides"] = [text.removeprefix("profile.") for text in changes]
        return options
    except ArgumentError as error:
        flags = {a.dest: a.option_strings[0] for a in actions(parser) if a.option_strings}
        text = essence(str(error), flags)
        raise UserError(f"{text}; see `{parser.prog} --help`") from error


# Where a verb's options and work are: a module's `NAME_options` and `NAME`, or its `add_options`
# and `work` if it has only one verb.
VERBS = {
    "shards create": "pattlite_dist.commands.shards:create",
    "shards verify": "pattlite_dist.commands.shard_checks:verify",
    "shards stats": "pattlite_dist.commands.shard_checks:stats",
    "shards show": "pattlite_dist.commands.shard_checks:show",
    "shards sources": "pattlite_dist.commands.shards:sources",
    "shards faces": "pattlite_dist.commands.shards:faces",
    "train": "pattlite_dist.commands.train",
    "evaluate": "pattlite_dist.commands.evaluate",
    "calibrate": "pattlite_dist.commands.calibrate",
    "predict": "pattlite_dist.commands.predict",
    "export": "pattlite_dist.commands.export",
    "audit": "pattlite_dist.commands.audit",
    "compare": "pattlite_dist.commands.compare",
    "model": "pattlite_dist.commands.model",
    "submit": "pattlite_dist.commands.submit:train",
    "submit evaluate": "pattlite_dist.commands.submit:evaluate",
    "submit shards": "pattlite_dist.commands.submit:shards",
    "sweep": "pattlite_dist.commands.sweep",
    "doctor": "pattlite_dist.commands.doctor",
    "status": "pattlite_dist.commands.status",
    "cancel": "pattlite_dist.commands.cancel",
    "sync": "pattlite_dist.commands.sync",
}
