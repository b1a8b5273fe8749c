//! Random overlapping commands of all kinds against a flat array of bytes. Commands whose ranges overlap take effect in
//! the order of their arrival, so each one's outcome is known when it is sent.

use super::*;
use crate::backing::Refusal;

/// What a command is to answer.
enum Expect {
    Result(Result<(), VolumeError>),
    Data(Vec<u8>),
}

struct Model {
    bytes: Vec<u8>,
    sector: usize,
}

impl Model {
    fn range(&self, lba: u64, blocks: u32) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(lba).unwrap() * self.sector;
        let end = start + blocks as usize * self.sector;
        (end <= self.bytes.len()).then_some(start..end)
    }

    fn deallocate(&mut self, ranges: &[LbaRange]) {
        let mut gone = vec![false; self.bytes.len()];
        for r in ranges {
            gone[self.range(r.lba, r.blocks).unwrap()].fill(true);
        }
        for (block, gone) in self.bytes.chunks_mut(4096).zip(gone.chunks(4096)) {
            if gone.iter().all(|&g| g) {
                block.fill(0);
            }
        }
    }
}

fn random_range(rng: &mut Rng, sectors: u64, longest: u64) -> LbaRange {
    let lba = rng.below(sectors);
    LbaRange { lba, blocks: u32::try_from(1 + rng.below(longest.min(sectors - lba))).unwrap() }
}

/// A random command, its effect on the model, and what it is to answer.
fn random_command(rng: &mut Rng, bench: &Bench, model: &mut Model) -> (Command, Expect) {
    let sectors = (model.bytes.len() / model.sector) as u64;
    let mut r = random_range(rng, sectors, 20);
    if rng.below(40) == 0 {
        r.blocks += u32::try_from(sectors).unwrap();
        r.blocks = r.blocks.min(u32::try_from(65536 * 4 / model.sector).unwrap());
    }
    let Some(at) = model.range(r.lba, r.blocks) else {
        let buf = bench.data.alloc(r.blocks as usize * model.sector).unwrap();
        let command = Command::Read { lba: r.lba, blocks: r.blocks, buf };
        return (command, Expect::Result(Err(VolumeError::OutOfRange)));
    };
    let mut fresh = vec![0u8; at.len()];
    let fill = rng.below(4);
    fresh.iter_mut().for_each(|b| *b = u8::try_from(rng.below(200) + 1 + fill).unwrap());
    let matching = rng.below(2) == 0;
    let (lba, blocks) = (r.lba, r.blocks);
    match rng.below(10) {
        0..=2 => {
            let buf = bench.data.alloc(at.len()).unwrap();
            (Command::Read { lba, blocks, buf }, Expect::Data(model.bytes[at].to_vec()))
        }
        3 | 4 => {
            let buf = bench.buf(&fresh);
            model.bytes[at].copy_from_slice(&fresh);
            (Command::Write { lba, blocks, buf }, Expect::Result(Ok(())))
        }
        5 => {
            let mut claim = model.bytes[at].to_vec();
            let last = claim.len() - 1;
            claim[last] ^= u8::from(!matching);
            let result = if matching { Ok(()) } else { Err(VolumeError::CompareFailed) };
            (Command::Compare { lba, blocks, buf: bench.buf(&claim) }, Expect::Result(result))
        }
        6 => {
            let mut claim = model.bytes[at.clone()].to_vec();
            claim[0] ^= u8::from(!matching);
            let (compare, write) = (bench.buf(&claim), bench.buf(&fresh));
            let result = if matching { Ok(()) } else { Err(VolumeError::CompareFailed) };
            if matching {
                model.bytes[at].copy_from_slice(&fresh);
            }
            (Command::CompareAndWrite { lba, blocks, compare, write }, Expect::Result(result))
        }
        7 => {
            model.bytes[at].fill(0);
            (Command::WriteZeroes { lba, blocks, deallocate: matching }, Expect::Result(Ok(())))
        }
        8 => {
            let ranges: Vec<LbaRange> =
                (0..1 + rng.below(4)).map(|_| random_range(rng, sectors, 24)).collect();
            model.deallocate(&ranges);
            (Command::Deallocate { ranges: ranges.into() }, Expect::Result(Ok(())))
        }
        _ => {
            let sources: Vec<LbaRange> =
                (0..1 + rng.below(3)).map(|_| random_range(rng, sectors, (sectors / 4).min(8))).collect();
            let total: u32 = sources.iter().map(|s| s.blocks).sum();
            let dest = rng.below(sectors - u64::from(total));
            let mut copied = Vec::new();
            for s in &sources {
                copied.extend_from_slice(&model.bytes[model.range(s.lba, s.blocks).unwrap()]);
            }
            let to = model.range(dest, total).unwrap();
            model.bytes[to].copy_from_slice(&copied);
            (Command::Copy { sources: sources.into(), dest }, Expect::Result(Ok(())))
        }
    }
}

fn check(token: u64, expect: &Expect, reply: Reply) {
    match expect {
        Expect::Result(result) => {
            assert_eq!(reply.result.map(|_| ()), *result, "command {token}");
        }
        Expect::Data(data) => {
            assert_eq!(reply.result, Ok(Done::Ok), "command {token}");
            assert!(*reply.buf.unwrap() == **data, "command {token} read something else");
        }
    }
}

fn run(seed: u64, sector: SectorSize, kind: VolumeKind) {
    let mut rng = Rng(seed);
    let mut bench = Bench::new();
    let volume = bench.create(descriptor(1, sector, kind, 16));
    bench.volumes.volume_limit = if seed.is_multiple_of(3) { 5 } else { limits::MAX_VOLUME_COMMANDS };
    let mut model = Model { bytes: vec![0; 16 * 4096], sector: sector.bytes() as usize };
    let mut expected: BTreeMap<u64, Expect> = BTreeMap::new();
    for _ in 0..300 {
        while expected.len() < 24 && rng.below(4) != 0 {
            let (command, expect) = random_command(&mut rng, &bench, &mut model);
            expected.insert(bench.send(volume, command), expect);
        }
        bench.log.refuse = (rng.below(6) == 0).then_some(Refusal::Busy);
        bench.step();
        for _ in 0..rng.below(6) {
            let done = if !bench.log.reads.is_empty() && rng.below(2) == 0 {
                let n = rng.below(bench.log.reads.len() as u64);
                Some(bench.log.end_read(usize::try_from(n).unwrap()))
            } else {
                bench.log.end_append()
            };
            done.into_iter().for_each(|d| bench.volumes.on_store_done(d));
        }
        bench.step();
        for (token, reply) in std::mem::take(&mut bench.replies) {
            check(token, &expected.remove(&token).unwrap(), reply);
        }
    }
    bench.log.refuse = None;
    bench.settle();
    for (token, reply) in std::mem::take(&mut bench.replies) {
        check(token, &expected.remove(&token).unwrap(), reply);
    }
    assert!(expected.is_empty(), "every command is answered");
    let sectors = u32::try_from(model.bytes.len() / model.sector).unwrap();
    assert!(bench.read(volume, 0, sectors, model.sector) == model.bytes);
    assert_eq!((bench.volumes.outstanding(), bench.volumes.locks.len()), (0, 0));
    assert_eq!(bench.log.pool.available(1), 48, "every buffer is back");
    assert_eq!(bench.data.available(1), 128, "every buffer of the host is back");
}

#[test]
fn durable_volumes_of_4096_bytes() {
    (0..40).for_each(|seed| run(seed, SectorSize::B4096, VolumeKind::Durable));
}

#[test]
fn durable_volumes_of_512_bytes() {
    (100..160).for_each(|seed| run(seed, SectorSize::B512, VolumeKind::Durable));
}

#[test]
fn memory_volumes() {
    (200..220).for_each(|seed| run(seed, SectorSize::B512, VolumeKind::Memory));
    (220..230).for_each(|seed| run(seed, SectorSize::B4096, VolumeKind::Memory));
}
