//! The simulated world behind the `io` seam: virtual time, drives that lose power, a network that cuts streams anywhere,
//! and one seed from which everything follows.
//!
//! ```
//! use dolmen_io::{Io, OpenDrive};
//! use dolmen_sim::{CoreConfig, World};
//!
//! let world = World::new(42);
//! let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
//! let drive = OpenDrive { path: "d0".into(), create_bytes: Some(1 << 30), sparse: true, exclusive: true };
//! let info = io.open_drive(&drive).unwrap();
//! // ... run the store over `io` for some turns, then pull the plug and start again:
//! world.crash();
//! drop(io);
//! let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
//! assert!(!io.open_drive(&drive).unwrap().created);
//! # let _ = info;
//! ```
//!
//! Everything runs in the calling thread. Drives are known by (machine, path) and outlive processes.
#![forbid(unsafe_code)]

mod bay;
mod config;
mod drive;
mod driver;
mod image;
mod net;
mod record;
mod rng;
mod world;

pub use config::{CoreConfig, DriveFaults, Fault, NodeId};
pub use drive::{DriveSpec, SECTOR};
pub use driver::SimDriver;
pub use image::Image;
pub use record::{CrashLimits, CrashState, CrashStates, Recording};
pub use rng::Rng;
pub use world::World;
