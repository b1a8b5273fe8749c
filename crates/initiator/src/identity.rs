//! What a controller says of itself and of its namespaces, read once into plain values.

use crate::{Error, ErrorKind};
use dolmen_nvme::spec::{
    DiscoveryEntry, DiscoveryHeader, IdentifyController, IdentifyNamespace, NamespaceIdDescriptor,
    controller_attributes, padded_ascii,
};
use dolmen_types::{Nqn, Uuid};
use std::net::{IpAddr, SocketAddr};
use zerocopy::{FromBytes, little_endian::U32};

/// The largest transfer that we ask for, also of a controller that names no limit. Bytes.
const MOST_TRANSFER_BYTES: u32 = 1 << 20;
/// The unit of MDTS on fabrics: the smallest page. As an exponent of two.
const PAGE_SHIFT: u32 = 12;

/// CMIC bit 3: the subsystem reports ANA.
const ANA_REPORTED: u8 = 1 << 3;

/// What a controller is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// CNTLID.
    pub controller_id: u16,
    /// Entries of one I/O queue at most (CAP.MQES + 1).
    pub max_entries: u16,
    /// Data of one command at most: MDTS, and never above 1 MiB. What [`Initiator::identity`](crate::Initiator::identity) tells is the
    /// least of all live paths; a longer command, of a caller that was told more before, goes in pieces. Bytes.
    pub max_transfer_bytes: u32,
    /// Write data that may follow a command in its capsule. Bytes.
    pub in_capsule_bytes: u32,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// The subsystem's NQN.
    pub subsystem: String,
    /// ONCS: optional NVM commands.
    pub optional_nvm: u16,
    /// CRDT1 to CRDT3: pauses before a retry. Units of 100 ms.
    pub retry_delays: [u16; 3],
    /// True when the controller reports events that we want.
    pub events: bool,
    /// True when the subsystem reports ANA (CMIC bit 3).
    pub ana: bool,
    /// ANATT: longest time in the Change state. Seconds; 0 when ANA is not reported.
    pub ana_transition_s: u8,
    /// NANAGRPID: ANA groups at most.
    pub ana_groups: u32,
    /// Namespaces at most (MNAN, else NN).
    pub max_namespaces: u32,
    /// CQT: after an association is lost, its commands end within this time; 0 when not reported. Milliseconds.
    pub quiesce_ms: u16,
    /// True when any command keeps the association alive (CTRATT, TBKAS).
    pub traffic_keeps_alive: bool,
    /// Abort commands that may be under way (ACL).
    pub aborts: u16,
    /// True when Compare and Write may be fused (FUSES bit 0).
    pub fused: bool,
    /// Highest block count of a fused Compare and Write (ACWU). Logical blocks.
    pub atomic_compare_blocks: u32,
}

impl Identity {
    pub(crate) fn fill(&mut self, page: &IdentifyController) {
        let told = match page.max_transfer {
            0 => None,
            exponent => 1u32.checked_shl(u32::from(exponent) + PAGE_SHIFT),
        };
        self.max_transfer_bytes = told.unwrap_or(u32::MAX).min(MOST_TRANSFER_BYTES);
        self.serial = padded_ascii(&page.serial);
        self.model = padded_ascii(&page.model);
        self.firmware = padded_ascii(&page.firmware);
        self.subsystem = padded_ascii(&page.subsystem_nqn);
        self.optional_nvm = page.optional_nvm.get();
        self.retry_delays = page.retry_delays.map(|d| d.get());
        self.ana = page.multipath & ANA_REPORTED != 0;
        (self.ana_transition_s, self.ana_groups) =
            if self.ana { (page.ana_transition_s, page.ana_groups.get()) } else { (0, 0) };
        self.max_namespaces = match page.max_namespaces.get() {
            0 => page.namespaces.get(),
            most => most,
        };
        self.quiesce_ms = page.command_quiesce_ms.get();
        self.traffic_keeps_alive = page.attributes.get() & controller_attributes::TRAFFIC_KEEP_ALIVE != 0;
        self.aborts = u16::from(page.abort_limit) + 1;
        self.fused = page.fused.get() & 1 != 0;
        self.atomic_compare_blocks = u32::from(page.atomic_compare_write.get()) + 1;
    }
}

/// A namespace, as Identify Namespace and the descriptor list describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Size of a logical block. Bytes.
    pub block_bytes: u32,
    /// NSZE: size. Logical blocks.
    pub blocks: u64,
    /// The UUID descriptor, if there is one.
    pub uuid: Option<Uuid>,
    /// NGUID; zeroes if there is none.
    pub nguid: [u8; 16],
    /// True when deallocated blocks read as zeroes (DLFEAT bits 2:0 = 1).
    pub deallocated_reads_zero: bool,
}

impl Namespace {
    /// Reads the two pages, each of 4096 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] for a short page or a block size that we can't use (metadata, below 512 or above 64 KiB).
    pub fn parse(nsid: u32, page: &[u8], descriptors: &[u8]) -> Result<Namespace, Error> {
        let wrong = |what: &str| Error::new(ErrorKind::Protocol, format!("namespace {nsid}: {what}"));
        let page = IdentifyNamespace::ref_from_bytes(page).map_err(|_| wrong("short Identify page"))?;
        let block_bytes = page
            .block_bytes()
            .filter(|b| (512..=65_536).contains(b) && b.is_power_of_two())
            .ok_or_else(|| wrong("a block size that this host can't use"))?;
        let uuid = NamespaceIdDescriptor::list(descriptors)
            .find(|(kind, _)| *kind == NamespaceIdDescriptor::UUID)
            .and_then(|(_, bytes)| bytes.try_into().ok().map(Uuid));
        Ok(Namespace {
            nsid,
            block_bytes,
            blocks: page.size_blocks.get(),
            uuid,
            nguid: page.nguid,
            deallocated_reads_zero: page.deallocate_features & 7 == 1,
        })
    }

    /// Size. Bytes; saturates.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }
}

/// Namespaces that a list may have at most.
const MAX_NAMESPACES: usize = 65_536;

/// Appends a page of Identify's active namespace list, which follows the last one in `all`. True: that was the last page.
///
/// # Errors
/// [`ErrorKind::Protocol`] for a list without an end.
pub(crate) fn active_namespaces(page: &[u8], all: &mut Vec<u32>) -> Result<bool, Error> {
    let (ids, _) = <[U32]>::ref_from_prefix(page).unwrap_or_default();
    let (before, last) = (all.len(), all.last().copied().unwrap_or(0));
    all.extend(ids.iter().map(|id| id.get()).take_while(|&id| id != 0).filter(|&id| id > last));
    if all.len() > MAX_NAMESPACES {
        return Err(Error::new(ErrorKind::Protocol, "the list of namespaces has no end"));
    }
    Ok(all.len() - before < ids.len())
}

/// What tells a namespace from all others, whatever controller shows it (Base 4.7.1): one path to a namespace may stand
/// for another only where these agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceIds {
    /// UUID; nil if there is none.
    pub uuid: Uuid,
    /// NGUID; zeroes if there is none.
    pub nguid: [u8; 16],
    /// EUI-64; zeroes if there is none.
    pub eui64: [u8; 8],
}

impl NamespaceIds {
    /// Reads a list of Namespace Identification Descriptors.
    #[must_use]
    pub fn parse(descriptors: &[u8]) -> NamespaceIds {
        let mut ids = NamespaceIds::default();
        for (kind, bytes) in NamespaceIdDescriptor::list(descriptors) {
            match kind {
                NamespaceIdDescriptor::UUID => ids.uuid = bytes.try_into().map_or(Uuid::NIL, Uuid),
                NamespaceIdDescriptor::NGUID => ids.nguid = bytes.try_into().unwrap_or_default(),
                NamespaceIdDescriptor::EUI64 => ids.eui64 = bytes.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        ids
    }

    /// True when nothing identifies the namespace: it can't be told to be the same elsewhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == NamespaceIds::default()
    }
}

/// What a discovery log entry points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Discovered {
    /// Another discovery service.
    Referral,
    /// A subsystem with namespaces.
    Subsystem,
    /// The discovery service that answered, as one of its own entries.
    Current,
    /// Something of a later specification.
    Other(u8),
}

/// One NVMe/TCP entry of a discovery log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiscoveredSubsystem {
    /// What it is.
    pub kind: Discovered,
    /// Its NQN.
    pub nqn: Nqn,
    /// Where to connect to.
    pub addr: SocketAddr,
    /// The port identifier in the subsystem.
    pub port_id: u16,
    /// True when the entry demands a secure channel (TREQ), which this host does not have.
    pub needs_tls: bool,
}

/// Bytes of the discovery log's header, and of each of its entries.
pub(crate) const DISCOVERY_ENTRY_BYTES: usize = size_of::<DiscoveryEntry>();

const _: () = assert!(size_of::<DiscoveryHeader>() == DISCOVERY_ENTRY_BYTES);

/// Generation and number of records of a discovery log.
pub(crate) fn discovery_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (header, _) = DiscoveryHeader::ref_from_prefix(bytes).ok()?;
    Some((header.generation.get(), header.records.get()))
}

/// Reads whole entries out of `bytes`. Entries of other transports, with a name for an address, or malformed ones
/// are left out.
pub(crate) fn discovery_entries(bytes: &[u8], out: &mut Vec<DiscoveredSubsystem>) {
    let (entries, _) = bytes.as_chunks::<DISCOVERY_ENTRY_BYTES>();
    for entry in entries {
        let entry: &DiscoveryEntry = zerocopy::transmute_ref!(entry);
        out.extend(discovered(entry));
    }
}

fn discovered(entry: &DiscoveryEntry) -> Option<DiscoveredSubsystem> {
    use dolmen_nvme::spec::{SubsystemType, TransportRequirement, TransportType};
    if TransportType(entry.transport) != TransportType::TCP {
        return None;
    }
    let address: IpAddr = padded_ascii(&entry.address).parse().ok()?;
    let port: u16 = padded_ascii(&entry.service).parse().ok()?;
    let kind = match SubsystemType(entry.subsystem_type) {
        SubsystemType::REFERRAL => Discovered::Referral,
        SubsystemType::NVM => Discovered::Subsystem,
        SubsystemType::CURRENT_DISCOVERY => Discovered::Current,
        SubsystemType(other) => Discovered::Other(other),
    };
    Some(DiscoveredSubsystem {
        kind,
        nqn: Nqn::from_field(&entry.subsystem_nqn).ok()?,
        addr: SocketAddr::new(address, port),
        port_id: entry.port_id.get(),
        needs_tls: entry.requirements & 3 == TransportRequirement::SECURE_CHANNEL,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_nvme::spec::SubsystemType;
    use zerocopy::IntoBytes;

    #[test]
    fn transfer_limits_are_sane_for_every_mdts() {
        let mut page = IdentifyController::zeroed();
        for (mdts, wanted) in
            [(0, 1 << 20), (1, 8192), (5, 131_072), (8, 1 << 20), (19, 1 << 20), (255, 1 << 20)]
        {
            page.max_transfer = mdts;
            let mut id = Identity::default();
            id.fill(&page);
            assert_eq!(id.max_transfer_bytes, wanted, "MDTS {mdts}");
        }
    }

    #[test]
    fn entries_that_make_no_sense_are_left_out() {
        let nqn = "nqn.2014-08.org.example:a";
        let good = DiscoveryEntry::tcp(SubsystemType::NVM, nqn, [192, 0, 2, 1].into(), 4420, 9);
        let mut rdma = good;
        rdma.transport = 1;
        let mut named = good;
        named.address[..4].copy_from_slice(b"host");
        let mut nameless = good;
        nameless.subsystem_nqn.fill(b'x');
        let bytes: Vec<u8> =
            [rdma, named, good, nameless].iter().flat_map(|e| e.as_bytes().to_vec()).collect();
        let mut found = Vec::new();
        discovery_entries(&bytes, &mut found);
        let addr = "192.0.2.1:4420".parse().unwrap();
        let wanted = DiscoveredSubsystem {
            kind: Discovered::Subsystem,
            nqn: nqn.parse().unwrap(),
            addr,
            port_id: 9,
            needs_tls: false,
        };
        assert_eq!(found, [wanted]);
    }

    #[test]
    fn noise_is_never_more_than_refused() {
        let mut rng = crate::load::Rng::new(3);
        for _ in 0..300 {
            let noise: Vec<u8> = (0..4096).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            let cut = usize::try_from(rng.below(4097)).unwrap();
            if let Ok(ns) = Namespace::parse(1, &noise, &noise[..cut]) {
                assert!(ns.block_bytes.is_power_of_two() && ns.block_bytes >= 512);
            }
            assert!(Namespace::parse(1, &noise[..4095], &noise).is_err());
            discovery_entries(&noise[..cut], &mut Vec::new());
            let _ = discovery_header(&noise[..cut]);
        }
    }
}
