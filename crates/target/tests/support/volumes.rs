//! Volumes in memory: just enough of what a volume promises to tell whether the target kept its side.

use dolmen_target::Namespace;
use dolmen_types::CoreId;
use dolmen_volume::*;
use std::collections::BTreeMap;

pub struct Volume {
    pub data: Vec<u8>,
    pub sector: usize,
    pub report: ReservationReport,
}

#[derive(Default)]
pub struct Memory {
    pub volumes: BTreeMap<u32, Volume>,
    pub requests: Vec<Request>,
    /// Keep requests instead of answering them.
    pub hold: bool,
    /// Keep those of one volume: its slot.
    pub slow: Option<u32>,
    /// So many of them are answered all the same.
    let_on: usize,
    pub answered: u64,
    /// What was called off, and is to be answered so.
    called_off: Vec<Request>,
}

impl Memory {
    pub fn ensure(&mut self, space: &Namespace) {
        let bytes = usize::try_from(space.size_bytes).unwrap();
        let volume = self.volumes.entry(space.volume.slot).or_insert_with(|| Volume {
            data: Vec::new(),
            sector: space.sector.bytes() as usize,
            report: ReservationReport::default(),
        });
        volume.data.resize(bytes, 0);
    }

    pub fn run(&mut self) -> Vec<(CoreId, Reply)> {
        let off = std::mem::take(&mut self.called_off);
        let mut replies: Vec<_> = off.into_iter().map(|r| (r.from, refused(r))).collect();
        if !self.hold {
            let Memory { requests, slow, let_on, .. } = self;
            let mut goes_on = |r: &mut Request| {
                Some(r.volume.slot) != *slow || std::mem::replace(let_on, let_on.saturating_sub(1)) > 0
            };
            let requests: Vec<_> = requests.extract_if(.., |r| goes_on(r)).collect();
            replies.extend(requests.into_iter().map(|r| (r.from, self.answer(r))));
        }
        replies
    }

    /// Answers some more of the slow volume's requests.
    pub fn let_on(&mut self, requests: usize) {
        self.let_on += requests;
    }

    /// Nobody waits for these any more.
    pub fn call_off(&mut self, from: CoreId, tokens: &[u64]) {
        self.called_off.extend(self.requests.extract_if(.., |r| r.from == from && tokens.contains(&r.token)));
    }

    fn answer(&mut self, request: Request) -> Reply {
        self.answered += 1;
        let mut reply = Reply {
            token: request.token,
            result: Ok(Done::Ok),
            buf: None,
            buf2: None,
            stamps: request.stamps,
        };
        let Some(volume) = self.volumes.get_mut(&request.volume.slot) else {
            reply.result = Err(VolumeError::Gone);
            return reply;
        };
        reply.result = volume.carry_out(request.host_id, request.command, &mut reply.buf, &mut reply.buf2);
        reply
    }
}

fn refused(request: Request) -> Reply {
    let buf = match request.command {
        Command::Read { buf, .. } | Command::Write { buf, .. } | Command::Compare { buf, .. } => Some(buf),
        _ => None,
    };
    let Request { token, stamps, .. } = request;
    Reply { token, result: Err(VolumeError::CalledOff), buf, buf2: None, stamps }
}

type Slot = Option<dolmen_io::Buf>;

impl Volume {
    fn range(&self, lba: u64, blocks: u64) -> Result<std::ops::Range<usize>, VolumeError> {
        let start = usize::try_from(lba).ok().and_then(|l| l.checked_mul(self.sector));
        let start = start.ok_or(VolumeError::OutOfRange)?;
        let end = start.checked_add(usize::try_from(blocks).unwrap() * self.sector);
        end.filter(|&e| e <= self.data.len()).map(|e| start..e).ok_or(VolumeError::OutOfRange)
    }

    fn carry_out(
        &mut self,
        host: HostId,
        command: Command,
        one: &mut Slot,
        two: &mut Slot,
    ) -> Result<Done, VolumeError> {
        match command {
            Command::Read { lba, blocks, mut buf } => {
                let range = self.range(lba, blocks.into());
                if let Ok(range) = range.clone() {
                    assert_eq!(buf.len(), range.len());
                    buf.copy_from_slice(&self.data[range]);
                }
                *one = Some(buf);
                range?;
            }
            Command::Write { lba, blocks, buf } => {
                let range = self.range(lba, blocks.into());
                if let Ok(range) = range.clone() {
                    self.data[range].copy_from_slice(&buf);
                }
                *one = Some(buf);
                range?;
            }
            Command::Compare { lba, blocks, buf } => {
                let same = self.range(lba, blocks.into()).map(|r| self.data[r] == *buf);
                *one = Some(buf);
                if !same? {
                    return Err(VolumeError::CompareFailed);
                }
            }
            Command::CompareAndWrite { lba, blocks, compare, write } => {
                let range = self.range(lba, blocks.into())?;
                let same = self.data[range.clone()] == *compare;
                if same {
                    self.data[range].copy_from_slice(&write);
                }
                (*one, *two) = (Some(compare), Some(write));
                if !same {
                    return Err(VolumeError::CompareFailed);
                }
            }
            Command::WriteZeroes { lba, blocks, .. } => {
                let range = self.range(lba, blocks.into())?;
                self.data[range].fill(0);
            }
            Command::Deallocate { ranges } => {
                for r in &ranges {
                    let range = self.range(r.lba, r.blocks.into())?;
                    self.data[range].fill(0);
                }
            }
            Command::Verify { lba, blocks } => {
                self.range(lba, blocks.into())?;
            }
            Command::Allocation { .. } => unreachable!("no NVMe command asks for that"),
            Command::Copy { sources, dest } => {
                let mut all = Vec::new();
                for r in &sources {
                    let range = self.range(r.lba, r.blocks.into())?;
                    all.extend_from_slice(&self.data[range]);
                }
                let range = self.range(dest, (all.len() / self.sector) as u64)?;
                self.data[range].copy_from_slice(&all);
            }
            Command::Flush => {}
            Command::Reservation(command) => return self.reservation(host, command),
        }
        Ok(Done::Ok)
    }

    /// Only registrations: what matters here is that commands and reports cross the wire unharmed.
    fn reservation(&mut self, host: HostId, command: ReservationCommand) -> Result<Done, VolumeError> {
        match command {
            ReservationCommand::Register { new_key, .. } => {
                self.report.generation += 1;
                self.report.registrants.push(Registrant { host, key: new_key, holder: false });
            }
            ReservationCommand::Acquire { kind, current_key, .. } => {
                let mine = self.report.registrants.iter_mut().find(|r| r.key == current_key);
                mine.ok_or(VolumeError::ReservationConflict)?.holder = true;
                self.report.kind = kind;
            }
            ReservationCommand::Release { .. } => {
                self.report.kind = None;
                self.report.registrants.iter_mut().for_each(|r| r.holder = false);
            }
            ReservationCommand::SetPersistence { persists } => self.report.persists = persists,
            ReservationCommand::Report => return Ok(Done::Report(Box::new(self.report.clone()))),
        }
        Ok(Done::Ok)
    }
}
