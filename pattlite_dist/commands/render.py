"""`pattlite render …`: manifests for other systems than SLURM, from a profile."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pattlite_dist.commands.options import chosen_config, config_options, profile_option

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from pattlite_dist.render.work import Work


def _options(parser: "ArgumentParser") -> None:
    config_options(parser)
    profile_option(parser)
    parser.add_argument("--image", required=True, help="container image that has this package")


def kubernetes_options(parser: "ArgumentParser") -> None:
    """Options of `render kubernetes`."""
    _options(parser)
    parser.add_argument(
        "--kind",
        choices=["job", "trainjob"],
        default="job",
        help="an indexed Job, or a TrainJob, for which Kubeflow Trainer 2 must be installed",
    )
    parser.add_argument(
        "--secret",
        default="pattlite",
        help="name of a Secret with WANDB_API_KEY and keys for buckets; it may be missing",
    )
    parser.add_argument(
        "--volume",
        help="name of a PersistentVolumeClaim to mount at the folder of runs; with several "
        "machines, one that all can write to (ReadWriteMany)",
    )


def kubernetes(options: Any) -> int:
    """Print manifests for `kubectl apply -f -`."""
    from pattlite_dist.render import kubeflow
    from pattlite_dist.render import kubernetes as target

    work = _work(options, "Kubernetes")
    access = target.Access(options.secret, options.volume)
    kinds = {"job": target.job, "trainjob": kubeflow.train_job}
    documents = kinds[options.kind](work, access)
    _print(work, "Kubernetes", documents, work.config.runs if options.volume else None)
    return 0


def skypilot_options(parser: "ArgumentParser") -> None:
    """Options of `render skypilot`."""
    _options(parser)
    parser.add_argument("--gpu", help="SkyPilot's name of the GPUs, such as A100")
    parser.add_argument(
        "--spot",
        type=bool,
        default=True,
        help="whether to take machines that may be preempted, for a third of the price, and set "
        "trainer.spot_notice=auto",
    )


def skypilot(options: Any) -> int:
    """Print a task for `sky jobs launch`."""
    from pattlite_dist.render.skypilot import task

    work = _work(options, "SkyPilot")
    _print(work, "SkyPilot", [task(work, options.gpu, options.spot)])
    return 0


def _work(options: Any, target: str) -> "Work":
    from pattlite_dist.location import with_absolute_paths
    from pattlite_dist.render.work import Work, check
    from pattlite_dist.slurm.profile import load_profile

    profile = load_profile(options.profile, options.profile_overrides)
    work = Work(with_absolute_paths(chosen_config(options)), profile, options.image)
    check(work, target)
    return work


def _print(
    work: "Work", target: str, documents: Sequence[dict[str, Any]], mounted: str | None = None
) -> None:
    import yaml

    from pattlite_dist.render.work import remarks

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as such, and nothing as a reference to elsewhere."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    for remark in remarks(work, target, mounted):
        print(f"pattlite: {remark}", file=sys.stderr)
    print(yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, width=100), end="")
