"""The command line: `pattlite VERB …`. Only the chosen verb's modules are imported."""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pattlite_dist import __version__
from pattlite_dist.commands.messages import essence, shortened
from pattlite_dist.commands.verbs import VERBS, overview
from pattlite_dist.compat.jsonargparse import actions, flags, type_of
from pattlite_dist.console import print_any_name
from pattlite_dist.errors import Unreachable, UserError
from pattlite_dist.logins import put_away
from pattlite_dist.renamed import rename_words, tell
from pattlite_dist.runtime import failure
from pattlite_dist.runtime.elastic import MISTAKE, first_to_tell, told_before
from pattlite_dist.runtime.home import provide_home, temporary_files
from pattlite_dist.runtime.limits import limit_threads
from pattlite_dist.runtime.signals import Stopped
from pattlite_dist.runtime.world import detect

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_HELP = ("-h", "--help")
HELP = f"""\
usage: pattlite VERB [options]

Facial-expression recognition with PAtt-Lite, trained on one GPU or many (version {__version__}).

{overview()}
`pattlite help VERB` shows what a verb is for, an example, and its options, and
`pattlite --version -v` the versions of everything that decides what a run does.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 for the user's mistake, 1 for bad shards.

    It is also 1 where another rank failed, or a file system does not answer.
    """
    print_any_name()
    try:
        arguments = [put_away(word) for word in (sys.argv[1:] if argv is None else argv)]
    except UserError as error:
        print(f"pattlite: error: {error}", file=sys.stderr)
        return MISTAKE
    if argv is None:
        sys.argv[1:] = arguments  # W&B and `pinned/facts.json` record them
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in _HELP:
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        return _tell_version(arguments[1:])
    if told_before():  # torchrun restarts its workers, whatever their exit status
        return MISTAKE
    limit_threads()
    provide_home()
    try:
        with temporary_files():
            status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        message = shortened(_last_line(str(error)))
        if first_to_tell(message):
            for line in error.details:
                print(f"pattlite: {shortened(line)}", file=sys.stderr)
            print(f"pattlite: error: {message}", file=sys.stderr)
        return MISTAKE
    except (failure.PeerFailed, failure.NoGroup, Unreachable) as error:
        failure.tell(str(error))
        return MISTAKE if getattr(error, "mistake", False) else 1  # an agent tries 1 again
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


def _tell_version(rest: list[str]) -> int:
    if rest[:1] in (["-v"], ["--verbose"]):
        from pattlite_dist.commands.versions import lines

        for line in lines():
            print(line)
    else:
        print(f"pattlite_dist {__version__}")
    return 0


def _last_line(message: str) -> str:
    # A loader process passes on its error as the text of a traceback; the last line is ours.
    return message.strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")


def _dispatch(arguments: list[str]) -> int:
    verb = " ".join(arguments[:2])
    if verb not in VERBS:
        verb = arguments[0]
    if verb not in VERBS:
        return _of_several(verb, arguments[1:])
    parser = parser_of(verb)
    options = _parse(parser, arguments[len(verb.split()) :])
    _bring_runs(parser, options)
    status: int = _verb(verb)[1](options)
    return status


def _of_several(first: str, rest: list[str]) -> int:
    """Help with the verbs that begin with a word.

    Raises:
        UserError: help is not what was asked for, or there are none.
    """
    from pattlite_dist.commands.messages import nearest

    verbs = [verb for verb in VERBS if verb.split()[0] == first]
    if verbs and rest and rest[0] in _HELP:
        print(f"usage: pattlite {first} VERB [options]\n\n{overview(first)}", end="")
        return 0
    given = " ".join([first, *(word for word in rest[:1] if verbs and not word.startswith("-"))])
    names = {name.replace(" ", "."): name for name in (*VERBS, "help", "--version")}
    near = [names[name] for name in nearest(given.replace(" ", "."), names)]
    meant = f"; did you mean {' or '.join(near)}?" if near and not verbs else ""
    known = ", ".join(verbs or VERBS)
    see = f"pattlite {first} --help" if verbs else "pattlite --help"
    raise UserError(f"{given!r} is not a verb{meant}; known are {known} (see `{see}`)")


def parse(verb: str, arguments: Sequence[str]) -> "Namespace":
    """The options of a verb.

    Raises:
        UserError: an argument is unknown, or a value out of range.
    """
    return _parse(parser_of(verb), list(arguments))


def parser_of(verb: str) -> "ArgumentParser":
    """The parser of a verb, which has its options and no others."""
    from pattlite_dist.commands.helptext import parser_with_help

    parser = parser_with_help(verb)
    _verb(verb)[0](parser)
    return parser


def _verb(verb: str) -> tuple[Callable[["ArgumentParser"], None], Callable[[Any], int]]:
    module, _, name = VERBS[verb].where.partition(":")
    options, work = (f"{name}_options", name) if name else ("add_options", "work")
    verbs = importlib.import_module(module)
    return getattr(verbs, options), getattr(verbs, work)


def _overrides(parser: "ArgumentParser", arguments: list[str]) -> list[str]:
    """`optim.lr=1e-3` means `--optim.lr=1e-3`, and `--print-config` means `--print_config`.

    But the name of a file may contain an equals sign too, as a checkpoint's does. So a word is left
    as it is if it follows an option that takes a value, or if it is no option of a verb that takes
    paths.
    """
    known = {flag for action in actions(parser) for flag in action.option_strings}
    takes_paths = any(not action.option_strings for action in actions(parser))
    words = []
    for text, value in zip(arguments, _values(parser, arguments), strict=True):
        key, equals, _ = text.partition("=")
        named = bool(equals) and not value and key.replace(".", "").replace("_", "").isalnum()
        if named and (f"--{key}" in known or not takes_paths):
            words.append(f"--{text}")
        else:
            words.append("--print_config" if text == "--print-config" else text)
    return words


def _values(parser: "ArgumentParser", arguments: list[str]) -> list[bool]:
    """Which words are the value of the option before them."""
    takes_one = {
        flag for action in actions(parser) if action.nargs is None for flag in action.option_strings
    }
    return [word in takes_one for word in ["", *arguments[:-1]]] if arguments else []


def _refuse_addresses(parser: "ArgumentParser", options: "Namespace") -> None:
    """Refuse an address for each option that takes only a path, before anything is created.

    Raises:
        UserError: there is one.
    """
    from pattlite_dist.location import refused

    for action in actions(parser):
        if type_of(action) is None or action.dest not in options:
            continue
        said = refused(options[action.dest], type_of(action))
        if said is not None:
            name = max(action.option_strings, key=len, default=action.dest)
            raise UserError(f"{name}: {said}; see `{parser.prog} --help`")


def _bring_runs(parser: "ArgumentParser", options: "Namespace") -> None:
    """Replace the addresses of runs in buckets by folders with their newest states.

    Raises:
        UserError: there is no such run, or it cannot be read.
    """
    from pattlite_dist.location import brought, is_bucket

    def local(place: Any, wanted: str) -> Any:
        if isinstance(place, list):
            return [local(one, wanted) for one in place]
        if isinstance(place, str) and is_bucket(place):
            from pattlite_dist.buckets.copies import here

            return str(here(place, checkpoints=wanted == "all"))
        return place

    for action in actions(parser):
        wanted = brought(type_of(action))
        if wanted and action.dest in options:
            options[action.dest] = local(options[action.dest], wanted)


def _parse(parser: "ArgumentParser", arguments: list[str]) -> "Namespace":
    from argparse import ArgumentError

    changes = []
    if any(action.dest == "profile" for action in actions(parser)):
        changes = [text for text in arguments if text.startswith("profile.") and "=" in text]
        arguments = [text for text in arguments if text not in changes]
    try:
        if any(action.dest == "words" for action in actions(parser)):
            # A sweep takes them unchanged; argparse requires them to be contiguous.
            words: list[str] = []
            rest: list[str] = []
            for text, value in zip(arguments, _values(parser, arguments), strict=True):
                named = "=" in text and not value and not text.startswith("-")
                (words if named else rest).append(text)
            arguments = rest + words
        else:
            arguments, sentences = rename_words(_overrides(parser, arguments))
            tell(sentences)
        options = parser.parse_args(arguments)
        _refuse_addresses(parser, options)
        options["profile_overrides"] = [text.removeprefix("profile.") for text in changes]
        return options
    except ArgumentError as error:
        text = essence(str(error), flags(parser))
        raise UserError(f"{text}; see `{parser.prog} --help`") from error
