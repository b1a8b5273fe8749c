# The kernel's own target with the volumes that the scenarios expect, to try the scenarios themselves without a
# daemon. Prints nothing; the identities are fixed.

. /share/nvmet.sh
SIZE_MIB=1024
nvmet_modules || exit 1
mkdir $NVMET/subsystems/$SUBSYSTEM
echo 1 >$NVMET/subsystems/$SUBSYSTEM/attr_allow_any_host
for nsid in 1 2 3; do
    ram_disk disk$nsid 4096
    nvmet_namespace $nsid /dev/disk$nsid
done
ram_disk disk4 512
nvmet_namespace 4 /dev/disk4
nvmet_port 1 0.0.0.0 4420
