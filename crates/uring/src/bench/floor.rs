//! The bare TCP floor: two pinned threads, non-blocking receive and send loops, polled, NODELAY, one send per pass from one
//! contiguous warm buffer. What no storage protocol over TCP can beat.

use super::{Meter, REPLY_BYTES, REQUEST_BYTES, Rate, Run, pin, set_congestion};
use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
};

/// Measures the floor.
///
/// # Errors
/// When loopback sockets can't be had.
pub fn measure(run: &Run) -> std::io::Result<Rate> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    set_congestion(&listener, run.congestion.as_deref());
    let addr = listener.local_addr()?;
    let (cpus, depth) = (run.cpus, run.depth);
    let server = std::thread::spawn(move || {
        pin(cpus.map(|c| c.0));
        let (stream, _) = listener.accept()?;
        let mut end = End::new(stream, REQUEST_BYTES, REPLY_BYTES, depth)?;
        while let Some(requests) = end.receive()? {
            if end.send(requests)?.is_none() {
                break;
            }
        }
        std::io::Result::Ok(())
    });
    pin(cpus.map(|c| c.1));
    let stream = TcpStream::connect(addr)?;
    set_congestion(&stream, run.congestion.as_deref());
    let mut end = End::new(stream, REPLY_BYTES, REQUEST_BYTES, depth)?;
    let mut meter = Meter::new(run);
    end.send(depth)?;
    let rate = loop {
        let replies = end.receive()?.ok_or(ErrorKind::UnexpectedEof)?;
        if let Some(rate) = meter.count(replies) {
            break rate;
        }
        end.send(replies)?;
    };
    drop(end);
    server.join().map_err(|_| std::io::Error::other("the server thread failed"))??;
    Ok(rate)
}

/// One end of the connection: takes messages of one size, sends messages of another.
struct End {
    stream: TcpStream,
    taken_bytes: usize,
    sent_bytes: usize,
    received: usize,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl End {
    fn new(stream: TcpStream, taken_bytes: usize, sent_bytes: usize, depth: usize) -> std::io::Result<End> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (input, output) = (vec![0; 256 * 1024], vec![7; sent_bytes * depth]);
        Ok(End { stream, taken_bytes, sent_bytes, received: 0, input, output })
    }

    /// Messages that became complete in one pass, 0 when nothing is there; `None` at the end of the stream.
    fn receive(&mut self) -> std::io::Result<Option<usize>> {
        match self.stream.read(&mut self.input) {
            Ok(0) => Ok(None),
            Ok(n) => {
                self.received += n;
                let messages = self.received / self.taken_bytes;
                self.received %= self.taken_bytes;
                Ok(Some(messages))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends so many messages from the one warm buffer; `None` when the other end is gone.
    fn send(&mut self, messages: usize) -> std::io::Result<Option<()>> {
        let mut rest = &self.output[..messages * self.sent_bytes];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&e.kind()) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(()))
    }
}
