//! What a CQE says about its origin: kind of request, slot in that kind's table, and the slot's generation, in 64 bits.
//!
//! Generations keep a late cancel from hitting the next user of a slot.

/// Kinds of requests, which are also the tables they live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Receive = 1,
    Send = 2,
    Connect = 3,
    Accept = 4,
    Drive = 5,
    Wake = 6,
    Cancel = 7,
}

/// The `user_data` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// 24 bits.
    pub(crate) generation: u32,
    pub(crate) index: u32,
}

/// Generations count modulo this.
pub(crate) const GENERATIONS: u32 = 1 << 24;

impl Token {
    pub(crate) fn new(kind: Kind, index: usize, generation: u32) -> Token {
        let index = u32::try_from(index).expect("tables hold far fewer than 2^32 entries");
        Token { kind, generation: generation % GENERATIONS, index }
    }

    pub(crate) fn pack(self) -> u64 {
        u64::from(self.kind as u8) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// `None` for bits that [`Token::pack`] never makes.
    pub(crate) fn unpack(bits: u64) -> Option<Token> {
        let kind = match bits >> 56 {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::Connect,
            4 => Kind::Accept,
            5 => Kind::Drive,
            6 => Kind::Wake,
            7 => Kind::Cancel,
            _ => return None,
        };
        let low = |bits: u64, mask: u64| u32::try_from(bits & mask).expect("masked to 32 bits");
        Some(Token {
            kind,
            generation: low(bits >> 32, u64::from(GENERATIONS - 1)),
            index: low(bits, u64::from(u32::MAX)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks() {
        for kind in
            [Kind::Receive, Kind::Send, Kind::Connect, Kind::Accept, Kind::Drive, Kind::Wake, Kind::Cancel]
        {
            let token = Token::new(kind, 0xFFFF_FFFE, GENERATIONS + 5);
            assert_eq!(token.generation, 5);
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
