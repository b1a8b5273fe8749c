//! Every page that an initiator reads from a controller it doesn't trust.
#![no_main]

use dolmen_nvme::spec::{
    AnaGroupDescriptor, AnaLogHeader, Capabilities, Cqe, DiscoveryEntry, DiscoveryHeader, IdentifyController,
    IdentifyNamespace, NamespaceIdDescriptor, identify_list, padded_ascii,
};
use dolmen_nvme::tcp::{Controller, ControllerState};
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromBytes, little_endian::U32};

fuzz_target!(|page: &[u8]| {
    let listed: usize = NamespaceIdDescriptor::list(page).map(|(_, id)| id.len() + 4).sum();
    assert!(listed <= page.len());
    if let Ok((namespace, _)) = IdentifyNamespace::ref_from_prefix(page) {
        assert!(namespace.block_bytes().is_none_or(|bytes| bytes.is_power_of_two() && bytes >= 512));
    }
    if let Ok((controller, _)) = IdentifyController::ref_from_prefix(page) {
        let _ = (padded_ascii(&controller.serial), padded_ascii(&controller.subsystem_nqn));
    }
    if let Ok((ids, _)) = <[U32]>::ref_from_prefix_with_elems(page, page.len() / 4) {
        assert!(identify_list::namespaces(ids).all(|id| id != 0));
    }
    if let Ok((_, rest)) = AnaLogHeader::ref_from_prefix(page)
        && let Ok((group, _)) = AnaGroupDescriptor::ref_from_prefix(rest)
    {
        let _ = group.state();
    }
    if let Ok((_, rest)) = DiscoveryHeader::ref_from_prefix(page)
        && let Ok((entry, _)) = DiscoveryEntry::ref_from_prefix(rest)
    {
        let _ = (padded_ascii(&entry.address), padded_ascii(&entry.service));
    }
    if let Ok((cqe, _)) = Cqe::ref_from_prefix(page) {
        let cap = Capabilities::from_bits(cqe.result());
        assert_eq!(Capabilities::from_bits(cap.bits()), cap);
        let _ = cqe.to_string();
    }
    if let Ok((state, _)) = ControllerState::ref_from_prefix(page)
        && let Ok(controller) = Controller::import(state)
    {
        assert!(controller.export().is_some());
    }
});
