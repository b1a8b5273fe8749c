//! Every column of every commit that counts: heads, blocks by their checks, parity against the data. A segment without parity is gone
//! through for its heads alone, and whether all its commits are found. One with a column on a drive that is out has no parity to compare.

use super::report::Sort;
use super::{CheckReport, Damage, damage, of_unit};
use crate::format::commit::LogIdentity;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::location::Slot;
use crate::segments::Segment;
use crate::shard::{Found, SegmentScan, Shared, wrong_parity};
use dolmen_io::exec::Handle;

/// All segments of a shard that have all their columns.
pub(super) async fn check_columns(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let segments: Vec<(Slot, Segment)> = {
        let s = shard.borrow();
        let out = s.drives.members().out;
        let whole = s.segments.iter().filter(|(_, seg)| !seg.columns.touches(out));
        whole.filter(|(_, seg)| seg.stream != Stream::Meta).map(|(slot, seg)| (slot, *seg)).collect()
    };
    for (slot, segment) in segments {
        check_segment(shard, exec, (slot, &segment), report).await;
    }
}

async fn check_segment(
    shard: &Shared,
    exec: &Handle,
    (slot, segment): (Slot, &Segment),
    report: &mut CheckReport,
) {
    let (drives, id, unit_bytes) = {
        let s = shard.borrow();
        (s.drives.clone(), s.id, s.drives.unit_bytes)
    };
    let scan = SegmentScan::new(exec.clone(), drives, segment.columns);
    report.meter.add(segment.columns.len() as u64 * u64::from(unit_bytes));
    let Ok(Some(header)) = scan.header(|h| h.slot == slot && h.shard == id.shard).await else {
        let place = of_unit(&report.table, segment.columns.units()[0], 0);
        let what =
            "the heads of a segment are gone from all its drives: what it holds can be read, but not moved";
        return report.problem(Damage { place, ..damage(what) });
    };
    check_heads(&scan, segment, &header, report).await;
    let id = LogIdentity { incarnation: header.incarnation, salt: header.salt, ..id };
    let (mut offset, mut seen) = (SEGMENT_HEADER_BYTES, 0);
    let of = (segment.stream, segment.stream_seq);
    while seen < segment.last_commit {
        // What lies behind a commit that is gone counts as well.
        let found = scan.next(&id, of, offset, seen).await;
        if found.as_ref().is_none_or(|found| found.0.place.offset != offset) {
            let place = of_unit(&report.table, segment.columns.units()[0], offset);
            let what = "the heads of a commit are gone from all its drives: what it holds can be read, but not moved";
            report.problem(Damage { place, ..damage(what) });
        }
        let Some(found) = found else { break };
        (seen, offset) = (found.0.place.number, u32::try_from(found.0.end()).unwrap_or(u32::MAX));
        // Without parity whoever needs a block has looked at it.
        if segment.columns.parity() > 0 {
            report.commits += 1;
            check_commit(shard, &scan, segment, &found, report).await;
        }
    }
}

/// The head of each column.
async fn check_heads(
    scan: &SegmentScan,
    segment: &Segment,
    header: &SegmentHeader,
    report: &mut CheckReport,
) {
    for (column, unit) in segment.columns.units().iter().enumerate() {
        let what = match scan.own_column(column, 0, SEGMENT_HEADER_BYTES as usize).await {
            Ok(is) if is == header.for_column(column).encode() => continue,
            Ok(_) => "the head of a column".into(),
            Err(why) => format!("the head of a column can't be read: {why}"),
        };
        let place = of_unit(&report.table, *unit, 0);
        report.mended(unit.drive, Sort::Column, Damage { place, ..damage(what) });
    }
}

/// The columns of a commit: a data column by what it holds, the parity by what the data columns make it.
async fn check_commit(
    shard: &Shared,
    scan: &SegmentScan,
    segment: &Segment,
    found: &Found,
    report: &mut CheckReport,
) {
    let (columns, offset, depth) = (segment.columns, found.0.place.offset, found.0.depth as usize);
    let (mut all, mut bad) = (Vec::new(), Vec::new());
    for column in 0..columns.len() {
        match scan.own_column(column, offset, depth).await {
            Ok(bytes) => {
                if column < columns.data() && !scan.agrees(shard, found, column, &bytes) {
                    bad.push((column, "a column of a commit is not what was written".into()));
                }
                all.push(bytes);
            }
            Err(why) => {
                bad.push((column, format!("a column of a commit can't be read: {why}")));
                all.push(Vec::new());
            }
        }
    }
    // Without all the data nobody can say of which column the parity is wrong.
    if bad.is_empty() {
        let what = || "the parity of a commit is not that of its data".to_string();
        bad.extend(wrong_parity(&all, &columns, depth).into_iter().map(|column| (column, what())));
    }
    // More than that nothing gives: of what is needed it is told block by block.
    if bad.len() > columns.parity() {
        return;
    }
    for (column, what) in bad {
        let Some(unit) = columns.unit(column) else { continue };
        let place = of_unit(&report.table, unit, offset);
        report.mended(unit.drive, Sort::Column, Damage { place, ..damage(what) });
    }
}
