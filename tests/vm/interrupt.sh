# Takes the stand-in away from its hosts for a second.

. /share/nvmet.sh
rm $NVMET/ports/1/subsystems/$SUBSYSTEM
sleep 1
ln -s $NVMET/subsystems/$SUBSYSTEM $NVMET/ports/1/subsystems/
