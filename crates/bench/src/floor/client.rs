//! The floor's client, which counts.

use super::{
    Course, RECEIVE_BYTES, Rates, Receiver, Sender,
    tally::{Taken, Tally},
};
use crate::{sample::Latency, workload::Workload};
use dolmen_initiator::load::Histogram;
use rustix::net::sockopt::tcp_congestion;
use std::{
    collections::VecDeque,
    io,
    net::TcpStream,
    time::{Duration, Instant},
};

/// Keeps the workload's depth under way on every stream, by polling, for the course's time.
pub(super) fn drive<S: Sender, R: Receiver>(
    mut streams: Vec<TcpStream>,
    workload: &Workload,
    course: &Course,
    (sender, receiver): (impl Fn() -> S, impl Fn() -> R),
) -> io::Result<Rates> {
    let exchanges = workload.exchanges();
    let depth = usize::from(workload.depth);
    // The first requests of the cycle, so many as may be under way.
    let answer_bytes = exchanges.iter().cycle().take(depth).map(|e| e.request).sum();
    let opening = Taken { messages: depth, answer_bytes };
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut receivers: Vec<_> = streams.iter().map(|_| receiver()).collect();
    let mut out: Vec<_> = streams.iter().map(|_| sender()).collect();
    let mut tallies: Vec<_> = streams.iter().map(|_| Tally::of_replies(&exchanges, depth)).collect();
    let mut sent_at: Vec<VecDeque<Instant>> =
        streams.iter().map(|_| VecDeque::with_capacity(depth)).collect();
    let mut counter = Counter::new(course, streams.len());
    for (o, sent) in out.iter_mut().zip(&mut sent_at) {
        o.owe(opening);
        sent.extend(std::iter::repeat_n(counter.begin, depth));
    }
    let mut now = counter.begin;
    while now < counter.end {
        let mut quiet = true;
        for (index, stream) in streams.iter_mut().enumerate() {
            out[index].send(stream)?;
            let Some(n) = receivers[index].receive(stream, &mut into)? else { continue };
            quiet = false;
            let taken = tallies[index].take(n);
            if taken.messages == 0 {
                continue;
            }
            now = Instant::now();
            for _ in 0..taken.messages {
                let sent = sent_at[index].pop_front().expect("one instant per request under way");
                sent_at[index].push_back(now);
                counter.count(index, now, sent);
            }
            out[index].owe(taken);
        }
        if quiet {
            now = Instant::now();
        }
    }
    counter.rates(now, streams.first().map(tcp_congestion).transpose()?)
}

/// Counts answers once the ramp is over.
pub(super) struct Counter {
    pub(super) begin: Instant,
    count_from: Instant,
    pub(super) end: Instant,
    counts: Vec<u64>,
    latency: Histogram,
}

impl Counter {
    pub(super) fn new(course: &Course, streams: usize) -> Counter {
        let begin = Instant::now();
        let count_from = begin + course.ramp;
        let counts = vec![0; streams];
        Counter { begin, count_from, end: count_from + course.runtime, counts, latency: Histogram::new() }
    }

    /// One answer on a stream.
    pub(super) fn count(&mut self, stream: usize, now: Instant, sent: Instant) {
        if now >= self.count_from {
            self.latency.record(u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX));
            self.counts[stream] += 1;
        }
    }

    pub(super) fn rates(self, now: Instant, congestion: Option<String>) -> io::Result<Rates> {
        let seconds =
            now.saturating_duration_since(self.count_from).max(Duration::from_nanos(1)).as_secs_f64();
        let rate = |n: u64| n as f64 / seconds;
        Ok(Rates {
            per_second: rate(self.counts.iter().sum()),
            latency: Latency::from(&self.latency),
            congestion,
            by_connection: self.counts.into_iter().map(rate).collect(),
            server_cpu_ns: None,
        })
    }
}
