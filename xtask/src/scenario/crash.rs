//! The daemon dies or restarts under load; the host must find every byte and see no error.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::brick::{Ending, Volume};
use super::stage::Stage;
use super::{Needs, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "kill", needs: Needs::AnyTarget, run: |stage| under_load(stage, Ending::Kill) },
    Scenario { name: "restart", needs: Needs::Daemon, run: |stage| under_load(stage, Ending::Terminate) },
];

/// How often the daemon is ended under one load.
const ROUNDS: u32 = 3;

/// The load: verified writes that take longer than the rounds; what each block must hold follows from the seed.
const LOAD: &str = "--rw=randwrite --bs=8k --iodepth=16 --size=128M --verify=crc32c --randseed=11";

/// A file system takes a journalled load meanwhile: files are written and synced one after the other, and those
/// that were synced are found whole.
fn under_load(stage: &mut Stage, ending: Ending) -> Result<()> {
    let raw = stage.brick.uuid(Volume::Raw).to_owned();
    let ext4 = stage.brick.uuid(Volume::Ext4).to_owned();
    stage.host(
        &format!(
            "connect 2\ncat /sys/block/$(await_disk {raw})/nsid >/run/nsid\nmkfs.ext4 -q -F /dev/$(await_disk {ext4}) || fail mkfs\n\
             modprobe ext4; mkdir -p /mnt; mount -t ext4 /dev/$(await_disk {ext4}) /mnt || fail mount\n"
        ),
        60,
    )?;
    let blocks = stage.host_starts(&format!(
        "disk=$(await_disk {raw}) || fail no disk\n\
         run_fio load $disk {LOAD} --do_verify=0 --time_based=0 --rate_iops=1500\n"
    ))?;
    let files = stage.host_starts(
        "rm -f /run/synced\nn=0\n\
         while [ ! -e /run/enough ]; do\n\
             dd if=/dev/urandom of=/mnt/f$n bs=20k count=1 conv=fsync 2>/dev/null || fail \"file $n\"\n\
             (cd /mnt && md5sum f$n) >>/run/synced\n\
             n=$((n + 1))\n\
             [ $n -lt 3000 ] || break\n\
         done\n",
    )?;
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_secs(2));
        stage.brick.interrupt(ending, &mut stage.guest)?;
    }
    ensure!(stage.guest.is_running(blocks)?, "the load ended before the last interruption");
    std::thread::sleep(Duration::from_secs(2));
    stage.host("touch /run/enough", 20)?;
    let outcome = stage.host_ends(files, 60)?;
    ensure!(outcome.status == 0, "the host's files met an error:\n{}", outcome.output);
    let outcome = stage.host_ends(blocks, 180)?;
    ensure!(outcome.status == 0, "the host's load met an error:\n{}", outcome.output);
    stage.host(
        &format!(
            "rm -f /run/enough\n\
             [ $(wc -l </run/synced) -gt 5 ] || fail 'hardly a file was written'\n\
             umount /mnt || fail umount\n\
             no_io_errors\ndisconnect\nconnect 2\n\
             fsck.ext4 -f -n /dev/$(await_disk {ext4}) >/run/check 2>&1 || {{ cat /run/check; fail fsck; }}\n\
             mount -t ext4 /dev/$(await_disk {ext4}) /mnt || fail mount\n\
             (cd /mnt && md5sum -c /run/synced >/run/found 2>&1) || {{ grep -v ': OK' /run/found; fail checksums; }}\n\
             umount /mnt\n\
             disk=$(await_disk {raw}) || fail no disk\n\
             [ $(cat /sys/block/$disk/nsid) = $(cat /run/nsid) ] || fail 'the NSID has changed'\n\
             run_fio load $disk {LOAD} --verify_only\n\
             no_io_errors\ndisconnect\n"
        ),
        180,
    )?;
    Ok(())
}
