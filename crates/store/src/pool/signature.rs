//! Naming what is on a drive that is not ours, by the signatures that common systems leave.

/// What the first and last MiB of a drive that is not blank look like.
pub(crate) fn name(first: &[u8], last: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| first.get(offset..offset + magic.len()) == Some(magic);
    let from_end = |offset: usize, magic: &[u8]| {
        last.len().checked_sub(offset).is_some_and(|i| last[i..].starts_with(magic))
    };
    let zfs = |bytes: &[u8]| {
        // The uberblock's magic number, in either byte order, anywhere in the first label's ring of 1 KiB slots.
        bytes.chunks_exact(1024).any(|s| {
            s.starts_with(&0x00ba_b10c_u64.to_le_bytes()) || s.starts_with(&0x00ba_b10c_u64.to_be_bytes())
        })
    };
    let checks: [(bool, &'static str); 17] = [
        (at(0, b"LUKS\xba\xbe"), "a LUKS encrypted volume"),
        (at(0x1_0040, b"_BHRfS_M"), "a btrfs file system"),
        (at(0, b"XFSB"), "an XFS file system"),
        (at(0x438, &[0x53, 0xef]), "an ext2, ext3 or ext4 file system"),
        (at(512, b"LABELONE") || at(0, b"LABELONE"), "an LVM physical volume"),
        (at(4096, &0xa92b_4efc_u32.to_le_bytes()), "a member of a Linux md RAID (metadata 1.2)"),
        (at(0, &0xa92b_4efc_u32.to_le_bytes()), "a member of a Linux md RAID (metadata 1.1)"),
        (from_end(64 * 1024, &0xa92b_4efc_u32.to_le_bytes()), "a member of a Linux md RAID (metadata 0.90)"),
        (from_end(8192, &0xa92b_4efc_u32.to_le_bytes()), "a member of a Linux md RAID (metadata 1.0)"),
        (zfs(first), "a member of a ZFS pool"),
        (at(0, b"bluestore block device"), "a Ceph BlueStore device"),
        (at(4096 - 10, b"SWAPSPACE2"), "Linux swap space"),
        (at(1024, &0xf2f5_2010_u32.to_le_bytes()), "an F2FS file system"),
        (at(3, b"NTFS    "), "an NTFS file system"),
        (
            at(512, b"EFI PART") || at(4096, b"EFI PART") || from_end(512, b"EFI PART"),
            "a GPT partition table",
        ),
        (at(54, b"FAT") || at(82, b"FAT32"), "a FAT file system"),
        (at(510, &[0x55, 0xaa]), "an MBR partition table or boot sector"),
    ];
    checks.iter().find(|(holds, _)| *holds).map_or("data that is not ours", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(offset: usize, magic: &[u8]) -> &'static str {
        let mut first = vec![0; 1 << 20];
        first[offset..offset + magic.len()].copy_from_slice(magic);
        name(&first, &[0; 1 << 20])
    }

    #[test]
    fn names_the_usual_suspects() {
        assert_eq!(with(0, b"XFSB"), "an XFS file system");
        assert_eq!(with(0x438, &[0x53, 0xef]), "an ext2, ext3 or ext4 file system");
        assert_eq!(with(512, b"EFI PART"), "a GPT partition table");
        assert_eq!(with(510, &[0x55, 0xaa]), "an MBR partition table or boot sector");
        assert_eq!(with(512, b"LABELONE"), "an LVM physical volume");
        assert_eq!(with(0, b"LUKS\xba\xbe"), "a LUKS encrypted volume");
        assert_eq!(with(0x1_0040, b"_BHRfS_M"), "a btrfs file system");
        assert_eq!(with(4096, &[0xfc, 0x4e, 0x2b, 0xa9]), "a member of a Linux md RAID (metadata 1.2)");
        assert_eq!(with(128 * 1024, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]), "a member of a ZFS pool");
        assert_eq!(with(777, b"x"), "data that is not ours");
        assert_eq!(name(&[], &[]), "data that is not ours");
    }

    #[test]
    fn looks_at_the_end_too() {
        let mut last = vec![0; 1 << 20];
        let at = last.len() - 8192;
        last[at..at + 4].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9]);
        assert_eq!(name(&[0; 1 << 20], &last), "a member of a Linux md RAID (metadata 1.0)");
    }
}
