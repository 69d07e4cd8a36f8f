#!/usr/bin/env bash
# Linux's own initiator against the target: a user-mode kernel logs in with CHAP, makes an ext4, writes,
# trims, verifies with fio, and takes a snapshot by sg_raw between two writes. What it did is then looked
# at through the mount.
#
#   contrib/iscsi/kernel-initiator.sh [SNAPMARK]
#
# As root, with /dev/net/tun. Debian: user-mode-linux open-iscsi sg3-utils fio e2fsprogs iproute2 kmod
set -euo pipefail

snapmark=$(realpath "${1:-$(command -v snapmark || echo target/release/snapmark)}")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
for tool in linux.uml iscsistart sg_raw fio mkfs.ext4 ip modprobe; do
  PATH=$PATH:/sbin:/usr/sbin command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 1; }
done

scratch=$(mktemp -d)
tap=snapmark$$
uml=
cleanup() {
  [[ -z $uml ]] || kill "$uml" 2>/dev/null || true
  mountpoint -q "$scratch/old" && umount "$scratch/old"
  mountpoint -q "$scratch/mnt" && "$snapmark" unmount "$scratch/mnt"
  ip link delete "$tap" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT

ip tuntap add "$tap" mode tap
ip address add 10.213.77.1/24 dev "$tap"
ip link set "$tap" up

mkdir "$scratch/mnt" "$scratch/old"
"$snapmark" init "$scratch/store" --size 4GiB
install -m 600 /dev/null "$scratch/store/secrets"
cat >"$scratch/store/secrets" <<'SECRETS'
initiators: [{user: kernel, secret: correct horse battery, initiator: "iqn.2026-11.test:*"}]
SECRETS
sed -i 's/^  #secrets:.*/  secrets: secrets/; s/^  #name:.*/  name: lab/' "$scratch/store/store.yaml"
"$snapmark" mount --iscsi 10.213.77.1 "$scratch/store" "$scratch/mnt"
truncate -s 512M "$scratch/mnt/disk.img"

# The host's own files, read-only, are the guest's root.
linux.uml mem=384M root=/dev/root rootfstype=hostfs rootflags=/ ro quiet \
  "vec0:transport=tap,ifname=$tap,depth=128,gro=1" con=null con0=null,fd:1 con1=fd:0,fd:1 \
  init="$here/kernel-initiator-guest.sh" >"$scratch/console" 2>&1 </dev/null &
uml=$!
for _ in $(seq 180); do
  kill -0 "$uml" 2>/dev/null || break
  sleep 1
done
kill -0 "$uml" 2>/dev/null && { cat "$scratch/console"; echo "the guest hangs" >&2; exit 1; }
uml=
grep -a '^guest: ' "$scratch/console" || true
grep -aq '^guest: done' "$scratch/console" || { cat "$scratch/console"; echo "the guest failed" >&2; exit 1; }

"$snapmark" list "$scratch/mnt"
# fio wrote 64 MiB, which were deleted and trimmed.
allocated=$(($(stat --format=%b "$scratch/mnt/disk.img") * 512))
((allocated < 48 << 20)) || { echo "trimming freed nothing: $allocated bytes are allocated" >&2; exit 1; }
mount -o ro,loop,noload "$scratch/mnt/disk.img@in-band" "$scratch/old"
[[ -e $scratch/old/before && ! -e $scratch/old/after ]]
cmp "$scratch/old/before" /usr/bin/fio
umount "$scratch/old"
e2fsck -fn "$scratch/mnt/disk.img"
echo "passed: the snapshot has what was written before its command, and nothing of what came after"
