//! Where the time of commands went, as the data plane tells it: the words, no judgement (that is [`crate::why`]'s).

use dolmen_types::{CoreId, Nqn};

/// A part of the way of one command. The order is the usual order on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum TraceStage {
    /// Its bytes may have waited for the core to look at the socket: so long at most.
    Socket,
    /// The host's data was on its way after the command.
    Data,
    /// It waited in the target for memory.
    Memory,
    /// It was on its way to the volume's home core.
    Crossing,
    /// The QoS policy held it back.
    Qos,
    /// The volume, or the core, had as many commands under way as it may.
    Backlog,
    /// Commands on the same blocks were before it.
    Locks,
    /// What it does not overwrite of its blocks was read.
    Edges,
    /// It waited in the store until its drive operations were submitted.
    Store,
    /// Its blocks were compressed or expanded, encrypted or decrypted, checked.
    Codec,
    /// Drives worked on it.
    Drive,
    /// Commits before its own were not applied yet, or more of it was to be read.
    Order,
    /// The answer was on its way to the connection's core, or waited there for memory.
    Return,
    /// The reply waited for the socket and was copied into it.
    Send,
}

impl TraceStage {
    /// How many there are.
    pub const COUNT: usize = 14;

    /// All of them, in order.
    pub const ALL: [TraceStage; TraceStage::COUNT] = [
        TraceStage::Socket,
        TraceStage::Data,
        TraceStage::Memory,
        TraceStage::Crossing,
        TraceStage::Qos,
        TraceStage::Backlog,
        TraceStage::Locks,
        TraceStage::Edges,
        TraceStage::Store,
        TraceStage::Codec,
        TraceStage::Drive,
        TraceStage::Order,
        TraceStage::Return,
        TraceStage::Send,
    ];

    /// Its name for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TraceStage::Socket => "socket",
            TraceStage::Data => "data",
            TraceStage::Memory => "memory",
            TraceStage::Crossing => "crossing",
            TraceStage::Qos => "qos",
            TraceStage::Backlog => "backlog",
            TraceStage::Locks => "locks",
            TraceStage::Edges => "edges",
            TraceStage::Store => "store",
            TraceStage::Codec => "codec",
            TraceStage::Drive => "drive",
            TraceStage::Order => "order",
            TraceStage::Return => "return",
            TraceStage::Send => "send",
        }
    }

    /// What happens in it, for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            TraceStage::Socket => "waited in the socket for the core, at most",
            TraceStage::Data => "the host's data on its way",
            TraceStage::Memory => "waited for memory",
            TraceStage::Crossing => "on its way to the home core",
            TraceStage::Qos => "held back by the QoS policy",
            TraceStage::Backlog => "too many commands under way",
            TraceStage::Locks => "waited for commands on the same blocks",
            TraceStage::Edges => "read the rest of its blocks",
            TraceStage::Store => "waited in the store",
            TraceStage::Codec => "compression, encryption, checks",
            TraceStage::Drive => "in the drives",
            TraceStage::Order => "earlier commits",
            TraceStage::Return => "on its way back",
            TraceStage::Send => "into the socket",
        }
    }
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TraceKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Anything else, by its NVMe opcode.
    Other(u8),
}

/// One command that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTrace {
    /// What it did.
    pub kind: TraceKind,
    /// It was answered with an error.
    pub failed: bool,
    /// It stands for so many commands like it.
    pub weight: u32,
    /// First logical block.
    pub lba: u64,
    /// Logical blocks of a read or write.
    pub blocks: u32,
    /// How long ago it was received. Nanoseconds.
    pub age_ns: u64,
    /// The host, if its connection is still there.
    pub host: Option<Nqn>,
    /// The core of its connection.
    pub core: CoreId,
    /// Commands under way on its connection when it was answered; 0 when it was answered on the spot.
    pub outstanding: u32,
    /// Path of the drive that it waited for last.
    pub drive: Option<String>,
    /// Time in each stage. Nanoseconds.
    pub stages: [u64; TraceStage::COUNT],
}

impl CommandTrace {
    /// From the socket to the socket. Nanoseconds.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.stages.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// What the data plane knows of one volume's commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeTraces {
    /// Commands answered lately, in no order: a sample that does not look at how long they took.
    pub recent: Vec<CommandTrace>,
    /// The slowest ones of the last half minute or so.
    pub slowest: Vec<CommandTrace>,
    /// Commands that the QoS policy holds back now, with the time that they have waited so far.
    pub waiting: Vec<CommandTrace>,
}
