#!/bin/bash
# What the user-mode kernel of kernel-initiator.sh runs as its init.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
say() { echo "guest: $*"; }
end() {
  say "$*"
  sync
  echo o >/proc/sysrq-trigger
  sleep 10
}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /tmp/lib/modules /tmp/mnt /run/lock
ln -s "/usr/lib/uml/modules/$(uname -r)" "/tmp/lib/modules/$(uname -r)"
for module in sd_mod sg iscsi_tcp crc32c_generic; do
  modprobe -d /tmp "$module" 2>/dev/null
done
ip link set lo up
ip address add 10.213.77.2/24 dev vec0 && ip link set vec0 up || { end "no network"; exit; }

iscsistart -i iqn.2026-11.test:kernel -t iqn.2026-11.io.snapmark:lab:disk.img -g 1 -a 10.213.77.1 -p 3260 \
  -u kernel -w 'correct horse battery' || { end "no login"; exit; }
for _ in $(seq 50); do [ -b /dev/sda ] && break; sleep 0.2; done
[ -b /dev/sda ] || { end "no disk"; exit; }
say "attached: $(cat /sys/block/sda/device/vendor /sys/block/sda/device/model | tr -s ' \n' ' '), discards up to $(cat /sys/block/sda/queue/discard_max_bytes) bytes"

mkfs.ext4 -q -E nodiscard /dev/sda && mount /dev/sda /tmp/mnt || { end "no file system"; exit; }
fio --name=verify --directory=/tmp/mnt --size=64m --rw=randwrite --bs=4k --ioengine=psync --direct=1 \
  --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/tmp/fio || { cat /tmp/fio; end "fio found a difference"; exit; }
say "fio: verified"
rm /tmp/mnt/verify*; sync
trimmed=$(fstrim -v /tmp/mnt) || { end "no trim"; exit; }
say "trimmed: $trimmed"

cp /usr/bin/fio /tmp/mnt/before
sync
printf in-band | sg_raw -s 7 /dev/sda c1 00 00 00 00 00 00 00 07 00 || { end "no snapshot"; exit; }
say "snapshot taken"
cp /usr/bin/fio /tmp/mnt/after
umount /tmp/mnt && blockdev --flushbufs /dev/sda
sg_sync /dev/sda
end "done"
