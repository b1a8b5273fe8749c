# Our daemon in the guest with two volumes for the benchmark: 1 keeps nothing, 2 keeps its data in memory. Its core sleeps
# at once when it has nothing to do, since the guest has one processor. Prints the subsystem's name.

# Programs run from memory; of the libraries they load the guest has most already.
for library in /share/lib/*; do
    [ -e /lib/x86_64-linux-gnu/${library##*/} ] || cp $library /lib/x86_64-linux-gnu/ || exit 1
done
cp /share/dolmen /share/dolmen-bench /run/ || exit 1
mkdir -p /run/data
ulimit -n 65536
HOST=nqn.2014-08.org.nvmexpress:uuid:d01be9c4-0000-4000-8000-000000000001
/run/dolmen serve --data /run/data --drive /run/drive:512MiB --sparse --listen 127.0.0.1 --port 4430 --discovery-port 8019 \
    --api-port 8443 --cores 1 --poll-window-us 0 --allow-test-volumes --log-level warn >/share/daemon.log 2>&1 &
tries=600
until /run/dolmen --data /run/data status >/dev/null 2>&1; do
    tries=$((tries - 1))
    if [ $tries -le 0 ]; then
        cat /share/daemon.log
        echo "the daemon doesn't answer"
        exit 1
    fi
    sleep 0.1
done
for kind in null memory; do
    /run/dolmen --data /run/data volume create $kind --kind $kind --size 64MiB --acl $HOST >/dev/null || exit 1
done
/run/dolmen --data /run/data -o json status
