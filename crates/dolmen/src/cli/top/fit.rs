//! What of a table fits onto a screen: whole figures or none, and a name that may be shortened and is always there.

/// A name is shortened to this before a column goes. Characters.
const LEAST_NAME: usize = 12;
/// Between two columns. Characters.
pub(super) const GAP: usize = 2;

/// Which columns are shown, and how wide, in so much room. `natural` is how wide they want to be, and `ranks` which of them are left out
/// first: those with the largest. The first column is the name.
pub(super) fn columns(natural: &[usize], ranks: &[u8], room: usize) -> Vec<(usize, usize)> {
    let mut shown: Vec<usize> = (0..natural.len()).collect();
    loop {
        let figures: usize = shown[1..].iter().map(|&i| GAP + natural[i]).sum();
        let left = room.saturating_sub(figures);
        let last = (1..shown.len()).max_by_key(|&at| ranks[shown[at]]);
        match last {
            Some(last) if left < natural[0].min(LEAST_NAME) => shown.remove(last),
            _ => {
                let width = |&i: &usize| (i, if i == 0 { natural[0].min(left) } else { natural[i] });
                return shown.iter().map(width).collect();
            }
        };
    }
}

/// A name in at most so many characters: its beginning and its end, which tell paths and long names apart.
pub(super) fn name(name: &str, most: usize) -> String {
    let length = name.chars().count();
    if length <= most {
        return name.into();
    }
    let kept = most.saturating_sub(1);
    let (head, tail) = (kept - kept * 2 / 3, kept * 2 / 3);
    let of = |skip, take| name.chars().skip(skip).take(take).collect::<String>();
    let mark = if most > 0 { "…" } else { "" };
    format!("{}{mark}{}", of(0, head), of(length - tail, tail))
}

/// The first of several ways to say something that fits; the last one if none does.
pub(super) fn first<'a>(ways: &[&'a str], room: usize) -> &'a str {
    let fits = |way: &&&str| way.chars().count() <= room;
    ways.iter().find(fits).or(ways.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_one_by_one_and_the_name_stays() {
        let (natural, ranks) = ([30, 5, 5, 8], [0, 1, 3, 2]);
        let at = |room| columns(&natural, &ranks, room);
        assert_eq!(at(100), [(0, 30), (1, 5), (2, 5), (3, 8)]);
        assert_eq!(at(40), [(0, 16), (1, 5), (2, 5), (3, 8)]);
        assert_eq!(at(35), [(0, 18), (1, 5), (3, 8)]);
        assert_eq!(at(26), [(0, 19), (1, 5)]);
        assert_eq!((at(10), at(0)), (vec![(0, 10)], vec![(0, 0)]));
        // A short name needs no more than it has.
        assert_eq!(columns(&[3, 5, 5], &[0, 1, 2], 17), [(0, 3), (1, 5), (2, 5)]);
    }

    #[test]
    fn names_keep_their_beginning_and_their_end() {
        assert_eq!(name("volume", 6), "volume");
        assert_eq!(name("/dev/disk/by-id/nvme-17", 10), "/de…vme-17");
        assert_eq!((name("abc", 1), name("abc", 0)), ("…".into(), String::new()));
        assert_eq!(first(&["long", "mid", "s"], 3), "mid");
        assert_eq!(first(&["long", "mid"], 1), "mid");
    }
}
