//! What must hold: contents, lists of changes, bytes that are counted.

use crate::common::*;
use crate::run::Run;
use crate::state::*;
use dolmen_store::*;
use dolmen_types::{Lba, LineId, PgId, Seq};
use std::collections::{BTreeMap, BTreeSet};

impl Run {
    pub(crate) fn verify(&mut self) {
        for g in 0..self.groups.len() {
            let (pg, model) = (self.groups[g].pg, self.groups[g].durable.clone());
            let core = self.node.core_of(PgId(pg));
            let ours = |l: &LineId| l.0 / 1000 == u64::from(pg);
            let lines: BTreeSet<u64> =
                self.node.stores[core].lines(PgId(pg)).into_iter().filter(ours).map(|l| l.0).collect();
            assert_eq!(lines, model.heads.keys().copied().collect(), "lines of group {pg}");
            let heads = model.heads.iter().map(|(line, state)| (*line, None, state));
            let snapshots = model.points.iter().filter(|(_, p)| p.listed);
            let snapshots = snapshots.map(|((line, at), p)| (*line, Some(*at), &p.state));
            for (line, at, state) in heads.chain(snapshots) {
                let info = self.node.stores[core].line(PgId(pg), LineId(line)).unwrap();
                let listed = model.points.range((line, 0)..(line + 1, 0)).filter(|(_, p)| p.listed);
                assert_eq!(info.snapshots, listed.map(|((_, at), _)| Seq(*at)).collect::<Vec<_>>());
                let mut lba = 0;
                while lba < self.blocks {
                    let n = (1 + self.below(20)).min(self.blocks - lba);
                    let got = self.node.read_at(pg, line, at, lba, n as usize).unwrap();
                    let want: Vec<u64> =
                        (lba..lba + n).map(|b| state.get(&b).copied().unwrap_or(0)).collect();
                    assert_eq!(got, want, "line {line} at {at:?} from {lba}");
                    lba += n;
                }
            }
            self.compare_states(pg, &model);
            let mut objects = BTreeMap::new();
            self.node.stores[core].for_each_object(PgId(pg), |k, v| {
                assert_eq!(v.len(), 1 + k.id as usize * 100);
                objects.insert(k.id, v[0]);
            });
            let want: BTreeMap<u128, u8> = model.objects.iter().map(|(k, v)| (*k, *v as u8)).collect();
            assert_eq!(objects, want, "objects of group {pg}");
        }
    }

    /// The list of changes between some two states is exactly what differs.
    pub(crate) fn compare_states(&mut self, pg: u32, model: &Model) {
        let heads = model.heads.iter().map(|(l, s)| (*l, None, s));
        let points =
            model.points.iter().filter(|(_, p)| p.listed).map(|((l, at), p)| (*l, Some(*at), &p.state));
        let states: Vec<(u64, Option<u64>, &State)> = heads.chain(points).collect();
        if states.is_empty() {
            return;
        }
        let to = states[self.below(states.len() as u64) as usize];
        let from = (self.below(4) > 0).then(|| states[self.below(states.len() as u64) as usize]);
        let view = |s: (u64, Option<u64>, &State)| View { line: LineId(s.0), at: s.1.map(Seq) };
        let (first, end) = (self.below(self.blocks), self.blocks + self.below(2) * 1_000_000);
        let mut request = DiffRequest {
            from: from.map(view),
            to: view(to),
            first: Lba(first),
            end: Lba(end),
            limit: 1 + self.below(30) as usize,
        };
        let (mut found, mut next) = (BTreeMap::new(), Some(Lba(first)));
        while let Some(lba) = next {
            request.first = lba;
            let page = self.node.diff(pg, request).unwrap();
            assert!(page.ranges.len() <= request.limit);
            for range in page.ranges {
                let blocks = range.lba.0..range.lba.0 + range.blocks.0;
                blocks.for_each(|b| {
                    assert!(found.insert(b, range.mapped).is_none(), "block {b} is named twice")
                });
            }
            next = page.next;
        }
        let value = |s: Option<&State>, b: &u64| s.and_then(|s| s.get(b).copied()).unwrap_or(0);
        let want: BTreeMap<u64, bool> = (first..self.blocks.min(end))
            .filter(|b| value(from.map(|f| f.2), b) != value(Some(to.2), b))
            .map(|b| (b, value(Some(to.2), &b) != 0))
            .collect();
        assert_eq!(found, want, "changes from {:?} to {:?}", request.from, request.to);
    }

    /// Waits until drives that leave have left: that takes as long as moving what they hold, and no longer.
    fn until_left(&mut self) {
        let waits = |d: &DriveStanding| matches!(d.state, DriveState::Leaving | DriveState::Out);
        for _ in 0..200_000 {
            if !self.node.owner.drives().iter().any(waits) {
                return;
            }
            self.node.turn();
        }
        panic!("a drive does not leave: {:?} {:?}", self.node.owner.drives(), self.node.space());
    }

    /// After some checkpoints exactly what somebody can read is stored.
    pub(crate) fn exact(&mut self) {
        self.settle();
        self.until_left();
        let want: usize = self.groups.iter().map(|g| g.durable.stored()).sum();
        let (mut bytes, mut lines) = (0, Ok(()));
        // Sweeps take a checkpoint behind the drop, and what the cleaner moves beside one counts twice until the next.
        for _ in 0..20 {
            self.node.checkpoint();
            let spaces = self.node.stores.iter().map(Store::space);
            bytes = spaces.map(|s| s.live_bytes - s.map_bytes).sum::<u64>();
            assert!(bytes >= want as u64, "{bytes} bytes are counted, {want} can be read");
            // In a full pool of tiny units there is always something that the cleaner is just moving, and counts twice. What it moved out
            // of a segment that was given back since counts twice for its line alone.
            if bytes == want as u64 {
                lines = self.exact_usage();
                if lines.is_ok() {
                    return;
                }
            }
            if self.full && bytes - want as u64 <= 64 * BLOCK as u64 {
                return;
            }
        }
        assert_eq!(bytes, want as u64, "bytes stored, and bytes that somebody can read");
        panic!("{lines:?}");
    }

    /// The power is off: what the map names is there, even what nobody could read.
    pub(crate) fn check_offline(&self) {
        if self.losses > 0 || self.spoilt > 0 || self.rotten > 0 || self.exchanges {
            return;
        }
        let (mut io, mut exec, drives) = offline(&self.world, &self.setup);
        let checking = check_pool(exec.handle(), drives, keyring());
        let report = run(&mut io, &mut exec, checking).unwrap();
        assert_eq!(report.problems, 0, "{report:?}");
    }

    /// What is told of each line is what the model makes of it: its head's blocks, what the head alone needs, what it shares with
    /// snapshots, what snapshots alone need.
    fn exact_usage(&self) -> Result<(), String> {
        for group in &self.groups {
            let store = &self.node.stores[self.node.core_of(PgId(group.pg))];
            for line in (1 + u64::from(group.pg) * 1000..group.next_line).filter(|l| group.durable.knows(*l))
            {
                let is = store.usage(PgId(group.pg), LineId(line));
                let want = self.usage_of(&group.durable, line);
                let clone = group.durable.parents.contains_key(&line);
                // A clone is told to show what it was made with until it has blocks of its own there.
                let more = is.mapped_blocks > want.mapped_blocks && clone;
                let mapped_blocks = if more { want.mapped_blocks } else { is.mapped_blocks };
                if (LineUsage { mapped_blocks, ..is }) != want {
                    return Err(format!("line {line}: {is:?}, it is {want:?}"));
                }
            }
        }
        Ok(())
    }

    fn usage_of(&self, model: &Model, line: u64) -> LineUsage {
        let own = |value: &u64| self.origins[value] == line;
        let bytes = |values: &BTreeSet<u64>| -> u64 {
            values.iter().map(|&v| stored_bytes(v, model.compresses[&line]) as u64).sum()
        };
        let head = model.heads.get(&line);
        let mapped = head.map_or(0, BTreeMap::len) as u64;
        let head: BTreeSet<u64> = head.into_iter().flat_map(|s| s.values().copied()).filter(own).collect();
        let points = model.points.range((line, 0)..(line + 1, 0));
        let kept: BTreeSet<u64> =
            points.flat_map(|(&(_, at), _)| model.kept(line, at).into_values()).filter(own).collect();
        LineUsage {
            mapped_blocks: mapped,
            own_blocks: head.len() as u64,
            stored_bytes: bytes(&(&head | &kept)),
            head_bytes: bytes(&(&head - &kept)),
            shared_bytes: bytes(&(&head & &kept)),
            snapshot_bytes: bytes(&(&kept - &head)),
        }
    }

    /// Everything goes, in any order; then nothing is left.
    pub(crate) fn delete_everything(&mut self) {
        for g in 0..self.groups.len() {
            loop {
                let model = &self.groups[g].expected;
                let mut left: Vec<Change> = model.heads.keys().map(|l| Change::Drop(*l)).collect();
                left.extend(model.snapshots().into_iter().map(|(l, at)| Change::DropSnapshot(l, at)));
                if left.is_empty() {
                    break;
                }
                let pick = self.below(left.len() as u64) as usize;
                self.send_changes(g, vec![left.swap_remove(pick)]);
                if self.below(3) == 0 {
                    self.exact();
                }
            }
        }
        self.exact();
        for store in &self.node.stores {
            let space = store.space();
            assert_eq!(space.live_bytes, space.map_bytes);
        }
        self.sweep_keys();
        // One that a core tells of may be that of another one of its shards.
        for _ in 0..10 {
            self.node.checkpoint();
            self.erase_keys();
        }
        for group in &self.groups {
            let left = (1 + u64::from(group.pg) * 1000..group.next_line).map(LineId);
            let left: Vec<LineId> = left.filter(|&line| self.setup.keyring.contains(line)).collect();
            assert!(left.is_empty(), "keys of lines that are gone: {left:?}");
        }
    }
}
