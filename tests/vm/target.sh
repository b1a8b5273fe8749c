# The kernel's target in the guest for our own initiator: one subsystem with two namespaces (512 and 4096-byte blocks,
# 64 MiB each) on the port that is the first argument; and one with one namespace on two more ports, whose ANA states
# change for ever: now one is optimized, now the other, now one is inaccessible.

. /share/nvmet.sh
SUBSYSTEM=$SUBSYSTEM-initiator
nvmet_modules || exit 1
[ -d $NVMET/subsystems/$SUBSYSTEM ] && exit 0
mkdir $NVMET/subsystems/$SUBSYSTEM
echo 1 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
ram_disk initiator1 512
ram_disk initiator2 4096
nvmet_namespace 1 /dev/initiator1
nvmet_namespace 2 /dev/initiator2
nvmet_port 30 0.0.0.0 $1

SUBSYSTEM=$SUBSYSTEM-paths
mkdir $NVMET/subsystems/$SUBSYSTEM
echo 1 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
ram_disk initiator3 4096
nvmet_namespace 3 /dev/initiator3
nvmet_port 31 0.0.0.0 $2
nvmet_port 32 0.0.0.0 $3
(
    while sleep 1; do
        for states in "optimized non-optimized" "inaccessible optimized" "non-optimized optimized" "optimized inaccessible"; do
            set -- $states
            # The good one first, so that there is always one.
            [ $1 = inaccessible ] || echo $1 >$NVMET/ports/31/ana_groups/1/ana_state
            echo $2 >$NVMET/ports/32/ana_groups/1/ana_state
            echo $1 >$NVMET/ports/31/ana_groups/1/ana_state
            sleep 1
        done
    done
) >/dev/null 2>&1 &
