from pathlib import Path

import pytest

from pattlite_dist.runtime import mounts
from pattlite_dist.runtime.mounts import kind_of, shared_kind

TABLE = r"""
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
31 22 0:45 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
32 22 0:46 / /scratch rw - lustre 10.0.0.1@o2ib:/work rw
33 32 0:47 / /scratch/local rw - xfs /dev/sdb1 rw
34 22 0:48 / /mnt/two\040words rw - fuse.sshfs login:/data rw
35 22 0:49 / /over rw - nfs a:/b rw
36 22 0:50 / /over rw - tmpfs tmpfs rw
cut off
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/tmp/cache", "ext4"),
        ("/home", "nfs4"),
        ("/home/a/cache", "nfs4"),
        ("/homes", "ext4"),
        ("/scratch/cache", "lustre"),
        ("/scratch/local/cache", "xfs"),
        ("/mnt/two words/x", "fuse.sshfs"),
        ("/over/x", "tmpfs"),
    ],
)
def test_a_folder_is_on_the_file_system_that_was_mounted_last_above_it(
    folder: str, kind: str
) -> None:
    assert kind_of(Path(folder), TABLE) == kind


def test_which_file_systems_machines_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table"
    monkeypatch.setattr(mounts, "_TABLE", table)
    assert shared_kind(tmp_path) is None, "not known"
    for kind in ("nfs", "nfs4", "lustre", "beegfs", "beegfs_nodev", "gpfs", "cifs", "smb3", "ceph",
                 "fuse.sshfs", "fuse.glusterfs", "fuse.ceph-fuse"):  # fmt: skip
        table.write_text(f"1 0 0:1 / / rw - {kind} a rw\n")
        assert shared_kind(tmp_path) == kind
    for kind in ("ext4", "xfs", "tmpfs", "overlay", "zfs", "btrfs", "fuseblk", "squashfs",
                 "fuse.fuse-overlayfs"):  # fmt: skip
        table.write_text(f"1 0 0:1 / / rw - {kind} a rw\n")
        assert shared_kind(tmp_path) is None
