//! The way of a command: [`throttle`] lets it on when its volume's rate allows, [`admit`] looks at it and claims its
//! ranges, [`run`] loads, decides, sequences and ends it, [`straight`] does the same for reads that need none of that, [`records`] says what a decided command changes. [`call_off`] ends what nobody waits for any more.

mod admit;
pub(crate) mod call_off;
mod records;
mod run;
pub(crate) mod straight;
mod throttle;

pub(crate) use run::{opening_ticket, snapshot_ticket};
use std::collections::VecDeque;

/// Takes those for which something holds out of a queue; the others keep their order.
fn take_those<T>(queue: &mut VecDeque<T>, holds: impl Fn(&T) -> bool) -> Vec<T> {
    let mut taken = Vec::new();
    if queue.iter().any(&holds) {
        for _ in 0..queue.len() {
            let one = queue.pop_front().expect("it was counted");
            if holds(&one) { taken.push(one) } else { queue.push_back(one) }
        }
    }
    taken
}
