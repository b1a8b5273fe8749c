# Runs the kernel's NVMe/TCP host against the kernel's target over the guest's loopback, through every command
# either of them knows, while tcpdump writes /share/golden.pcap. Commands the target refuses are wanted too:
# the refusal is as golden as an answer. Only the set-up must succeed.

. /share/nvmet.sh

HOST=nqn.2014-08.org.nvmexpress:uuid:7ec5d3a8-1111-4222-8333-444455556666
HOST_ID=7ec5d3a8-1111-4222-8333-444455556666
OUT=/run/scratch

nvmet_up || exit 1
# Discovery asked on the data port works as well; 8009 is where hosts ask first.
nvmet_port 3 0.0.0.0 8009
tcpdump -i lo -s 0 -B 16384 -U -Z root -w /share/golden.pcap 'tcp port 4420 or tcp port 4421 or tcp port 8009' \
    2>/share/tcpdump.log &
TCPDUMP=$!
wait_for 10 grep -q listening /share/tcpdump.log || exit 1

# disk_of_nsid NSID: the kernel numbers its devices in the order in which its scan threads finish.
disk_of_nsid() {
    for disk in /sys/block/nvme0n*; do
        [ "$(cat $disk/nsid 2>/dev/null)" = $1 ] && [ -b /dev/${disk##*/} ] && echo /dev/${disk##*/} && return 0
    done
    return 1
}

# A connect's words: port, then options.
connect() {
    port=$1
    shift
    nvme connect -t tcp -a 127.0.0.1 -s $port -n $SUBSYSTEM -q $HOST -I $HOST_ID -i 1 -Q 16 -k 4 "$@" || exit 1
    wait_for 10 disk_of_nsid 1 || exit 1
    wait_for 10 disk_of_nsid 2 || exit 1
    DISK1=$(disk_of_nsid 1)
    DISK2=$(disk_of_nsid 2)
    # The first reads of the partition scan are over when the device can be opened and settled.
    sleep 0.5
}

# A command of which any outcome is fine, bounded in time.
try() {
    echo "== $*"
    timeout 10 "$@" 2>&1 | head -n 3
}

properties() {
    for offset in 0x0 0x8 0x14 0x1c 0x20; do try nvme get-property $C --offset=$offset; done
}

identify() {
    try nvme id-ctrl $C
    try nvme id-ns $C -n 1
    try nvme id-ns $C -n 2
    try nvme id-ns $C -n 77
    try nvme id-ns $C -n 1 --force
    try nvme list-ns $C
    try nvme list-ns $C --namespace-id=1
    try nvme list-ns $C --all
    try nvme list-ns $C --csi=0
    try nvme ns-descs $C -n 1
    try nvme list-ctrl $C
    try nvme list-ctrl $C -n 1
    try nvme nvm-id-ctrl $C
    try nvme nvm-id-ns $C -n 1
    try nvme cmdset-ind-id-ns $C -n 1
    try nvme id-iocs $C
    try nvme id-nvmset $C
    try nvme id-uuid $C
    try nvme id-domain $C
    try nvme list-endgrp $C
    try nvme primary-ctrl-caps $C
    try nvme id-ns-granularity $C
}

logs() {
    try nvme error-log $C -e 2
    try nvme smart-log $C
    try nvme smart-log $C -n 1
    try nvme fw-log $C
    try nvme changed-ns-list-log $C
    try nvme effects-log $C
    try nvme ana-log $C
    try nvme supported-log-pages $C
    try nvme resv-notif-log $C
    try nvme get-log $C --log-id=2 --log-len=64 --lpo=64
    try nvme get-log $C --log-id=0x0d --log-len=512
    try nvme get-log $C --log-id=0x70 --log-len=1024
    try nvme get-log $C --log-id=0xc0 --log-len=512
}

features() {
    for feature in 1 2 4 5 6 7 8 9 0xa 0xb 0xf 0x10 0x80 0x81 0x82 0x83 0x84; do
        try nvme get-feature $C -f $feature
    done
    try nvme get-feature $C -f 0x0b -s 3
    # Host Identifier, the extended form that fabrics use.
    try nvme get-feature $C -f 0x81 -l 16 -c 1
    try nvme set-feature $C -f 0x0b -v 0x900
    try nvme set-feature $C -f 0x0f -v 5000
    try nvme set-feature $C -f 0x07 -v 0x10001
    try nvme set-feature $C -f 0x02 -v 1
    try nvme set-feature $C -n 1 -f 0x84 -v 1
    try nvme get-feature $C -n 1 -f 0x84
    try nvme write $DISK1 -s 0 -c 0 -z 512 -d $OUT
    try nvme set-feature $C -n 1 -f 0x84 -v 0
    try nvme admin-passthru $C --opcode=0x08 --cdw10=0x00030001
    try nvme admin-passthru $C --opcode=0x18
    try nvme admin-passthru $C --opcode=0xc0
}

data() {
    dd if=/dev/zero bs=4096 count=3 2>/dev/null | tr '\0' 'D' >$OUT
    try nvme write $1 -s 0 -c 0 -z $2 -d $OUT
    try nvme write $1 -s 1 -c 0 -z $2 -d $OUT --force-unit-access
    # More than 1 KiB: on port 4421 this waits for an R2T whatever the block size.
    try nvme write $1 -s 0 -c 2 -z $(($2 * 3)) -d $OUT
    try nvme read $1 -s 0 -c 0 -z $2 -d $OUT.in
    try nvme compare $1 -s 0 -c 0 -z $2 -d $OUT
    try nvme flush $1 -n $3
    try nvme write-zeroes $1 -s 8 -c 7
    try nvme write-zeroes $1 -s 8 -c 7 --deac
    try nvme dsm $1 --ad --slbs=16,64 --blocks=8,16
    # The kernel's own discards carry a buffer for 256 ranges, however few they name.
    try blkdiscard -o 65536 -l 65536 $1
    try nvme dsm $1 --idw --slbs=16 --blocks=8
    try nvme verify $1 -s 0 -c 7
    try nvme write-uncor $1 -s 0 -c 0
    try nvme copy $1 --sdlba=128 --slbs=0,8 --blocks=3,3
    # Beyond the end.
    try nvme read $1 -s 0x7fffffff -c 0 -z $2 -d $OUT.in
    try nvme io-passthru $1 --opcode=0x7e -n $3
}

reservations() {
    try nvme resv-register $1 -n $2 --nrkey=0x1122334455667788 --rrega=0
    try nvme resv-acquire $1 -n $2 --crkey=0x1122334455667788 --rtype=1 --racqa=0
    try nvme resv-report $1 -n $2 --numd=64 --eds
    try nvme resv-release $1 -n $2 --crkey=0x1122334455667788 --rtype=1 --rrela=0
    try nvme resv-acquire $1 -n $2 --crkey=0x1122334455667788 --prkey=0x99 --rtype=3 --racqa=1
    try nvme resv-register $1 -n $2 --crkey=0x1122334455667788 --rrega=1
}

events() {
    # A namespace comes and goes: Asynchronous Event, Changed Namespace List.
    ram_disk disk3 512
    nvmet_namespace 3 /dev/disk3
    wait_for 10 disk_of_nsid 3
    echo 0 >$NVMET/subsystems/$SUBSYSTEM/namespaces/3/enable
    rmdir $NVMET/subsystems/$SUBSYSTEM/namespaces/3
    sleep 1
    # A namespace grows.
    echo 0 >$CONFIG/nullb/disk3/power
    rmdir $CONFIG/nullb/disk3
    # An ANA group changes its state under reads, so that some are refused before the host has heard of it.
    (
        end=$(($(date +%s) + 4))
        while [ $(date +%s) -lt $end ]; do
            timeout 3 dd if=$DISK1 of=/dev/null bs=512 count=2 iflag=direct
        done
    ) 2>/dev/null &
    reader=$!
    for state in inaccessible non-optimized change persistent-loss optimized; do
        echo $state >$NVMET/ports/1/ana_groups/1/ana_state
        sleep 0.3
        try nvme ana-log $C
    done
    wait $reader
    # Keep Alive at half of KATO.
    sleep 3
}

# What the bytes are of, for the manifest.
{
    uname -sr
    nvme version | head -n 1
} >/share/golden.versions

C=/dev/nvme0
echo "=== discovery"
try nvme discover -t tcp -a 127.0.0.1 -s 8009 -q $HOST -I $HOST_ID
try nvme discover -t tcp -a 127.0.0.1 -s 4420 -q $HOST -I $HOST_ID -g -G
try nvme discover -t tcp -a 127.0.0.1 -s 8009 -q $HOST -I $HOST_ID --persistent -k 2
# A change of what discovery shows: an event to the persistent controller, and a Keep Alive there.
mkdir $NVMET/subsystems/$SUBSYSTEM-second
echo 1 >$NVMET/subsystems/$SUBSYSTEM-second/attr_allow_any_host
ln -s $NVMET/subsystems/$SUBSYSTEM-second $NVMET/ports/3/subsystems/
sleep 2
for wrong in id-ctrl smart-log; do try nvme $wrong /dev/nvme0; done
nvme disconnect-all
rm $NVMET/ports/3/subsystems/$SUBSYSTEM-second

echo "=== no digests"
connect 4420
properties
identify
logs
features
data $DISK1 512 1
data $DISK2 4096 2
reservations $DISK1 1
events
try nvme reset $C
sleep 1
nvme disconnect-all

echo "=== both digests"
connect 4420 -g -G
properties
identify
logs
features
data $DISK1 512 1
data $DISK2 4096 2
reservations $DISK1 1
nvme disconnect-all

echo "=== header digest, little data in the capsule"
connect 4421 -g
data $DISK1 512 1
data $DISK2 4096 2
nvme disconnect-all

echo "=== data digest, little data in the capsule"
connect 4421 -G
data $DISK1 512 1
nvme disconnect-all

echo "=== no digests, little data in the capsule, no SQ flow control"
connect 4421 --disable-sqflow
data $DISK1 512 1
data $DISK2 4096 2
nvme disconnect-all

echo "=== refused"
try nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $SUBSYSTEM-none -q $HOST -I $HOST_ID
echo 0 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
try nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $SUBSYSTEM -q $HOST -I $HOST_ID

sleep 1
kill $TCPDUMP
wait $TCPDUMP
cat /share/tcpdump.log
dmesg | tail -n 5
