//! File systems, real trees, verified random I/O, trim.

use anyhow::Result;

use super::brick::Volume;
use super::stage::Stage;
use super::{Needs, Scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "ext4", needs: Needs::AnyTarget, run: |stage| file_system(stage, &EXT4) },
    Scenario { name: "xfs", needs: Needs::AnyTarget, run: |stage| file_system(stage, &XFS) },
    Scenario { name: "fio", needs: Needs::AnyTarget, run: verified_io },
    Scenario { name: "trim", needs: Needs::AnyTarget, run: trim },
];

/// How a file system is made and checked.
struct FileSystem {
    volume: Volume,
    options: &'static str,
    make: &'static str,
    kind: &'static str,
    check: &'static str,
}

const EXT4: FileSystem = FileSystem {
    volume: Volume::Ext4,
    options: "-g -G",
    make: "mkfs.ext4 -q -F",
    kind: "ext4",
    check: "fsck.ext4 -f -n",
};

const XFS: FileSystem = FileSystem {
    volume: Volume::Xfs,
    options: "",
    make: "mkfs.xfs -q -f",
    kind: "xfs",
    check: "xfs_repair -n",
};

/// A real tree (the guest's own programs and libraries) is copied, and found again, byte by byte, by a host
/// that has forgotten everything: after unmount, disconnect and reconnect.
fn file_system(stage: &mut Stage, system: &FileSystem) -> Result<()> {
    let FileSystem { volume, options, make, kind, check } = system;
    let uuid = stage.brick.uuid(*volume).to_owned();
    let script = format!(
        "connect 2 {options}\n\
         disk=$(await_disk {uuid}) || fail no disk\n\
         modprobe {kind}; mkdir -p /mnt\n\
         {make} /dev/$disk || fail mkfs\n\
         mount -t {kind} /dev/$disk /mnt || fail mount\n\
         cp -a /usr /lib /bin /sbin /mnt/ || fail copy\n\
         (cd / && find usr lib bin sbin -type f -exec md5sum '{{}}' +) | sort >/run/sums\n\
         [ $(wc -l </run/sums) -gt 100 ] || fail 'the tree is too small to mean anything'\n\
         umount /mnt || fail umount\n\
         disconnect\n\
         connect 1\n\
         disk=$(await_disk {uuid}) || fail no disk\n\
         {check} /dev/$disk >/run/check 2>&1 || {{ cat /run/check; fail {check}; }}\n\
         mount -t {kind} /dev/$disk /mnt || fail 'mount again'\n\
         (cd /mnt && md5sum -c /run/sums >/run/found 2>&1) || {{ grep -v ': OK' /run/found; fail checksums; }}\n\
         rm -rf /mnt/usr && fstrim /mnt || fail fstrim\n\
         umount /mnt || fail umount\n\
         no_io_errors\ndisconnect\n"
    );
    stage.host(&script, 180)?;
    Ok(())
}

/// Writes at random, reads back with checksums: small, large, odd sizes; both block formats; then everything
/// once more after a reconnect.
fn verified_io(stage: &mut Stage) -> Result<()> {
    let raw = stage.brick.uuid(Volume::Raw).to_owned();
    let sectors = stage.brick.uuid(Volume::Sector512).to_owned();
    let cases = [
        ("small", "$raw", "--rw=randwrite --bs=4k --iodepth=32 --offset=0 --size=24M"),
        ("large", "$raw", "--rw=randwrite --bs=128k --iodepth=8 --offset=32M --size=64M"),
        ("odd", "$raw", "--rw=randwrite --bs=76k --iodepth=8 --offset=128M --size=38M"),
        ("huge", "$raw", "--rw=write --bs=3M --iodepth=2 --offset=256M --size=48M"),
        ("sectors", "$sectors", "--rw=randwrite --bs=2560 --iodepth=16 --offset=0 --size=5M"),
        ("single", "$sectors", "--rw=randwrite --bs=512 --iodepth=16 --offset=16M --size=1M"),
    ];
    let jobs = |extra: &str| -> String {
        cases
            .iter()
            .map(|(name, disk, options)| {
                format!("run_fio {name} {disk} {options} --verify=crc32c --randseed=7 {extra}\n")
            })
            .collect()
    };
    let script = format!(
        "connect 2\n\
         raw=$(await_disk {raw}) || fail no disk\nsectors=$(await_disk {sectors}) || fail no disk\n\
         {}no_io_errors\ndisconnect\n\
         connect 1 -g -G\n\
         raw=$(await_disk {raw}) || fail no disk\nsectors=$(await_disk {sectors}) || fail no disk\n\
         {}no_io_errors\ndisconnect\n",
        jobs("--do_verify=1"),
        jobs("--verify_only"),
    );
    stage.host(&script, 300)?;
    Ok(())
}

/// A trimmed range reads as zeros, what lies beside it stays, and it can be written again.
fn trim(stage: &mut Stage) -> Result<()> {
    let uuid = stage.brick.uuid(Volume::Raw).to_owned();
    let script = format!(
        "connect 1\n\
         disk=$(await_disk {uuid}) || fail no disk\n\
         dd if=/dev/urandom of=/run/data bs=1M count=6 2>/dev/null\n\
         put() {{ dd if=/run/data of=/dev/$disk bs=1M seek=512 oflag=direct 2>/dev/null || fail write; }}\n\
         get() {{ dd if=/dev/$disk of=/run/back bs=1M skip=512 count=6 iflag=direct 2>/dev/null || fail read; }}\n\
         put\n\
         blkdiscard -o $((514 << 20)) -l $((2 << 20)) /dev/$disk || fail blkdiscard\n\
         get\n\
         dd if=/dev/zero of=/run/data bs=1M seek=2 count=2 conv=notrunc 2>/dev/null\n\
         cmp /run/data /run/back || fail 'after trim'\n\
         dd if=/dev/urandom of=/run/data bs=1M seek=2 count=2 conv=notrunc 2>/dev/null\n\
         put; get\n\
         cmp /run/data /run/back || fail 'written again after trim'\n\
         no_io_errors\ndisconnect\n"
    );
    stage.host(&script, 60)?;
    Ok(())
}
