import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pattlite_dist.errors import UserError
from pattlite_dist.slurm import pin as pinning
from pattlite_dist.slurm.pin import (
    copy_code,
    git_state,
    link_pinned,
    package_digest,
    pin,
    versions,
    warn_if_changed,
)
from pattlite_dist.slurm.profile import Profile, load_profile

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package, in the place of ours."""
    folder = tmp_path / "site" / "pattlite_dist"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "a.py").write_text("A = 1\n")
    (folder / "py.typed").write_text("")
    monkeypatch.setattr(pinning, "PACKAGE", folder)
    # Their default is bound to the real one.
    monkeypatch.setattr(package_digest, "__defaults__", (folder,))
    monkeypatch.setattr(git_state, "__defaults__", (folder,))
    return folder


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=no")
    done = subprocess.run(
        ["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(package: Path) -> str:
    """A git repository with the package in it; returns its commit."""
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    return git(package.parent, "rev-parse", "HEAD")


def test_the_digest_tells_content_and_names_and_nothing_else(package: Path) -> None:
    before = package_digest()
    assert len(before) == 64
    os.utime(package / "inner" / "a.py", (1, 1))
    (package / "inner" / "a.py").chmod(0o755)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (package / "notes.txt").write_text("x")
    (package / "inner" / ".#a.py").symlink_to("ada@host.123")  # an editor's lock
    assert package_digest() == before
    moved = package.with_name("elsewhere")
    shutil.copytree(package, moved, symlinks=True)
    assert package_digest(moved) == before


@pytest.mark.parametrize("change", ["content", "name", "folder", "new", "gone", "swapped"])
def test_the_digest_changes_with(package: Path, change: str) -> None:
    module = package / "inner" / "a.py"
    (package / "inner" / "b.py").write_text("B = 2\n")
    before = package_digest()
    if change == "content":
        module.write_text("A = 2\n")
    elif change == "name":
        module.rename(module.with_name("c.py"))
    elif change == "folder":
        module.rename(package / "a.py")
    elif change == "new":
        (package / "c.py").write_text("")
    elif change == "gone":
        module.unlink()
    else:
        module.write_text("B = 2\n")
        module.with_name("b.py").write_text("A = 1\n")
    assert package_digest() != before


def test_versions_are_as_pip_writes_them() -> None:
    found = versions()
    assert f"pytest=={pytest.__version__}" in found
    assert found == sorted(found, key=str.lower)
    assert len(set(found)) == len(found)


def test_a_clean_work_tree_has_a_commit_and_no_difference(package: Path, repository: str) -> None:
    assert git_state() == {"commit": repository, "diff": ""}


def test_what_was_changed_staged_and_not_yet_tracked_is_in_the_difference(
    package: Path, repository: str
) -> None:
    (package / "inner" / "a.py").write_text("A = 'ä'\n")
    (package / "__init__.py").unlink()
    (package / "new.py").write_text("NEW = 1\n")
    git(package, "add", "new.py")
    (package / "__init__.py").write_text("X = 1\n")
    (package / "inner" / "untracked one.py").write_text("U = 1\n")
    state = git_state()
    assert state["commit"] == repository
    diff = state["diff"]
    assert diff is not None
    clean = package.parent.with_name("clean")
    git(package.parent, "clone", "-q", ".", str(clean))
    applied = subprocess.run(["git", "apply"], cwd=clean, input=diff, text=True, check=False)
    assert applied.returncode == 0
    assert package_digest(clean / package.name) == package_digest()


def test_an_untracked_module_alone_is_a_change_and_ignored_or_other_files_are_none(
    package: Path, repository: str, tmp_path: Path
) -> None:
    (package.parent / ".git" / "info" / "exclude").write_text("ignored.py\n")
    (package / "ignored.py").write_text("I = 1\n")
    (package / "notes.txt").write_text("x")
    (package.parent / "scratch.py").write_text("S = 1\n")
    assert git_state()["diff"] == ""
    (package / "new.py").write_text("N = 1\n")
    assert "+N = 1" in (git_state()["diff"] or "")
    assert pin(tmp_path / "run", Profile(), snapshot=False)["changed"] is True


@pytest.mark.parametrize("setting", ["diff.noprefix", "diff.mnemonicPrefix", "color.ui=always"])
def test_a_users_git_settings_do_not_spoil_the_difference(
    package: Path, repository: str, setting: str
) -> None:
    name, _, value = setting.partition("=")
    git(package, "config", name, value or "true")
    git(package, "config", "diff.external", "false")
    (package / "inner" / "a.py").write_text("A = 2\n")
    diff = git_state()["diff"]
    assert diff is not None
    assert "--- a/pattlite_dist/inner/a.py" in diff.splitlines()


def test_code_that_git_does_not_track_has_no_commit(package: Path) -> None:
    nothing = {"commit": None, "diff": None}
    assert git_state() == nothing  # no repository
    git(package.parent, "init", "-q")
    assert git_state() == nothing  # as a virtual environment inside a repository
    (package.parent / "other").write_text("x")
    git(package.parent, "add", "other")
    git(package.parent, "commit", "-q", "-m", "other")
    assert git_state() == nothing


def test_a_repository_without_a_commit_has_none(package: Path) -> None:
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    assert git_state() == {"commit": None, "diff": None}


def test_without_git_there_is_no_commit(
    package: Path, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == {"commit": None, "diff": None}


def test_what_a_job_runs_is_written_down(
    package: Path, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pattlite", "submit", "--profile", "x"])
    profile = Profile(time="12:00:00", environment={"VERSION": "3.10"}, memory_gb=1.5)
    run = tmp_path / "runs" / "one"
    facts = pin(run, profile, snapshot=False)
    folder = run / "pinned"
    assert json.loads((folder / "facts.json").read_text()) == facts
    assert facts["commit"] == repository
    assert facts["changed"] is False
    assert facts["command"] == ["pattlite", "submit", "--profile", "x"]
    assert facts["package"] == package_digest()
    assert facts["code"] is None
    assert (folder / "diff.patch").read_text() == ""
    assert (folder / "requirements.txt").read_text().splitlines() == versions()
    assert load_profile(str(folder / "profile.yaml")) == profile
    assert sorted(path.name for path in run.iterdir()) == ["pinned"]

    (package / "inner" / "a.py").write_text("A = 2\n")
    facts = pin(run, profile, snapshot=True)
    assert facts["changed"] is True
    assert "+A = 2" in (folder / "diff.patch").read_text()
    assert facts["code"] == str(copy_code(run))


def test_code_without_git_is_pinned_too(package: Path, tmp_path: Path) -> None:
    facts = pin(tmp_path / "run", Profile(), snapshot=False)
    assert facts["commit"] is None
    assert facts["changed"] is False
    assert facts["package"] == package_digest()


def test_nothing_of_the_environment_is_pinned(
    package: Path, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    (package / "inner" / "a.py").write_text("A = 2\n")
    run = tmp_path / "run"
    hidden = {"WANDB_TOKEN": SECRET}
    pin(run, Profile(environment={"SHOWN": "1", **hidden}), snapshot=True)
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) >= 7
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert b"WANDB_API_KEY" not in path.read_bytes(), path
    assert yaml.safe_load((run / "pinned" / "profile.yaml").read_text())["environment"] == {
        "SHOWN": "1", "WANDB_TOKEN": "***",
    }  # fmt: skip


def test_a_run_folder_that_cannot_be_written_is_the_users_error(
    package: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for snapshot in (False, True):
        with pytest.raises(UserError, match=r"cannot (write|copy the code to) ") as caught:
            pin(tmp_path / "file", Profile(), snapshot)
        assert "\n" not in str(caught.value)


def test_the_copy_is_what_runs_and_its_name_tells_its_content(
    package: Path, tmp_path: Path
) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"x")
    (package / "inner" / ".#a.py").symlink_to("ada@host.123")
    run = tmp_path / "run"
    first = copy_code(run)
    assert first == run / f"code-{package_digest()[:12]}"
    assert package_digest(first / "pattlite_dist") == package_digest()
    kept = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert kept == {
        "pattlite_dist/__init__.py", "pattlite_dist/inner/a.py", "pattlite_dist/py.typed",
    }  # fmt: skip
    seen = (first / "pattlite_dist" / "inner" / "a.py").stat()
    assert copy_code(run) == first
    assert (first / "pattlite_dist" / "inner" / "a.py").stat() == seen, "not copied again"

    (package / "inner" / "a.py").write_text("A = 2\n")
    second = copy_code(run)
    assert second != first
    assert (first / "pattlite_dist" / "inner" / "a.py").read_text() == "A = 1\n"
    assert (second / "pattlite_dist" / "inner" / "a.py").read_text() == "A = 2\n"
    assert sorted(run.iterdir()) == sorted([first, second])


def test_a_copy_that_fails_is_not_taken_for_whole_and_the_next_is(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real, copied = tmp_path / "run", shutil.copy2, []

    def full(source: str, target: str, **options: bool) -> str:
        copied.append(source)
        if len(copied) > 1:
            raise OSError(28, "No space left on device")
        return str(real(source, target, **options))

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, full, False, False))
    with pytest.raises(UserError, match=r"cannot copy the code to .*No space left"):
        copy_code(run)
    assert copied
    assert not list(run.glob("code-*"))
    monkeypatch.undo()
    monkeypatch.setattr(pinning, "PACKAGE", package)
    monkeypatch.setattr(package_digest, "__defaults__", (package,))
    folder = copy_code(run)
    assert package_digest(folder / "pattlite_dist") == package_digest()
    assert list(run.iterdir()) == [folder], "the half copy is gone"


def test_the_copy_is_imported_instead_of_what_is_installed(tmp_path: Path) -> None:
    folder = copy_code(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import pattlite_dist.errors as e; print(e.__file__)"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(folder)


def test_runs_of_a_sweep_have_what_was_pinned_for_all(package: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    run = sweep / "lr-1e-4"
    run.mkdir(parents=True)
    facts = pin(sweep, Profile(), snapshot=False)
    link_pinned(sweep, run)
    link_pinned(sweep, run)
    assert json.loads((run / "pinned" / "facts.json").read_text()) == facts
    sweep.rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "lr-1e-4" / "pinned" / "facts.json").exists()


def test_changed_code_is_warned_of_and_nothing_else(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    warn_if_changed(run)  # nothing was pinned
    pin(run, Profile(), snapshot=False)
    warn_if_changed(run)
    os.utime(package / "inner" / "a.py", (1, 1))
    (package / "notes.txt").write_text("x")
    warn_if_changed(run)
    assert capsys.readouterr() == ("", "")
    (package / "inner" / "a.py").write_text("A = 2\n")
    warn_if_changed(run)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"pattlite: warning: {package} has changed since this job was submitted")
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "{}", '{"package": null}'])
def test_damaged_facts_warn_of_nothing_and_stop_nothing(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "pinned").mkdir()
    (tmp_path / "pinned" / "facts.json").write_text(content)
    warn_if_changed(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_a_job_that_runs_the_copy_is_not_warned_when_the_original_changes(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    facts = pin(tmp_path / "run", Profile(), snapshot=True)
    (package / "inner" / "a.py").write_text("A = 2\n")
    monkeypatch.setattr(package_digest, "__defaults__", (Path(facts["code"]) / "pattlite_dist",))
    warn_if_changed(tmp_path / "run")
    assert capsys.readouterr() == ("", "")
