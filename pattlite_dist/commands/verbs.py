"""The verbs of the command line: where each is, what it takes, what it is for, and an example."""

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb.

    Attributes:
        where: a module's `NAME_options` and `NAME`, as `module:NAME`, or its `add_options` and
            `work` if it has only one verb.
        takes: the most important arguments.
        purpose: in a few words.
        example: without `pattlite`.
        cluster: whether it is for SLURM clusters.
    """

    where: str
    takes: str
    purpose: str
    example: str
    cluster: bool = False


_COMMANDS = "pattlite_dist.commands"
VERBS = {
    "shards create": Verb(
        f"{_COMMANDS}.shards:create",
        "SOURCE OUT",
        "convert a data set into WebDataset shards",
        "shards create fer2013.csv shards/fer2013",
    ),
    "shards sources": Verb(
        f"{_COMMANDS}.shards:sources",
        "",
        "list the kinds of source that can be read",
        "shards sources",
    ),
    "shards verify": Verb(
        f"{_COMMANDS}.shard_checks:verify",
        "DIR",
        "check every shard against the manifest; --repair rewrites bad ones",
        "shards verify shards/fer2013 --repair fer2013.csv",
    ),
    "shards stats": Verb(
        f"{_COMMANDS}.shard_checks:stats",
        "DIR",
        "print what is in a set and plot its class balance",
        "shards stats shards/fer2013",
    ),
    "shards show": Verb(
        f"{_COMMANDS}.shard_checks:show",
        "DIR",
        "draw a sheet of samples by class, flagged ones marked",
        "shards show shards/fer2013 --split val --flagged",
    ),
    "shards faces": Verb(
        f"{_COMMANDS}.shards:faces",
        "OUT",
        "write generated faces in the format of fer2013.csv",
        "shards faces faces.csv --train 2000",
    ),
    "configs": Verb(
        f"{_COMMANDS}.shipped:configs", "", "list the installed configurations", "configs"
    ),
    "configs copy": Verb(
        f"{_COMMANDS}.shipped:copy_config",
        "NAME",
        "copy a configuration, to edit it",
        "configs copy fer2013 mine.yaml",
    ),
    "train": Verb(
        f"{_COMMANDS}.train",
        "-c CONFIG",
        "train, or continue, a run (alone or under torchrun)",
        "train -c fer2013 --model.weights imagenet optim.lr=5e-4",
    ),
    "evaluate": Verb(
        f"{_COMMANDS}.evaluate",
        "RUN",
        "score a run on val, test and the clean test",
        "evaluate runs/fer2013 --views one,flip",
    ),
    "calibrate": Verb(
        f"{_COMMANDS}.calibrate",
        "RUN",
        "fit a temperature on val, so that probabilities are honest",
        "calibrate runs/fer2013",
    ),
    "predict": Verb(
        f"{_COMMANDS}.predict",
        "MODEL SOURCE ...",
        "find faces in pictures and videos, and name their expressions",
        "predict runs/fer2013 photo.jpg album --draw drawn",
    ),
    "export": Verb(
        f"{_COMMANDS}.export",
        "RUN OUT",
        "write a run as one file: ONNX, safetensors, .pt2",
        "export runs/fer2013 faces.onnx",
    ),
    "audit": Verb(
        f"{_COMMANDS}.audit",
        "RUN",
        "show what a score depends on: batches, leaks, choice of epoch",
        "audit runs/fer2013",
    ),
    "targets": Verb(
        f"{_COMMANDS}.targets",
        "RUN ... OUT",
        "write soft targets for training: what runs predict for train",
        "targets runs/a-0 runs/a-1 soft.safetensors",
    ),
    "compare": Verb(
        f"{_COMMANDS}.compare",
        "RUN ...",
        "print mean and deviation of runs, and test two configurations",
        "compare runs/a-0 runs/a-1 --against runs/b-0 runs/b-1",
    ),
    "report": Verb(
        f"{_COMMANDS}.report",
        "RUN ...",
        "write one page about runs: curves, scores, restarts, settings",
        "report runs/fer2013 -o fer2013.html",
    ),
    "replay": Verb(
        f"{_COMMANDS}.replay",
        "RUN --step N",
        "draw the samples that a step saw, as it saw them",
        "replay runs/fer2013 --step 1200",
    ),
    "runs copy": Verb(
        f"{_COMMANDS}.runs:copy",
        "SOURCE TARGET",
        "copy a run from a folder to a bucket, or back",
        "runs copy runs/fer2013 s3://bucket/runs/fer2013",
    ),
    "model": Verb(
        f"{_COMMANDS}.model",
        "-c CONFIG",
        "print parameters and multiply-adds of a network and its variants",
        "model -c fer2013",
    ),
    "doctor": Verb(
        f"{_COMMANDS}.doctor",
        "[-c CONFIG]",
        "find what would stop a run here, or with --profile a job",
        "doctor -c fer2013 --profile one-gpu",
    ),
    "render kubernetes": Verb(
        f"{_COMMANDS}.render:kubernetes",
        "-c CONFIG --profile P --image I",
        "print manifests for Kubernetes, or Kubeflow's TrainJob",
        "render kubernetes -c fer2013 --profile one-gpu --image IMAGE --runs s3://bucket/runs",
    ),
    "render skypilot": Verb(
        f"{_COMMANDS}.render:skypilot",
        "-c CONFIG --profile P --image I",
        "print a task for SkyPilot, which finds spot machines",
        "render skypilot -c fer2013 --profile one-gpu --gpu A100 --image IMAGE --runs s3://bucket/runs",
    ),
    "submit": Verb(
        f"{_COMMANDS}.submit:train",
        "-c CONFIG --profile P",
        "train as a job that continues after every stop",
        "submit -c fer2013 --profile one-gpu --evaluate",
        cluster=True,
    ),
    "submit evaluate": Verb(
        f"{_COMMANDS}.submit:evaluate",
        "RUN --profile P",
        "score a run as a job",
        "submit evaluate runs/fer2013 --profile one-gpu",
        cluster=True,
    ),
    "submit shards": Verb(
        f"{_COMMANDS}.submit:shards",
        "SOURCE OUT --profile P",
        "convert a source as a job",
        "submit shards fer2013.csv shards/fer2013 --profile one-gpu",
        cluster=True,
    ),
    "profiles": Verb(
        f"{_COMMANDS}.shipped:profiles",
        "",
        "list the installed profiles",
        "profiles",
        cluster=True,
    ),
    "profiles copy": Verb(
        f"{_COMMANDS}.shipped:copy_profile",
        "NAME",
        "copy a profile, to edit it",
        "profiles copy one-gpu mine.yaml",
        cluster=True,
    ),
    "sweep": Verb(
        f"{_COMMANDS}.sweep",
        "-c CONFIG KEY=V,V ...",
        "submit a grid of runs as arrays of jobs",
        "sweep -c fer2013 --profile one-gpu --name lr optim.lr=1e-3,3e-4 seed=0,1,2",
        cluster=True,
    ),
    "status": Verb(
        f"{_COMMANDS}.status",
        "[RUN ...]",
        "show the state of runs",
        "status runs/lr",
        cluster=True,
    ),
    "nodes": Verb(
        f"{_COMMANDS}.nodes",
        "[RUN ...]",
        "tell what runs have seen of each node: starts, crashes, failed probes",
        "nodes --runs runs",
        cluster=True,
    ),
    "cancel": Verb(
        f"{_COMMANDS}.cancel",
        "RUN|JOB ...",
        "end jobs",
        "cancel runs/lr",
        cluster=True,
    ),
    "sync": Verb(
        f"{_COMMANDS}.sync",
        "RUN ...",
        "upload what Weights & Biases kept offline",
        "sync runs/fer2013 --dry-run",
        cluster=True,
    ),
}


def overview(first: str = "") -> str:
    """A line for each verb, or for those that begin with a word, in parts for each place."""
    chosen = {name: verb for name, verb in VERBS.items() if not first or name.split()[0] == first}
    text = ""
    for cluster in (False, True):
        lines = [
            (f"  {name} {verb.takes}".rstrip(), verb.purpose)
            for name, verb in chosen.items()
            if verb.cluster is cluster
        ]
        if cluster and lines and not first:
            text += "\nOn a SLURM cluster, described by a profile:\n\n"
        width = max((len(name) for name, _ in lines), default=0) + 3
        text += "".join(f"{name:{width}}{purpose}\n" for name, purpose in lines)
    return text


def introduction(name: str) -> str:
    """What a verb is for, and an example: the beginning of its help."""
    verb = VERBS[name]
    more = [f"`pattlite help {other}`" for other in VERBS if other.startswith(f"{name} ")]
    also = f"See also {', '.join(more)}.\n\n" if more else ""
    return f"{verb.purpose[0].upper()}{verb.purpose[1:]}.\n\n  pattlite {verb.example}\n\n{also}"


def usage(name: str) -> str:
    """How a verb is called."""
    return " ".join(filter(None, ["pattlite", name, VERBS[name].takes, "[options]"]))
