# The host's side of the scenarios; sourced by the scripts that the harness sends. The harness sets ADDRESS, PORT,
# DISCOVERY_PORT and SUBSYSTEM first.

HOST=${HOST:-nqn.2014-08.org.nvmexpress:uuid:0d5f1c1e-aaaa-4bbb-8ccc-000000000001}
HOST_ID=${HOST_ID:-0d5f1c1e-aaaa-4bbb-8ccc-000000000001}
modprobe nvme-tcp

fail() {
    echo "FAILED: $*"
    exit 1
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "in vain waited for: $*"
        sleep 0.1
    done
}

# connect QUEUES [OPTION...]: quick to reconnect, slow to give up.
connect() {
    queues=$1
    shift
    nvme connect -t tcp -a $ADDRESS -s $PORT -n $SUBSYSTEM -q $HOST -I $HOST_ID -i $queues -k 5 -c 1 -l 120 "$@" \
        || fail "nvme connect $*"
}

disconnect() {
    nvme disconnect -n $SUBSYSTEM >/dev/null || fail "nvme disconnect"
    wait_for 10 no_disks
}

# The block devices of the fabric, without the hidden ones of single paths.
disks() {
    for disk in /sys/block/nvme*n*; do
        case "${disk##*/}" in
        *c* | '*') ;;
        nvme*) [ -e "$disk" ] && echo "${disk##*/}" ;;
        esac
    done
}

no_disks() {
    [ -z "$(disks)" ]
}

# disk_of UUID: the name of the block device with that identity.
disk_of() {
    for disk in $(disks); do
        [ "$(cat /sys/block/$disk/wwid)" = "uuid.$1" ] && echo $disk && return 0
    done
    return 1
}

# The same, but waits for it.
await_disk() {
    wait_for 15 disk_of $1
    disk=$(disk_of $1)
    wait_for 5 test -b /dev/$disk
    echo $disk
}

# What the kernel says when I/O fails; nothing of it may be there.
no_io_errors() {
    if dmesg | grep -E 'I/O error|Buffer I/O|critical .* error|EXT4-fs error|XFS .*(corrupt|error)'; then
        fail "the kernel saw I/O errors"
    fi
}

# A job file's worth of fio: name, device, then options. One line of outcome, all of it on failure.
run_fio() {
    name=$1
    device=$2
    shift 2
    # Linux 6.x lets a process that submits I/O have SIGPIPE when the connection has just ended (nvme-tcp sends without
    # MSG_NOSIGNAL); fio dies of it, though no I/O fails.
    trap '' PIPE
    fio --name=$name --filename=/dev/$device --ioengine=libaio --direct=1 --group_reporting --output-format=terse \
        --verify_fatal=1 --allow_mounted_write=1 "$@" >/run/$name.fio 2>&1 && return 0
    cat /run/$name.fio
    fail "fio $name $*"
}
