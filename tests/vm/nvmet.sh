# Functions to set up the kernel's own NVMe/TCP target in the guest; sourced by the scripts beside it.
#
# One subsystem, two namespaces of RAM: 1 with 512-byte blocks, 2 with 4096-byte blocks. Port 4420 takes 16 KiB
# of data in the capsule, port 4421 only the 1 KiB that Connect needs (larger writes wait for an R2T).

CONFIG=/sys/kernel/config
NVMET=$CONFIG/nvmet
SUBSYSTEM=nqn.2014-08.org.example:guest
SIZE_MIB=${SIZE_MIB:-64}

nvmet_modules() {
    for module in nvme-tcp nvmet-tcp; do modprobe $module || return 1; done
    modprobe null_blk nr_devices=0 || return 1
    grep -q configfs /proc/mounts || mount -t configfs none $CONFIG
}

# ram_disk NAME BLOCK_SIZE: a null_blk device that keeps its data, at /dev/NAME.
ram_disk() {
    disk=$CONFIG/nullb/$1
    mkdir $disk
    echo $SIZE_MIB >$disk/size
    echo $2 >$disk/blocksize
    echo 1 >$disk/memory_backed
    echo 1 >$disk/discard
    echo 1 >$disk/power
}

# nvmet_namespace NSID DEVICE: a namespace with a fixed identity, enabled.
nvmet_namespace() {
    namespace=$NVMET/subsystems/$SUBSYSTEM/namespaces/$1
    mkdir $namespace
    echo -n $2 >$namespace/device_path
    echo -n 6d1c7a52-0000-4000-8000-00000000000$1 >$namespace/device_uuid
    echo -n 6d1c7a52-0000-4000-8000-00000000000$1 >$namespace/device_nguid
    echo 1 >$namespace/enable
}

# nvmet_port ID ADDRESS PORT [INLINE_BYTES]: a TCP port that shows the subsystem.
nvmet_port() {
    port=$NVMET/ports/$1
    mkdir $port
    echo tcp >$port/addr_trtype
    echo ipv4 >$port/addr_adrfam
    echo $2 >$port/addr_traddr
    echo $3 >$port/addr_trsvcid
    [ -z "$4" ] || echo $4 >$port/param_inline_data_size
    ln -s $NVMET/subsystems/$SUBSYSTEM $port/subsystems/
}

nvmet_up() {
    nvmet_modules || return 1
    ram_disk disk1 512
    ram_disk disk2 4096
    mkdir $NVMET/subsystems/$SUBSYSTEM
    echo 1 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
    echo -n GUEST0000000001 >$NVMET/subsystems/$SUBSYSTEM/attr_serial
    nvmet_namespace 1 /dev/disk1
    nvmet_namespace 2 /dev/disk2
    nvmet_port 1 0.0.0.0 4420
    nvmet_port 2 0.0.0.0 4421 1024
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ $tries -le 0 ]; then
            echo "in vain waited for: $*"
            return 1
        fi
        sleep 0.1
    done
}
