//! Controllers from Connect to their end: what Linux does on the way up, what it reads, and what it may not.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_nvme::{spec::*, tcp::Digests};
use dolmen_types::volume::HostAccess;
use support::*;
use zerocopy::FromBytes;

fn rig() -> Rig {
    let mut rig = Rig::new(1, 1);
    rig.set(&[space(1, 1024, only(HOST)), space(2, 2048, only(OTHER)), space(5, 4096, HostAccess::Any)]);
    rig
}

#[test]
fn a_linux_host_comes_up_and_does_io() {
    for digests in [Digests::NONE, Digests::BOTH, Digests { header: true, data: false }] {
        let mut rig = rig();
        let ctrl = rig.controller_with(0, HOST, digests, 5000);
        let page =
            IdentifyController::read_from_bytes(&rig.identify(&ctrl, Cns::CONTROLLER, 0).data).unwrap();
        assert_eq!(padded_ascii(&page.subsystem_nqn), SUBSYSTEM);
        assert_eq!((page.controller_id.get(), page.max_transfer, page.controller_type), (ctrl.id, 6, 1));
        assert_eq!(page.io_command_capsule.get(), (64 + 8192) / 16);
        let queues = feature_select::set(0, 0, FeatureId::NUMBER_OF_QUEUES, 0x0001_0001);
        assert_eq!(rig.exec(0, ctrl.admin, queues, Payload::None).cqe.dw0.get(), 0x0001_0001);
        assert_eq!(rig.active(&ctrl), [1, 5]);
        let io = rig.io_queue(&ctrl, HOST, 1, digests);
        for (lba, bytes) in [(0, 4096), (7, 8192), (100, 12_288), (200, 65_536), (300, 262_144)] {
            let data = pattern(lba, bytes);
            assert_eq!(rig.write(0, io, 1, lba, &data), Status::SUCCESS);
            let back = rig.read(0, io, 1, lba, u32::try_from(bytes / 4096).unwrap());
            assert!(back.intact && back.cqe.status().is_success());
            assert_eq!(back.data, data);
        }
        assert!(
            rig.set_config(&ctrl, ControllerConfig::ENABLE.with_shutdown(ShutdownRequest::Normal))
                .cqe
                .status()
                .is_success()
        );
        assert!(
            ControllerStatus(u32::try_from(rig.property(&ctrl, Property::CSTS, false)).unwrap())
                .shutdown_complete()
        );
        rig.turns(50);
        assert!(rig.machines[0].is_gone(io));
        rig.machines[0].close(ctrl.admin);
        rig.turns(50);
        let stats = rig.cores[0].target.stats();
        assert_eq!((stats.connections, stats.controllers, stats.outstanding, stats.violations), (0, 0, 0, 0));
    }
}
