//! What one core can copy through loopback TCP: one end sends from a warm buffer as much as the socket takes, the other
//! receives, nobody asks for anything.

use super::{Course, RECEIVE_BYTES, Rates, between, client::Counter, receive};
use crate::workload::{Shape, Workload};
use rustix::net::sockopt::tcp_congestion;
use std::{
    io::{self, ErrorKind, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Instant,
};

/// Runs it in the direction of the workload, in units of its bytes; the receiver counts.
pub(crate) fn run(workload: &Workload, course: &Course) -> io::Result<Rates> {
    let to_server = workload.shape == Shape::Write;
    // The counting end is `between`'s client; for writes it has to be where the servers are.
    let course = if to_server {
        Course { server_cpu: course.client_cpu, client_cpu: course.server_cpu, ..*course }
    } else {
        *course
    };
    between(&course, 1, pour, |mut streams| drain(&mut streams[0], workload.bytes, &course))
}

fn pour(mut peers: Vec<TcpStream>, stop: &AtomicBool) -> io::Result<()> {
    let warm = vec![0x5a; RECEIVE_BYTES];
    while !stop.load(Relaxed) {
        match peers[0].write(&warm) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ok(()), // The other end has what it wanted.
        }
    }
    Ok(())
}

fn drain(stream: &mut TcpStream, unit: usize, course: &Course) -> io::Result<Rates> {
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut counter = Counter::new(course, 1);
    let (mut now, mut last, mut partial) = (counter.begin, counter.begin, 0);
    while now < counter.end {
        let received = receive(stream, &mut into)?;
        now = Instant::now();
        partial += received.unwrap_or(0);
        while partial >= unit {
            partial -= unit;
            counter.count(0, now, last);
            last = now;
        }
    }
    counter.rates(now, Some(tcp_congestion(&*stream)?))
}
