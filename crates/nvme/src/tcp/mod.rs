//! NVMe/TCP (NVM Express TCP Transport Specification 1.1): PDUs, digests and the connections of both sides.
//!
//! A connection here is a state machine without a socket. It is fed what was received, piece by piece, and says what
//! it means; what shall be sent is written by its encoders into a buffer of the caller.
//!
//! ```text
//!   socket -> chunk -> receive(&mut chunk) -> Event      one call per event, until None
//!   reply  -> write_*(&mut out) -> bytes -> socket       many replies staged one behind the other
//! ```
//!
//! **Receiving.** The chunk is lent; each call takes from its front what the next event needs. Headers that lie whole in
//! the chunk are read there, others are gathered in a fixed array, so the chunk may end anywhere and can be given back
//! as soon as `receive` answers `None`. Payload is never copied here: `Data` events lend it as slices of the chunk, and
//! the caller copies each byte once, to where it belongs.
//!
//! **Digests.** A header digest is verified before its PDU means anything; a wrong one is fatal. Data digests are
//! accumulated as the bytes pass by, and the verdict comes with the end of the data (`intact`): act on data only then.
//!
//! **Errors.** A [`Violation`] is the end of the connection: write the terminate request that names it
//! (`write_term_req`), send it, close. From then on `receive` swallows whatever comes.
//!
//! **Sending.** Encoders return how many bytes they wrote, `None` when `out` is too short (flush and try again;
//! [`MAX_HEADER_BYTES`] plus the payload plus [`DIGEST_BYTES`] always suffice). Payload is staged by the caller right
//! behind the header, then sealed with `finish_data`.

mod controller;
mod decoder;
mod framer;
mod host;
mod negotiate;
mod pdu;
mod violation;

pub use controller::{
    ADMIN_IN_CAPSULE_BYTES, C2hData, Controller, ControllerEvent, ControllerOptions, ControllerState,
    DataDue, DataEnd, DataSource, ImportError, QueueSettings, R2tError, R2tRequest,
};
pub use framer::{DataDigest, Digests};
pub use host::{CommandData, CommandError, Due, H2cPiece, Host, HostAnswer, HostEvent, HostOptions};
pub use negotiate::Negotiated;
pub use pdu::{
    CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_BYTES, DataHeader, IcReq, IcResp, MAX_HEADER_BYTES,
    PduKind, TermReqHeader, flags,
};
pub use violation::{Fes, TermReason, Violation};
