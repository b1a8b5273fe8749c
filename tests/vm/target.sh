# The kernel's target in the guest for our own initiator: one subsystem with two namespaces (512 and 4096-byte blocks,
# 64 MiB each) on the port that is the first argument.

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
