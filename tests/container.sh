#!/usr/bin/env bash
# Build the Containerfile without a registry, and use the image as a stranger would: any user id
# without a home or an entry in passwd, a root that is only read, one folder to write into, 64 MB of
# shared memory. `make test-container`; needs root, mmdebstrap and buildah (Debian's).
#
# PIP_ARGS goes to the Containerfile. With PIP_ARGS=--no-deps, DEPS is a folder of the dependencies
# for this Debian's Python, instead of gigabytes of downloads. IMAGE: use this one, build none.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d /var/tmp/pattlite-container.XXXXXX)
b() { buildah --storage-driver vfs --root "$work/root" --runroot "$work/run" "$@"; }
trap 'b rm --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

echo "container: base"
base=${BASE_TAR:-$work/base.tar}
[ -e "$base" ] || mmdebstrap --quiet --variant=minbase \
  --include=python3,python3-venv,ca-certificates bookworm "$base"
c=$(b from scratch)
b add --quiet "$c" "$base" / >/dev/null
b commit --quiet --rm "$c" localhost/base >/dev/null

echo "container: image"
b bud --quiet --isolation chroot --network host --volume /etc/ssl/certs:/etc/ssl/certs:ro \
  --build-arg BASE=localhost/base ${PIP_ARGS+--build-arg PIP_ARGS="$PIP_ARGS"} \
  --tag pattlite --file Containerfile . >/dev/null
c=$(b from localhost/pattlite)
root=$(b mount "$c")
mkdir -p "$root/work" "$root/deps" "$work/folder"
chmod 777 "$work/folder"
[ -z "${DEPS:-}" ] || echo /deps >"$(echo "$root"/opt/pattlite/lib/python3*/site-packages)/deps.pth"

# What a container engine sets up, by hand: buildah itself keeps the root writable.
inside() {
  unshare --mount --pid --fork --ipc --uts sh -ec '
    root=$1 folder=$2 deps=$3; shift 3
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount --bind "$folder" "$root/work"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o size=64m,mode=1777 shm "$root/dev/shm"
    mount -t proc proc "$root/proc"
    [ -z "$deps" ] || mount --bind "$deps" "$root/deps"
    exec env -i PATH=/opt/pattlite/bin:/usr/sbin:/usr/bin:/bin TMPDIR=/work \
      chroot --userspec=4711:4711 "$root" sh -c "cd /work && exec \"\$@\"" sh "$@"
  ' sh "$root" "$work/folder" "${DEPS:-}" "$@"
}
run() {
  echo "container: pattlite $*"
  inside pattlite "$@"
}
run --version
run shards faces faces.csv --train=104 --val=40 --test=40
run shards create faces.csv shards
run train -c demo --name one --data.shards=shards --data.image_size=48 --data.workers=1 \
  --trainer.epochs=1 --trainer.global_batch=8 --wandb.mode=offline
run evaluate runs/one
run predict pretrained runs/one/mistakes.png --faces whole
if inside touch /etc/written 2>/dev/null; then echo "container: the root can be written" >&2; exit 1; fi
echo "container: all right"
