use super::*;

fn small() -> Pool {
    Pool::new(&PoolConfig::new(vec![(4096, 2), (8192, 1)]))
}

#[test]
fn takes_the_smallest_class_that_fits_and_ends_empty() {
    let pool = small();
    let a = pool.alloc(1).unwrap();
    let b = pool.alloc(4096).unwrap();
    let c = pool.alloc(10).unwrap();
    assert_eq!((a.capacity(), b.capacity(), c.capacity(), a.len()), (4096, 4096, 8192, 1));
    assert!(pool.alloc(1).is_none());
    assert_eq!([1, 4096, 5000, 9000].map(|len| pool.fitting(len)), [2, 2, 1, 0], "in use or not");
    drop(b);
    assert!(pool.alloc(5000).is_none());
    assert!(pool.alloc(4000).is_some());
}

#[test]
fn buffers_are_aligned_and_do_not_overlap() {
    let pool = small();
    let mut bufs: Vec<Buf> = (0..3).map(|_| pool.alloc(4096).unwrap()).collect();
    for (i, b) in bufs.iter_mut().enumerate() {
        assert_eq!(b.as_ptr() as usize % ALIGN_BYTES, 0);
        b.fill(u8::try_from(i).unwrap());
    }
    for (i, b) in bufs.iter().enumerate() {
        assert!(b.iter().all(|&x| usize::from(x) == i));
    }
}

#[test]
fn slices_share_and_the_last_one_returns_the_slot() {
    let pool = small();
    let mut buf = pool.alloc(8).unwrap();
    buf.copy_from_slice(b"abcdefgh");
    let whole = buf.freeze();
    let part = whole.slice(2..5).slice(1..3);
    assert_eq!(&*part, b"de");
    let whole = whole.try_into_buf().unwrap_err();
    drop(whole);
    assert_eq!(pool.available(4096), 2);
    drop(part);
    assert_eq!(pool.available(4096), 3);
}

#[test]
fn a_buffer_dropped_elsewhere_comes_home() {
    let pool = small();
    let buf = pool.alloc(4096).unwrap();
    std::thread::spawn(move || drop(buf)).join().unwrap();
    assert_eq!(pool.available(4096), 3);
}

#[test]
fn the_pool_outlives_its_handle_while_buffers_are_out() {
    let buf = {
        let pool = small();
        let mut b = pool.alloc(4096).unwrap();
        b.fill(7);
        b
    };
    assert!(buf.iter().all(|&x| x == 7));
}

#[test]
fn who_asks_for_what_is_plentiful_leaves_an_eighth_of_each_class() {
    let pool = Pool::new(&PoolConfig::new(vec![(4096, 16), (8192, 8)]));
    let taken: Vec<_> = std::iter::from_fn(|| pool.alloc_plentiful(4096)).collect();
    let sizes = |bytes| taken.iter().filter(|buf| buf.capacity() == bytes).count();
    assert_eq!((sizes(4096), sizes(8192)), (14, 7));
    assert_eq!((pool.available(1), pool.is_plentiful(4096)), (3, false));
    let others: Vec<_> = (0..3).map(|_| pool.alloc(4096).unwrap()).collect();
    assert!(pool.alloc(4096).is_none());
    drop(others);
    assert!(pool.alloc_plentiful(4096).is_none() && pool.alloc_plentiful(9000).is_none());
    drop(taken);
    assert!(pool.alloc_plentiful(4096).is_some());
}

#[test]
fn who_shares_leaves_the_others_what_it_holds_itself() {
    let pool = Pool::new(&PoolConfig::new(vec![(4096, 32)]));
    let mut held: Vec<Vec<Buf>> = Vec::new();
    for _ in 0..3 {
        held.push(Vec::new());
        loop {
            let before: usize = held.iter().map(Vec::len).sum();
            for mine in &mut held {
                mine.extend(pool.alloc_share(4096, mine.len() * 4096));
            }
            if before == held.iter().map(Vec::len).sum() {
                break;
            }
        }
    }
    // Of 28: the half, half of the rest, and of that the half again; who comes later finds some.
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [14, 7, 4]);
    assert_eq!(pool.lacking(), 4096);
    held.remove(0);
    assert_eq!(pool.lacking(), 0);
    assert!(pool.alloc_share(4096, 16 * 4096).is_some() && pool.alloc_share(4096, 17 * 4096).is_none());
}

#[test]
fn a_head_lies_before_the_data_and_belongs_to_one_buffer() {
    let pool = Pool::new(&PoolConfig::new(vec![(4096, 2), (8192, 1)]).with_heads());
    assert_eq!((pool.align_bytes(), small().align_bytes()), (64, ALIGN_BYTES));
    let mut bufs: Vec<Buf> = (0..3).map(|_| pool.alloc(4096).unwrap()).collect();
    for (n, buf) in (0u8..).zip(&mut bufs) {
        assert_eq!((buf.head_bytes(), buf.as_ptr() as usize % 64), (PoolConfig::HEAD_BYTES, 0));
        let bytes = buf.with_head(PoolConfig::HEAD_BYTES);
        assert_eq!(bytes.len(), PoolConfig::HEAD_BYTES + 4096);
        bytes.fill(n);
    }
    for (n, mut buf) in (0u8..).zip(bufs) {
        assert!(buf.iter().chain(buf.head(PoolConfig::HEAD_BYTES)).all(|&byte| byte == n));
        buf.set_len(10);
        buf.with_head(3)[..3].copy_from_slice(b"abc");
        assert_eq!(buf.head(2), b"bc");
        let whole = buf.freeze_with_head(3);
        let data = whole.slice(3..13);
        assert_eq!((&whole[..3], &whole[3..], &data[..]), (&b"abc"[..], &[n; 10][..], &[n; 10][..]));
        drop(whole);
        let again = data.try_into_buf().unwrap();
        assert_eq!((&again[..], again.head(3)), (&[n; 10][..], &b"abc"[..]));
    }
    assert_eq!(pool.available(1), 3);
}

#[test]
#[should_panic(expected = "1 bytes before the data of 0")]
fn who_has_no_head_gives_none() {
    let _ = small().alloc(1).unwrap().head(1);
}
