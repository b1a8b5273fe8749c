//! Conformance tables of Base Specification 2.0, section 8.19, and the life of registrations.

use super::{state::Outcome, *};
use crate::{NoticeKind, VolumeError, limits::MAX_REGISTRANTS};

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];
const C: HostId = [0xc; 16];

fn register(new_key: u64) -> ReservationCommand {
    change(RegisterAction::Register, 0, new_key)
}

fn change(action: RegisterAction, current_key: u64, new_key: u64) -> ReservationCommand {
    ReservationCommand::Register {
        action,
        ignore_existing_key: false,
        persist: PersistChange::Keep,
        current_key,
        new_key,
    }
}

fn acquire(action: AcquireAction, kind: ReservationType, key: u64, preempt_key: u64) -> ReservationCommand {
    ReservationCommand::Acquire {
        action,
        ignore_existing_key: false,
        kind: Some(kind),
        current_key: key,
        preempt_key,
    }
}

fn release(action: ReleaseAction, kind: Option<ReservationType>, key: u64) -> ReservationCommand {
    ReservationCommand::Release { action, ignore_existing_key: false, kind, current_key: key }
}

/// Applies a command that must be accepted; what it tells is returned.
fn run(state: &mut Reservations, host: HostId, command: ReservationCommand) -> Outcome {
    let out = state.apply(host, &command).unwrap();
    assert_eq!(record::decode(&record::encode(&out.next)), Ok(out.next.clone()), "every state has a record");
    *state = out.next.clone();
    out
}

/// A (key 1) holds `kind`, B (key 2) is registered, C is not.
fn held(kind: ReservationType) -> Reservations {
    let mut state = Reservations::default();
    run(&mut state, A, register(1));
    run(&mut state, B, register(2));
    run(&mut state, A, acquire(AcquireAction::Acquire, kind, 1, 0));
    state
}

#[test]
fn commands_in_the_presence_of_a_reservation() {
    use ReservationType as T;
    // Type; may a registrant that does not hold it (read, write); may another host (read, write).
    let table = [
        (T::WriteExclusive, (true, false), (true, false)),
        (T::ExclusiveAccess, (false, false), (false, false)),
        (T::WriteExclusiveRegistrantsOnly, (true, true), (true, false)),
        (T::ExclusiveAccessRegistrantsOnly, (true, true), (false, false)),
        (T::WriteExclusiveAllRegistrants, (true, true), (true, false)),
        (T::ExclusiveAccessAllRegistrants, (true, true), (false, false)),
    ];
    for (kind, registrant, other) in table {
        let state = held(kind);
        let may = |host| (state.permits(host, Access::Read), state.permits(host, Access::Write));
        assert_eq!((may(&A), may(&B), may(&C)), ((true, true), registrant, other), "{kind:?}");
    }
    let free = Reservations::default();
    assert!(free.permits(&C, Access::Read) && free.permits(&C, Access::Write));
}

#[test]
fn reservation_commands_in_the_presence_of_a_reservation() {
    for kind in ReservationType::ALL {
        let state = held(kind);
        let result = |host, command: ReservationCommand| state.apply(host, &command).map(|o| o.next);
        let conflict = Err(VolumeError::ReservationConflict);
        // Not registered: all but Register and Report conflict.
        assert_eq!(result(C, acquire(AcquireAction::Acquire, kind, 3, 0)), conflict);
        assert_eq!(result(C, acquire(AcquireAction::Preempt, kind, 3, 1)), conflict);
        assert_eq!(result(C, acquire(AcquireAction::PreemptAndAbort, kind, 3, 1)), conflict);
        assert_eq!(result(C, release(ReleaseAction::Release, Some(kind), 3)), conflict);
        assert_eq!(result(C, release(ReleaseAction::Clear, None, 3)), conflict);
        assert!(result(C, register(3)).is_ok());
        assert_eq!(result(C, ReservationCommand::Report), Ok(state.clone()));
        // A registrant with a wrong key: likewise.
        assert_eq!(result(B, acquire(AcquireAction::Preempt, kind, 9, 1)), conflict);
        assert_eq!(result(B, release(ReleaseAction::Clear, None, 9)), conflict);
        assert_eq!(result(B, change(RegisterAction::Unregister, 9, 0)), conflict);
        assert_eq!(result(B, change(RegisterAction::Replace, 9, 5)), conflict);
        // Acquiring what is held: the holder again with the same type, nobody else, no other type.
        assert_eq!(result(A, acquire(AcquireAction::Acquire, kind, 1, 0)), Ok(state.clone()));
        let second = result(B, acquire(AcquireAction::Acquire, kind, 2, 0));
        assert_eq!(second, if kind.is_all_registrants() { Ok(state.clone()) } else { conflict.clone() });
        for other in ReservationType::ALL.into_iter().filter(|o| *o != kind) {
            assert_eq!(result(A, acquire(AcquireAction::Acquire, other, 1, 0)), conflict);
            assert_eq!(result(A, release(ReleaseAction::Release, Some(other), 1)), Err(VolumeError::Invalid));
        }
        // Releasing what one does not hold does nothing and succeeds.
        if !kind.is_all_registrants() {
            assert_eq!(result(B, release(ReleaseAction::Release, Some(kind), 2)), Ok(state.clone()));
        }
    }
}

#[test]
fn registering() {
    let mut s = Reservations::default();
    assert_eq!(s.apply(A, &register(0)).unwrap_err(), VolumeError::Invalid);
    assert_eq!(s.apply([0; 16], &register(1)).unwrap_err(), VolumeError::Invalid);
    run(&mut s, A, register(1));
    run(&mut s, A, register(1));
    assert_eq!(s.apply(A, &register(2)).unwrap_err(), VolumeError::ReservationConflict);
    run(&mut s, A, change(RegisterAction::Replace, 1, 7));
    assert_eq!(
        s.apply(A, &change(RegisterAction::Unregister, 1, 0)).unwrap_err(),
        VolumeError::ReservationConflict
    );
    let force = |action, new_key| ReservationCommand::Register {
        action,
        ignore_existing_key: true,
        persist: PersistChange::Set,
        current_key: 99,
        new_key,
    };
    run(&mut s, A, force(RegisterAction::Replace, 8));
    assert_eq!(s.report().registrants, [Registrant { host: A, key: 8, holder: false }]);
    run(&mut s, A, force(RegisterAction::Unregister, 0));
    let report = s.report();
    assert_eq!((report.generation, report.persists, report.registrants.len()), (5, true, 0));
    assert_eq!(
        s.apply(A, &force(RegisterAction::Unregister, 0)).unwrap_err(),
        VolumeError::ReservationConflict
    );
    // Who is not registered has no key to replace, unless that is not to matter.
    let replace = change(RegisterAction::Replace, 0, 9);
    assert_eq!(s.apply(A, &replace).unwrap_err(), VolumeError::ReservationConflict);
    assert_eq!(s.apply(A, &force(RegisterAction::Replace, 0)).unwrap_err(), VolumeError::Invalid);
    run(&mut s, A, force(RegisterAction::Replace, 9));
    assert_eq!(s.report().registrants, [Registrant { host: A, key: 9, holder: false }]);
}

#[test]
fn persistence_can_be_set_alone_and_by_anyone() {
    let mut s = held(ReservationType::WriteExclusive);
    let before = s.report();
    for persists in [true, false] {
        run(&mut s, C, ReservationCommand::SetPersistence { persists });
        assert_eq!(s.report(), ReservationReport { persists, ..before.clone() });
    }
}

#[test]
fn registrants_are_bounded() {
    let mut s = Reservations::default();
    for i in 1..=u8::try_from(MAX_REGISTRANTS).unwrap() {
        run(&mut s, [i; 16], register(5));
    }
    assert_eq!(s.apply([255; 16], &register(1)).unwrap_err(), VolumeError::TooManyRegistrants);
    let replace = ReservationCommand::Register {
        action: RegisterAction::Replace,
        ignore_existing_key: true,
        persist: PersistChange::Keep,
        current_key: 0,
        new_key: 1,
    };
    assert_eq!(s.apply([255; 16], &replace).unwrap_err(), VolumeError::TooManyRegistrants);
}

#[test]
fn the_ignore_key_bit_and_a_missing_type_are_invalid() {
    let s = held(ReservationType::WriteExclusive);
    let bad_acquire = |ignore_existing_key, kind| ReservationCommand::Acquire {
        action: AcquireAction::Acquire,
        ignore_existing_key,
        kind,
        current_key: 1,
        preempt_key: 0,
    };
    assert_eq!(s.apply(A, &bad_acquire(false, None)).unwrap_err(), VolumeError::Invalid);
    let we = Some(ReservationType::WriteExclusive);
    assert_eq!(s.apply(A, &bad_acquire(true, we)).unwrap_err(), VolumeError::Invalid);
    let bad_release = ReservationCommand::Release {
        action: ReleaseAction::Release,
        ignore_existing_key: true,
        kind: we,
        current_key: 1,
    };
    assert_eq!(s.apply(A, &bad_release).unwrap_err(), VolumeError::Invalid);
}

#[test]
fn releasing_tells_the_others_when_the_type_is_shared() {
    for kind in ReservationType::ALL {
        let told = if kind.is_holder_only() { vec![] } else { vec![(B, NoticeKind::ReservationReleased)] };
        let mut s = held(kind);
        let generation = s.generation;
        assert_eq!(run(&mut s, A, release(ReleaseAction::Release, Some(kind), 1)).notices, told);
        assert_eq!((s.held, s.registrants.len(), s.generation), (None, 2, generation));

        let mut s = held(kind);
        let out = run(&mut s, A, change(RegisterAction::Unregister, 1, 0));
        if kind.is_all_registrants() {
            assert_eq!((s.held, out.notices), (Some((kind, None)), vec![]), "B still holds it");
            run(&mut s, B, change(RegisterAction::Unregister, 2, 0));
            assert_eq!(s.held, None);
        } else {
            assert_eq!((s.held, out.notices), (None, told));
        }
    }
}

#[test]
fn clearing_ends_everything() {
    let mut s = held(ReservationType::ExclusiveAccess);
    let generation = s.generation;
    let out = run(&mut s, B, release(ReleaseAction::Clear, None, 2));
    assert_eq!(out.notices, [(A, NoticeKind::ReservationPreempted)]);
    assert_eq!((s.held, s.registrants.len(), s.generation), (None, 0, generation + 1));
}

#[test]
fn preempting_the_holder_takes_its_place() {
    for old in ReservationType::ALL.into_iter().filter(|k| !k.is_all_registrants()) {
        for new in ReservationType::ALL {
            let mut s = held(old);
            run(&mut s, C, register(3));
            let out = run(&mut s, B, acquire(AcquireAction::PreemptAndAbort, new, 2, 1));
            let mut told = vec![(A, NoticeKind::RegistrationPreempted)];
            if old != new {
                told.push((C, NoticeKind::ReservationReleased));
            }
            assert_eq!((out.notices, out.abort), (told, vec![A]), "{old:?} to {new:?}");
            assert_eq!(s.report().kind, Some(new));
            assert!(s.is_holder_for_test(&B) && !s.permits(&A, Access::Write));
        }
        let s = held(old);
        let zero = acquire(AcquireAction::Preempt, old, 2, 0);
        assert_eq!(s.apply(B, &zero).unwrap_err(), VolumeError::Invalid);
        let nobody = acquire(AcquireAction::Preempt, old, 2, 77);
        assert_eq!(s.apply(B, &nobody).unwrap_err(), VolumeError::ReservationConflict);
    }
}

#[test]
fn a_holder_preempts_itself_to_change_the_type() {
    let mut s = held(ReservationType::WriteExclusive);
    let out = run(&mut s, A, acquire(AcquireAction::Preempt, ReservationType::ExclusiveAccess, 1, 1));
    assert_eq!(out.notices, [(B, NoticeKind::ReservationReleased)]);
    assert_eq!(s.held, Some((ReservationType::ExclusiveAccess, Some(A))));
    assert_eq!(s.registrants.len(), 2);
}

#[test]
fn preempting_registrants_leaves_the_reservation() {
    let kind = ReservationType::WriteExclusiveRegistrantsOnly;
    let mut s = held(kind);
    let out = run(&mut s, A, acquire(AcquireAction::Preempt, kind, 1, 2));
    assert_eq!(out.notices, [(B, NoticeKind::RegistrationPreempted)]);
    assert!(out.abort.is_empty(), "plain preempt calls nothing off");
    assert_eq!((s.held, s.registrants.len()), (Some((kind, Some(A))), 1));
    // Without a reservation only registrations go, and none is taken.
    let mut s = Reservations::default();
    run(&mut s, A, register(1));
    run(&mut s, B, register(2));
    run(&mut s, A, acquire(AcquireAction::Preempt, kind, 1, 2));
    assert_eq!((s.held, s.registrants.len()), (None, 1));
}

#[test]
fn preempting_all_registrants() {
    let kind = ReservationType::WriteExclusiveAllRegistrants;
    let mut s = held(kind);
    run(&mut s, C, register(3));
    let out = run(&mut s, B, acquire(AcquireAction::Preempt, ReservationType::WriteExclusive, 2, 0));
    let preempted = NoticeKind::RegistrationPreempted;
    assert_eq!(out.notices, [(A, preempted), (C, preempted)]);
    assert_eq!(s.held, Some((ReservationType::WriteExclusive, Some(B))));

    let mut s = held(kind);
    run(&mut s, B, acquire(AcquireAction::Preempt, kind, 2, 1));
    assert_eq!(
        (s.held, s.registrants.len()),
        (Some((kind, None)), 1),
        "one registration went, the rest holds"
    );
}

impl Reservations {
    fn is_holder_for_test(&self, host: &HostId) -> bool {
        self.report().registrants.iter().any(|r| r.host == *host && r.holder)
    }
}
