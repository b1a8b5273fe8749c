//! Requests of a client as a stream of bytes: headers, and the data of writes. Sans-IO.

use super::wire::{REQUEST_MAGIC, RequestHeader, command};
use zerocopy::{FromBytes, IntoBytes};

/// One request, as the client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdRequest {
    /// What to do.
    pub command: u16,
    /// How.
    pub flags: u16,
    /// The client's number for it.
    pub cookie: u64,
    /// Where. Bytes.
    pub offset: u64,
    /// How much. Bytes.
    pub length: u32,
}

/// What the next bytes of a stream are.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Nothing whole yet.
    Nothing,
    /// A request. If it is a write, its data follows.
    Request(NbdRequest),
    /// Some data of the last write.
    Data(&'a [u8]),
    /// Not NBD.
    Broken,
}

/// Cuts a stream into requests and data.
#[derive(Debug, Default)]
pub struct Requests {
    held: [u8; size_of::<RequestHeader>()],
    /// Bytes of a header that are held.
    holding: usize,
    /// Data of a write that is still to come. Bytes.
    data_left: u32,
}

impl Requests {
    /// Data of the last write that is still to come. Bytes.
    #[must_use]
    pub fn data_left(&self) -> u32 {
        self.data_left
    }

    /// Takes a first piece off `bytes`; of a write's data at most `most` bytes. How many bytes it was.
    pub fn next<'a>(&mut self, bytes: &'a [u8], most: usize) -> (usize, Piece<'a>) {
        if bytes.is_empty() {
            return (0, Piece::Nothing);
        }
        if self.data_left > 0 {
            let taken = bytes.len().min(most).min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
            self.data_left -= u32::try_from(taken).expect("at most what was left");
            return (taken, Piece::Data(&bytes[..taken]));
        }
        let taken = bytes.len().min(self.held.len() - self.holding);
        self.held[self.holding..self.holding + taken].copy_from_slice(&bytes[..taken]);
        self.holding += taken;
        if self.holding < self.held.len() {
            return (taken, Piece::Nothing);
        }
        self.holding = 0;
        let Ok(header) = RequestHeader::ref_from_bytes(self.held.as_bytes()) else {
            return (taken, Piece::Broken);
        };
        if header.magic.get() != REQUEST_MAGIC {
            return (taken, Piece::Broken);
        }
        let request = NbdRequest {
            command: header.command.get(),
            flags: header.flags.get(),
            cookie: header.cookie.get(),
            offset: header.offset.get(),
            length: header.length.get(),
        };
        if request.command == command::WRITE {
            self.data_left = request.length;
        }
        (taken, Piece::Request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u16, cookie: u64, length: u32) -> Vec<u8> {
        let header = RequestHeader {
            magic: REQUEST_MAGIC.into(),
            flags: 0.into(),
            command: command.into(),
            cookie: cookie.into(),
            offset: 4096.into(),
            length: length.into(),
        };
        header.as_bytes().to_vec()
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_requests() {
        let data: Vec<u8> = (0..100).collect();
        let stream = [header(command::WRITE, 1, 100), data.clone(), header(command::READ, 2, 9)].concat();
        for cut in 0..=stream.len() {
            let (mut requests, mut seen, mut got) = (Requests::default(), Vec::new(), Vec::new());
            for mut part in [&stream[..cut], &stream[cut..]] {
                while !part.is_empty() {
                    let (taken, piece) = requests.next(part, 64);
                    match piece {
                        Piece::Request(request) => {
                            seen.push((request.command, request.cookie, request.length))
                        }
                        Piece::Data(bytes) => got.extend_from_slice(bytes),
                        Piece::Nothing => {}
                        Piece::Broken => panic!("cut at {cut}"),
                    }
                    part = &part[taken..];
                }
            }
            assert_eq!((seen, &got), (vec![(1, 1, 100), (0, 2, 9)], &data), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_a_request_is_noticed() {
        let mut bytes = header(command::READ, 1, 1);
        bytes[0] ^= 1;
        assert_eq!(Requests::default().next(&bytes, 1), (28, Piece::Broken));
    }
}
