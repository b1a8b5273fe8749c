#!/bin/busybox sh
# First process of the test guest: mounts, network, then either a shell (dolmen.shell on the kernel's command
# line) or the agent that runs the scripts the host puts into the shared folder.
/bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /share /mnt /tmp /run /root
mount -t devpts pts /dev/pts
mount -t tmpfs run /run
ln -sf /proc/self/fd /dev/fd
for module in virtio_pci virtio_net 9pnet_virtio 9p; do modprobe $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none share /share
ip link set lo up
ip link set eth0 up
ip address add 192.0.2.15/24 dev eth0
ip route add default via 192.0.2.2
hostname guest

if grep -q dolmen.shell /proc/cmdline; then
    echo "guest: the host's loopback is 192.0.2.2, the shared folder is /share, leave with 'poweroff -f'"
    setsid cttyhack sh
    poweroff -f
fi

# The agent. Line in: "run N": run /share/job/N.sh in a session of its own, output to /share/job/N.out;
# "kill N": kill that session. Line out: "ready", "done N STATUS".
stty raw -echo </dev/ttyS1
exec 3<>/dev/ttyS1
echo "ready" >&3
while read -r verb id <&3; do
    case "$verb" in
    run)
        (
            setsid sh -c "echo \$\$ >/run/$id.pid; exec sh /share/job/$id.sh" \
                </dev/null >"/share/job/$id.out" 2>&1 3>&-
            status=$?
            rm -f "/run/$id.pid"
            echo "done $id $status" >&3
        ) &
        ;;
    kill)
        read -r pid <"/run/$id.pid" && kill -9 -- "-$pid"
        ;;
    off) poweroff -f ;;
    esac
done
poweroff -f
