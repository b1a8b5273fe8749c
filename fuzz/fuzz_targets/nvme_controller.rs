//! What a host can send to the controller's end of a connection.
//!
//! The last three bytes choose digests and alignment, the size of the chunks, and whether the handshake and some
//! R2Ts lie behind us already, and whether data that is whole is passed over; so a captured PDU is a good seed as it is.
#![no_main]

use dolmen_nvme::tcp::{
    Controller, ControllerEvent, ControllerOptions, DataSource, Digests, IcReq, MAX_HEADER_BYTES,
    QueueSettings, R2tRequest,
};
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

const R2T_BYTES: u32 = 600;

fuzz_target!(|input: &[u8]| {
    let Some((bytes, &[choice, chunk_bytes, started])) = input.split_last_chunk::<3>() else { return };
    let digests = Digests::from_bits(choice);
    let mut controller =
        Controller::new(ControllerOptions { digests, alignment: choice >> 3, max_h2c_data: 4096 });
    let mut out = [0; MAX_HEADER_BYTES];
    if started & 1 != 0 {
        let request = IcReq::new(0, digests.bits(), 0);
        controller.receive(&mut request.as_bytes()).expect("a good ICReq");
        controller.set_queue(QueueSettings { in_capsule_bytes: 8192, max_transfers: 4 });
        for cid in 0..3 {
            let request = R2tRequest { cid, token: u32::from(cid), offset: 0, length: R2T_BYTES };
            controller.write_r2t(&mut out, request).expect("room and tags");
        }
    }
    let mut capsule_left = 0usize;
    for mut chunk in bytes.chunks(usize::from(chunk_bytes) + 1) {
        loop {
            // What is said to come next may have been put where it belongs before it is looked at.
            let due = controller.data_due().filter(|_| !chunk.is_empty());
            let event = controller.receive(&mut chunk);
            if let Some(due) = due {
                assert!(due.left > 0);
                let Ok(Some(ControllerEvent::Data { source, offset, bytes })) = &event else {
                    panic!("{event:?} instead of {due:?}")
                };
                assert_eq!((*source, *offset), (DataSource::Transfer(due.token), due.offset));
                assert!(bytes.len() == due.left as usize || bytes.len() < due.left as usize && chunk.is_empty());
            }
            match event {
                Ok(Some(ControllerEvent::Command { capsule_data, .. })) => {
                    assert!(capsule_left == 0 && capsule_data <= 8192);
                    capsule_left = capsule_data as usize;
                    if started & 2 != 0 && capsule_left > 0 {
                        let whole = controller.whole_data(chunk).map(<[u8]>::len);
                        let before = chunk.len();
                        controller.pass_data(&mut chunk);
                        if let Some(whole) = whole {
                            assert!(whole == capsule_left && before - chunk.len() >= whole);
                            capsule_left = 0;
                        } else {
                            assert_eq!(before, chunk.len());
                        }
                    }
                }
                Ok(Some(ControllerEvent::Data { source: DataSource::Capsule, bytes, .. })) => {
                    capsule_left = capsule_left.checked_sub(bytes.len()).expect("no more than announced");
                }
                Ok(Some(ControllerEvent::Data { source: DataSource::Transfer(token), offset, bytes })) => {
                    assert!(token < 3 && !bytes.is_empty());
                    assert!(offset as usize + bytes.len() <= R2T_BYTES as usize);
                }
                Ok(Some(ControllerEvent::DataEnd { .. })) => assert_eq!(capsule_left, 0),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(violation) => {
                    controller.write_term_req(&mut out, &violation).expect("room for a terminate request");
                }
            }
        }
        assert!(chunk.is_empty());
    }
    if let Some(state) = controller.export() {
        let twin = Controller::import(&state).expect("our own state");
        assert_eq!(twin.export(), Some(state));
    }
});
