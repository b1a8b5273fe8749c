# The kernel's target in the guest with two namespaces of 4096-byte blocks for the benchmark: 1 keeps nothing, 2 keeps its
# data in memory. Both are null_blk's at their cheapest: requests end on the spot, without a queue between.

. /share/nvmet.sh
SUBSYSTEM=$SUBSYSTEM-bench
nvmet_modules || exit 1

# null_disk NAME KEEPS
null_disk() {
    disk=$CONFIG/nullb/$1
    mkdir $disk
    echo $SIZE_MIB >$disk/size
    echo 4096 >$disk/blocksize
    echo 0 >$disk/queue_mode
    echo 0 >$disk/irqmode
    echo $2 >$disk/memory_backed
    echo 1 >$disk/power
}

null_disk bench1 0
null_disk bench2 1
mkdir $NVMET/subsystems/$SUBSYSTEM
echo 1 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
nvmet_namespace 1 /dev/bench1
nvmet_namespace 2 /dev/bench2
nvmet_port 40 127.0.0.1 4420
echo $SUBSYSTEM
