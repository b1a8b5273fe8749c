//! Cuts a stream of bytes into messages of known lengths, without looking at them.

use crate::workload::Exchange;

/// Position in the cycle of a workload's messages, at one end of one connection.
#[derive(Debug)]
pub(super) struct Tally {
    /// Lengths: what comes, and what goes out when it has come.
    cycle: Vec<(usize, usize)>,
    next: usize,
    partial: usize,
}

impl Tally {
    /// The server's at the start of a stream: requests come, each one's reply goes.
    pub(super) fn of_requests(exchanges: &[Exchange]) -> Tally {
        Tally::new(exchanges.iter().map(|e| (e.request, e.reply)).collect())
    }

    /// The client's: replies come, and with `depth` requests under way each asks for the request so much further on.
    pub(super) fn of_replies(exchanges: &[Exchange], depth: usize) -> Tally {
        let later = exchanges.iter().cycle().skip(depth % exchanges.len());
        Tally::new(exchanges.iter().zip(later).map(|(now, later)| (now.reply, later.request)).collect())
    }

    fn new(cycle: Vec<(usize, usize)>) -> Tally {
        Tally { cycle, next: 0, partial: 0 }
    }

    /// Counts bytes that came, and returns how many messages they completed.
    pub(super) fn take(&mut self, bytes: usize) -> Taken {
        self.partial += bytes;
        let mut taken = Taken { messages: 0, answer_bytes: 0 };
        while self.partial >= self.cycle[self.next].0 {
            self.partial -= self.cycle[self.next].0;
            taken.messages += 1;
            taken.answer_bytes += self.cycle[self.next].1;
            self.next += 1;
            if self.next == self.cycle.len() {
                self.next = 0;
            }
        }
        taken
    }
}

/// What came in whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) messages: usize,
    /// Length of all that goes out in answer.
    pub(super) answer_bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_bytes_do() {
        let exchanges = [Exchange { request: 10, reply: 100 }, Exchange { request: 30, reply: 5 }];
        let mut server = Tally::of_requests(&exchanges);
        assert_eq!(server.take(9), Taken { messages: 0, answer_bytes: 0 });
        assert_eq!(server.take(1), Taken { messages: 1, answer_bytes: 100 });
        assert_eq!(server.take(29 + 1 + 10 + 29), Taken { messages: 2, answer_bytes: 105 });
        assert_eq!(server.take(1), Taken { messages: 1, answer_bytes: 5 });
        let mut client = Tally::of_replies(&exchanges, 1);
        assert_eq!(client.take(100), Taken { messages: 1, answer_bytes: 30 });
        assert_eq!(client.take(5 + 100), Taken { messages: 2, answer_bytes: 40 });
    }
}
