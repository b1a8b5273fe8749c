//! Identify pages about namespaces and about the NVM Command Set (NVM 4.1.5; Base 5.17.2.8).

use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// LBA Format (NVM figure 98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LbaFormat {
    /// MS: metadata per block. Bytes.
    pub metadata_bytes: U16,
    /// LBADS: block size as a power of two (9 or 12).
    pub data_size: u8,
    /// RP: relative performance, 0 best.
    pub performance: u8,
}

/// Identify Namespace (CNS 00h; NVM figure 97).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// NSZE. Logical blocks.
    pub size_blocks: U64,
    /// NCAP. Logical blocks.
    pub capacity_blocks: U64,
    /// NUSE. Logical blocks.
    pub used_blocks: U64,
    /// NSFEAT: bit 0 thin provisioning, 1 NAWUN etc. valid, 2 deallocated-block errors, 3 ids never reused, 4 NPWG etc. valid.
    pub features: u8,
    /// NLBAF: LBA formats, counted from 0.
    pub formats_count: u8,
    /// FLBAS: bits 3:0 the format in use.
    pub format_in_use: u8,
    /// MC.
    pub metadata_capabilities: u8,
    /// DPC.
    pub protection_capabilities: u8,
    /// DPS.
    pub protection_settings: u8,
    /// NMIC: bit 0 shared by several controllers.
    pub sharing: u8,
    /// RESCAP: bit 0 persist through power loss, 1 to 6 the reservation types, 7 IEKEY as of 1.3.
    pub reservations: u8,
    /// FPI.
    pub format_progress: u8,
    /// DLFEAT: bits 2:0 = 1 deallocated blocks read as 0, bit 3 deallocate in Write Zeroes.
    pub deallocate_features: u8,
    /// NAWUN. Logical blocks, counted from 0.
    pub atomic_write: U16,
    /// NAWUPF. Logical blocks, counted from 0.
    pub atomic_write_power_fail: U16,
    /// NACWU. Logical blocks, counted from 0.
    pub atomic_compare_write: U16,
    /// NABSN. Logical blocks, counted from 0.
    pub atomic_boundary: U16,
    /// NABO. Logical blocks.
    pub atomic_boundary_offset: U16,
    /// NABSPF. Logical blocks, counted from 0.
    pub atomic_boundary_power_fail: U16,
    /// NOIOB. Logical blocks.
    pub optimal_boundary: U16,
    /// NVMCAP, 128 bits. Bytes.
    pub capacity_bytes: [u8; 16],
    /// NPWG. Logical blocks, counted from 0.
    pub write_granularity: U16,
    /// NPWA. Logical blocks, counted from 0.
    pub write_alignment: U16,
    /// NPDG. Logical blocks, counted from 0.
    pub deallocate_granularity: U16,
    /// NPDA. Logical blocks, counted from 0.
    pub deallocate_alignment: U16,
    /// NOWS. Logical blocks, counted from 0.
    pub optimal_write: U16,
    /// MSSRL: longest Copy source range. Logical blocks.
    pub copy_range_blocks: U16,
    /// MCL: longest Copy. Logical blocks.
    pub copy_blocks: U32,
    /// MSRC: Copy source ranges, counted from 0.
    pub copy_ranges: u8,
    /// Reserved (KPIOS, NULBAF, KPIODAAG).
    pub reserved81: [u8; 11],
    /// ANAGRPID.
    pub ana_group: U32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// NSATTR: bit 0 write protected.
    pub attributes: u8,
    /// NVMSETID.
    pub nvm_set: U16,
    /// ENDGID.
    pub endurance_group: U16,
    /// NGUID, most significant byte first.
    pub nguid: [u8; 16],
    /// EUI64, most significant byte first.
    pub eui64: [u8; 8],
    /// LBAF0 to LBAF63.
    pub formats: [LbaFormat; 64],
    /// Vendor specific.
    pub vendor_specific: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNamespace>() == 4096);
const _: () = assert!(std::mem::offset_of!(IdentifyNamespace, ana_group) == 92);
const _: () = assert!(std::mem::offset_of!(IdentifyNamespace, formats) == 128);

impl IdentifyNamespace {
    /// A page of zeroes: what a host sees of an NSID that is inactive.
    #[must_use]
    pub fn zeroed() -> IdentifyNamespace {
        IdentifyNamespace::new_zeroed()
    }

    /// Size of a logical block in the format in use. Bytes; `None` when the page makes no sense (hosts check this).
    #[must_use]
    pub fn block_bytes(&self) -> Option<u32> {
        let index = usize::from(self.format_in_use & 0xf | (self.format_in_use >> 1) & 0x30);
        let format = self.formats.get(index)?;
        (9..=16).contains(&format.data_size).then(|| 1 << format.data_size)
    }

    /// Sets NVMCAP. Bytes.
    pub fn set_capacity_bytes(&mut self, bytes: u64) {
        self.capacity_bytes = super::identify::wide(bytes);
    }
}

/// I/O Command Set Independent Identify Namespace (CNS 08h; Base figure 280).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyIndependent {
    /// NSFEAT: bit 3 ids never reused, bit 4 rotational.
    pub features: u8,
    /// NMIC.
    pub sharing: u8,
    /// RESCAP.
    pub reservations: u8,
    /// FPI.
    pub format_progress: u8,
    /// ANAGRPID.
    pub ana_group: U32,
    /// NSATTR.
    pub attributes: u8,
    /// Reserved.
    pub reserved9: u8,
    /// NVMSETID.
    pub nvm_set: U16,
    /// ENDGID.
    pub endurance_group: U16,
    /// NSTAT: bit 0 ready.
    pub status: u8,
    /// Reserved.
    pub reserved15: [u8; 4081],
}

const _: () = assert!(size_of::<IdentifyIndependent>() == 4096);

impl IdentifyIndependent {
    /// A page of zeroes, to be filled.
    #[must_use]
    pub fn zeroed() -> IdentifyIndependent {
        IdentifyIndependent::new_zeroed()
    }
}

/// Identify Controller, NVM Command Set (CNS 06h, CSI 0; NVM figure 102).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNvmController {
    /// VSL: Verify size limit, a power of two of the minimum page; 0 is MDTS-like "no limit".
    pub verify_limit: u8,
    /// WZSL: Write Zeroes size limit, likewise.
    pub write_zeroes_limit: u8,
    /// WUSL: Write Uncorrectable size limit, likewise.
    pub write_uncorrectable_limit: u8,
    /// DMRL: ranges of a Dataset Management command; 0 is no limit.
    pub dsm_ranges: u8,
    /// DMRSL: blocks of one range; 0 is no limit.
    pub dsm_range_blocks: U32,
    /// DMSL: blocks of one command; 0 is no limit.
    pub dsm_blocks: U64,
    /// Reserved.
    pub reserved16: [u8; 4080],
}

const _: () = assert!(size_of::<IdentifyNvmController>() == 4096);

impl IdentifyNvmController {
    /// A page of zeroes, to be filled.
    #[must_use]
    pub fn zeroed() -> IdentifyNvmController {
        IdentifyNvmController::new_zeroed()
    }
}

/// Identify Namespace, NVM Command Set (CNS 05h, CSI 0; NVM figure 100).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNvmNamespace {
    /// LBSTM: logical block storage tag mask.
    pub storage_tag_mask: U64,
    /// PIC: protection information capabilities.
    pub protection: u8,
    /// Reserved.
    pub reserved9: [u8; 3],
    /// ELBAF0 to ELBAF63: extended LBA formats.
    pub formats: [U32; 64],
    /// Reserved.
    pub reserved268: [u8; 3828],
}

const _: () = assert!(size_of::<IdentifyNvmNamespace>() == 4096);

impl IdentifyNvmNamespace {
    /// A page of zeroes, to be filled.
    #[must_use]
    pub fn zeroed() -> IdentifyNvmNamespace {
        IdentifyNvmNamespace::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_size_is_checked() {
        let mut page = IdentifyNamespace::zeroed();
        assert_eq!(page.block_bytes(), None);
        page.formats[1].data_size = 12;
        page.format_in_use = 1;
        assert_eq!(page.block_bytes(), Some(4096));
        page.format_in_use = 0x60 | 0xf;
        assert_eq!(page.block_bytes(), None);
    }
}
