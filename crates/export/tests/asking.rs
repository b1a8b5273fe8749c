//! What clients ask about exports: which there are, and what is stored in them.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod support;

use dolmen_export::{
    Export,
    backend::{Failure, Place},
};
use support::{Rig, WRITE, export, go, option_bytes};

#[test]
fn what_is_stored_is_told_to_those_who_agreed_on_it() {
    let dumb = Export { maps: false, ..export("dumb", 2, 16) };
    let mut rig = Rig::new(41, vec![export("thin", 1, 64), dumb], |_| {});
    let client = rig.connect();
    rig.greet(client, 3);
    rig.option(client, 10, &go("thin", &[]));
    assert_eq!(rig.option_reply(client, 10).0, 1 << 31 | 3, "structured replies come first");
    rig.option(client, 8, &[]);
    assert_eq!(rig.option_reply(client, 8), (1, vec![]));
    // Every list of queries that is cut off or too long is refused.
    let good =
        [&4u32.to_be_bytes()[..], b"thin", &1u32.to_be_bytes(), &5u32.to_be_bytes(), b"base:"].concat();
    for cut in 0..good.len() {
        rig.option(client, 9, &good[..cut]);
        assert_eq!(rig.option_reply(client, 9).0, 1 << 31 | 3, "{cut}");
    }
    rig.option(client, 9, &[&good[..], b"x"].concat());
    assert_eq!(rig.option_reply(client, 9).0, 1 << 31 | 3);
    rig.option(client, 9, &good);
    let told = [&1u32.to_be_bytes()[..], b"base:allocation"].concat();
    assert_eq!(rig.option_reply(client, 9), (4, told));
    assert_eq!(rig.option_reply(client, 9), (1, vec![]));
    assert!(!rig.ask_allocation(client, "dumb"));
    assert!(rig.ask_allocation(client, "thin"));
    rig.option(client, 7, &go("thin", &[]));
    while rig.option_reply(client, 7).0 != 1 {}
    let (other, _) = rig.open("thin", true);
    assert_eq!(rig.map(other, 0, 0, 4096), Err(22), "who has not agreed on it");
    assert_eq!(rig.map(client, 0, 0, 64 * 4096), Ok(vec![(64 * 4096, 3)]));
    let Place::Volume(at) = export("thin", 1, 64).place else { unreachable!() };
    rig.ram.disks.get_mut(&at.slot).unwrap()[2 * 4096..5 * 4096].fill(7);
    assert_eq!(rig.map(client, 0, 0, 64 * 4096), Ok(vec![(8192, 3), (12_288, 0), (59 * 4096, 3)]));
    assert_eq!(rig.map(client, 0, 4096 + 100, 8192), Ok(vec![(3996, 3), (4196, 0)]));
    assert_eq!(rig.map(client, 1 << 3, 8192, 65_536), Ok(vec![(12_288, 0)]), "one alone");
    for (flags, offset, length) in [(0, 0, 0), (0, 63 * 4096, 8192), (1 << 2, 0, 4096), (0, u64::MAX, 4096)] {
        assert_eq!(rig.map(client, flags, offset, length), Err(22));
    }
    rig.ram.failures = vec![Failure::Failed];
    assert_eq!(rig.map(client, 0, 0, 4096), Err(5));
}

/// It is a question, not a change.
#[test]
fn what_is_stored_is_told_of_read_only_exports_too() {
    let mut rig = Rig::new(43, vec![Export { read_only: true, ..export("ro", 1, 64) }], |_| {});
    let client = rig.connect();
    rig.greet(client, 3);
    rig.option(client, 8, &[]);
    assert_eq!(rig.option_reply(client, 8), (1, vec![]));
    assert!(rig.ask_allocation(client, "ro"));
    rig.option(client, 7, &go("ro", &[]));
    while rig.option_reply(client, 7).0 != 1 {}
    assert_eq!(rig.map(client, 0, 0, 64 * 4096), Ok(vec![(64 * 4096, 3)]));
    assert_eq!(rig.execute(client, WRITE, 0, 0, &[1; 4096]), 1, "EPERM");
}

/// Who lists what there is asks several things of each export.
#[test]
fn a_client_may_ask_about_every_export() {
    let many = (0..100).map(|number| export(&format!("v{number}"), number, 16)).collect();
    let mut rig = Rig::new(44, many, |_| {});
    let client = rig.connect();
    rig.greet(client, 3);
    rig.option(client, 8, &[]);
    assert_eq!(rig.option_reply(client, 8), (1, vec![]));
    rig.option(client, 3, &[]);
    let mut names = 0;
    while rig.option_reply(client, 3).0 != 1 {
        names += 1;
    }
    assert_eq!(names, 100);
    for number in 0..100 {
        let name = format!("v{number}");
        rig.option(client, 6, &go(&name, &[1, 2, 3]));
        while rig.option_reply(client, 6).0 != 1 {}
        let asked =
            [&u32::try_from(name.len()).unwrap().to_be_bytes()[..], name.as_bytes(), &[0; 4]].concat();
        rig.option(client, 9, &asked);
        while rig.option_reply(client, 9).0 != 1 {}
    }
    // Who never chooses is sent away all the same.
    for _ in 0..500 {
        rig.say(client, &option_bytes(8, &[]));
    }
    rig.until_ended(client);
}
