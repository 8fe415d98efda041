#!/bin/busybox sh
# The first process of the guest: finds the host's root, runs /command there, powers off.
set -u
b=/bin/busybox
die() {
    echo "init: $*" >/dev/console
    $b poweroff -f
}
for fs in proc:proc sysfs:sys devtmpfs:dev; do
    $b mount -t "${fs%:*}" "${fs%:*}" "/${fs#*:}" || die "no ${fs%:*}"
done
while read -r module || [ -n "$module" ]; do
    $b insmod "/modules/$module" || die "cannot load $module"
done </modules.order

nine=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "ro,cache=loose,$nine" root /host || die "cannot mount the host's root"
$b mount -t tmpfs over /over && $b mkdir /over/upper /over/work || die "no tmpfs"
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /newroot ||
    die "cannot put an overlay on the host's root"

for folder in dev proc sys; do $b mount --move /$folder /newroot/$folder; done
$b mount -t tmpfs -o mode=755 run /newroot/run
$b mkdir -p /newroot/dev/pts /newroot/dev/shm /newroot/run/netns /newroot/run/lock
$b mount -t devpts devpts /newroot/dev/pts
$b mount -t tmpfs shm /newroot/dev/shm
$b mount -t cgroup2 cgroup2 /newroot/sys/fs/cgroup
$b mount -t bpf -o mode=700 bpf /newroot/sys/fs/bpf
$b mount -t debugfs debugfs /newroot/sys/kernel/debug
$b mount -t tracefs tracefs /newroot/sys/kernel/tracing
$b ln -s /proc/self/fd /newroot/dev/fd
for name in 0:stdin 1:stdout 2:stderr; do
    $b ln -s "/proc/self/fd/${name%:*}" "/newroot/dev/${name#*:}"
done
modules=/lib/modules/$($b uname -r)
$b mkdir -p "/newroot$modules"
$b mount -o bind "/newroot$($b cat /modules.place)" "/newroot$modules" || die "cannot reach the modules"
if [ -e /share.place ]; then
    share=/newroot$($b cat /share.place)
    $b mkdir -p "$share"
    $b mount -t 9p -o "rw,$nine" share "$share" || die "cannot mount what is shared"
fi
$b hostname vm
$b ip link set lo up

# The ports get their names some time after they appear.
output='' errors='' status='' tries=0
while [ -z "$output" ] || [ -z "$errors" ] || [ -z "$status" ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || die "no ports to the host"
    [ $tries = 1 ] || $b sleep 0.1
    for port in /newroot/sys/class/virtio-ports/*; do
        case $($b cat "$port/name" 2>/newroot/dev/null) in
        output) output=/newroot/dev/${port##*/} ;;
        errors) errors=/newroot/dev/${port##*/} ;;
        status) status=/newroot/dev/${port##*/} ;;
        esac
    done
done
$b cp /command $b /newroot/run/
$b cat >/newroot/run/last <<'END'
/bin/sh /run/command </dev/null >&4 2>&5 3>&- 4>&- 5>&-
echo $? >&3
exec 3>&- 4>&- 5>&-
/run/busybox sync
/run/busybox poweroff -f
END
# The kernel looks for modprobe in this process's root, and lets only those who are not in a
# chroot make user namespaces: so the root itself changes.
exec 3>"$status" 4>"$output" 5>"$errors"
exec $b switch_root /newroot /run/busybox sh /run/last
