//! A guest without NVMe/TCP: the kernel's network block device over the NBD door.

use anyhow::Result;

use super::brick::Volume;
use super::stage::Stage;
use super::{Needs, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario { name: "nbd", needs: Needs::Daemon, run: disk }];

/// A file system on a network block device over two connections, found again after the client has come back; the volume with
/// blocks of 512 bytes, which is what the kernel's client takes a disk to have.
fn disk(stage: &mut Stage) -> Result<()> {
    let port = stage.brick.daemon()?.nbd_port;
    let name = Volume::Sector512.name();
    let script = format!(
        "modprobe nbd nbds_max=2; modprobe ext4; mkdir -p /mnt\n\
         attach() {{ nbd-client $ADDRESS {port} /dev/nbd0 -N {name} -C 2 -t 60 >/run/nbd 2>&1 || {{ cat /run/nbd; fail nbd-client; }}; }}\n\
         detach() {{ nbd-client -d /dev/nbd0 >/dev/null || fail 'nbd-client -d'; }}\n\
         nbd-client -l $ADDRESS {port} >/run/list 2>&1; grep -qE '^{name}(:|$)' /run/list || {{ cat /run/list; fail list; }}\n\
         attach\n\
         [ $(cat /sys/block/nbd0/size) = 2097152 ] || fail \"$(cat /sys/block/nbd0/size) sectors are not 1 GiB\"\n\
         [ $(cat /sys/block/nbd0/queue/discard_max_bytes) != 0 ] || fail 'TRIM is not offered'\n\
         mkfs.ext4 -q -F /dev/nbd0 || fail mkfs\n\
         mount -t ext4 /dev/nbd0 /mnt || fail mount\n\
         cp -a /usr/bin /usr/lib /mnt/ || fail copy\n\
         (cd /usr && find bin lib -type f -exec md5sum '{{}}' +) | sort >/run/sums\n\
         umount /mnt || fail umount\n\
         detach\n\
         attach\n\
         fsck.ext4 -f -n /dev/nbd0 >/run/check 2>&1 || {{ cat /run/check; fail fsck; }}\n\
         mount -t ext4 /dev/nbd0 /mnt || fail 'mount again'\n\
         (cd /mnt && md5sum -c /run/sums >/run/found 2>&1) || {{ grep -v ': OK' /run/found; fail checksums; }}\n\
         rm -rf /mnt/lib && fstrim /mnt || fail fstrim\n\
         umount /mnt || fail umount\n\
         fio --name=v --filename=/dev/nbd0 --direct=1 --ioengine=psync --rw=randwrite --bs=4k --size=8M --verify=crc32c \
         --verify_fatal=1 >/run/fio 2>&1 || {{ tail -n 20 /run/fio; fail fio; }}\n\
         no_io_errors\ndetach\n"
    );
    stage.host(&script, 180)?;
    Ok(())
}
