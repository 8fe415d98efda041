#!/bin/busybox sh
# The first process of a test's guest: a shell for the test, behind a port that is called "shell".
set -u
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module || [ -n "$module" ]; do
    insmod "/modules/$module" 2>/dev/null || echo "cannot load $module"
done </modules.order
# A second is a long time for a neighbour that is there.
for family in ipv4 ipv6; do
    echo 100 >/proc/sys/net/$family/neigh/default/retrans_time_ms
done
echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits
ip link set lo up
# A port gets its name some time after it appears.
shell=''
while [ -z "$shell" ]; do
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name" 2>/dev/null)" = shell ] && shell=/dev/${port##*/}
    done
    [ -n "$shell" ] || sleep 0.1
done
# It can be opened once. What is written to it before is lost, so say when. It ends when whoever has
# started this machine is gone.
exec 3<>"$shell"
echo ready >&3
sh <&3 >&3 2>&1
poweroff -f
