//! What each kernel costs per 4 KiB on this machine, beside the bare copy of as many bytes and, where the machine has the
//! library, ISA-L: `cargo run --release --example kernels -p dolmen-kernels`.

use dolmen_kernels::reed_solomon::Code;
use dolmen_kernels::{Mac, Seal, Xts, check64, crc32c, lz4, zstd};
use std::ffi::{CStr, c_int, c_void};
use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 4096;

/// The best of several rounds: nanoseconds per call.
fn best(mut work: impl FnMut()) -> f64 {
    (0..30)
        .map(|_| {
            let start = Instant::now();
            (0..500).for_each(|_| work());
            start.elapsed().as_secs_f64() * 1e9 / 500.0
        })
        .fold(f64::INFINITY, f64::min)
}

fn line(name: &str, ns: f64, rival: Option<(&str, f64)>) {
    match rival {
        Some((who, other)) => {
            println!("{name:<34} {ns:>8.0} ns   {who} {other:.0} ns, ratio {:.2}", ns / other)
        }
        None => println!("{name:<34} {ns:>8.0} ns"),
    }
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn main() {
    let (random, mut out) = (noise(BLOCK, 7), vec![0; 2 * BLOCK]);
    line("copy", best(|| out[..BLOCK].copy_from_slice(black_box(&random))), None);
    checks(&random);
    compression(&random, &mut out);
    encryption(&random, &mut out);
    parity();
}

fn checks(random: &[u8]) {
    let isal = Isal::load();
    let rival = isal.as_ref().map(|l| ("ISA-L", best(|| _ = black_box(l.crc32c(black_box(random))))));
    line("crc32c", best(|| _ = black_box(crc32c(black_box(random)))), rival);
    line("check64", best(|| _ = black_box(check64(1, black_box(random)))), None);
}

fn compression(random: &[u8], out: &mut [u8]) {
    // Half noise, half repeats, in turns of 64 bytes: about 2:1.
    let half: Vec<u8> = noise(BLOCK, 9).chunks(64).flat_map(|c| [&c[..32], &[c[0]; 32]].concat()).collect();
    let mut lz4 = lz4::Lz4::new();
    let mut packed = 0;
    line("lz4 compress, 2:1", best(|| packed = lz4.compress(black_box(&half), out).unwrap_or(0)), None);
    let stored = out[..packed].to_vec();
    println!("  (4096 bytes to {packed})");
    line("lz4 expand, 2:1", best(|| _ = black_box(lz4::expand(black_box(&stored), &mut out[..BLOCK]))), None);
    let whole = best(|| _ = black_box(lz4.compress(black_box(random), out)));
    let look = best(|| _ = black_box(lz4::looks_incompressible(black_box(random))));
    line("the look at noise", look, Some(("lz4 over noise", whole)));
    let look = best(|| _ = black_box(lz4::looks_incompressible(black_box(&half))));
    line("the look at data", look, None);
    let Some(mut zstd) = zstd::Zstd::new() else { return };
    for level in [1, 3] {
        let ns = best(|| _ = black_box(zstd.compress(black_box(&half), level, out)));
        line(&format!("zstd {level} compress, 2:1"), ns, None);
    }
}

fn encryption(random: &[u8], out: &mut [u8]) {
    let key: [u8; 64] = std::array::from_fn(|i| u8::try_from(i).unwrap_or(0));
    let (Some(mut xts), mac) = (Xts::new(&key), Mac::new(&key)) else { return };
    let encrypt = best(|| xts.encrypt(&[1; 16], black_box(random), &mut out[..BLOCK]));
    line("xts encrypt", encrypt, None);
    line("xts decrypt", best(|| xts.decrypt_in_place(&[1; 16], &mut out[..BLOCK])), None);
    let check = best(|| _ = black_box(mac.check([1; 12], black_box(random))));
    line("mac", check, None);
    line("xts and then mac", encrypt + check, None);
    let Some(mut seal) = Seal::new(&key, &key) else { return };
    let ns = best(|| _ = black_box(seal.seal(&[1; 16], [1; 12], black_box(random), &mut out[..BLOCK])));
    line("seal: both in one pass", ns, Some(("budget", 400.0)));
    let sum = seal.check([1; 12], &out[..BLOCK]);
    let stored = out[..BLOCK].to_vec();
    let ns = best(|| _ = black_box(seal.open(&[1; 16], [1; 12], sum, black_box(&stored), &mut out[..BLOCK])));
    line("open", ns, Some(("budget", 400.0)));
}

fn parity() {
    let isal = Isal::load();
    let data: Vec<Vec<u8>> = (0..8).map(|i| noise(BLOCK, i)).collect();
    let views: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let (mut p, mut q) = (vec![0; BLOCK], vec![0; BLOCK]);
    for (k, m) in [(4, 1), (4, 2), (8, 1), (8, 2)] {
        let Some(code) = Code::new(k, m) else { continue };
        let ns = best(|| {
            let mut parity: [&mut [u8]; 2] = [&mut p, &mut q];
            code.encode(black_box(&views[..k]), &mut parity[..m]);
        });
        let rival = isal.as_ref().map(|l| ("ISA-L", l.encode(&views[..k], m)));
        line(&format!("parity {k}+{m}, per 4 KiB and column"), ns, rival);
    }
    let Some(recipe) = Code::new(8, 2).and_then(|c| c.rebuild(0, &[1, 2, 3, 4, 5, 6, 7, 9])) else { return };
    line("rebuild 8+2 through Q", best(|| recipe.apply(black_box(&views), &mut p)), None);
}

type Crc = unsafe extern "C" fn(*mut u8, c_int, u32) -> u32;
type Tables = unsafe extern "C" fn(c_int, c_int, *mut u8, *mut u8);
type Encode = unsafe extern "C" fn(c_int, c_int, c_int, *mut u8, *mut *mut u8, *mut *mut u8);

/// Intel's library, if the machine has it.
struct Isal {
    crc: Crc,
    tables: Tables,
    encode: Encode,
}

impl Isal {
    fn load() -> Option<Isal> {
        // SAFETY: the name is a C string; loading the library runs its constructors, which choose instructions.
        let library = unsafe { libc::dlopen(c"libisal.so.2".as_ptr(), libc::RTLD_NOW) };
        let find = |name: &CStr| {
            // SAFETY: the library was loaded and is never unloaded; the name is a C string.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        if library.is_null() {
            return None;
        }
        let (crc, tables, encode) =
            (find(c"crc32_iscsi")?, find(c"ec_init_tables")?, find(c"ec_encode_data")?);
        // SAFETY: the types are those of the library's headers.
        unsafe {
            Some(Isal {
                crc: std::mem::transmute::<*mut c_void, Crc>(crc),
                tables: std::mem::transmute::<*mut c_void, Tables>(tables),
                encode: std::mem::transmute::<*mut c_void, Encode>(encode),
            })
        }
    }

    fn crc32c(&self, bytes: &[u8]) -> u32 {
        let len = c_int::try_from(bytes.len()).unwrap_or(0);
        // SAFETY: the library only reads, `len` bytes.
        unsafe { (self.crc)(bytes.as_ptr().cast_mut(), len, !0) }
    }

    /// Nanoseconds for the parity of one block per column; the same factors as ours.
    fn encode(&self, data: &[&[u8]], m: usize) -> f64 {
        let int = |n: usize| c_int::try_from(n).unwrap_or(0);
        let (k, mut factors) = (data.len(), [[1u8; 8].to_vec(), (0..8).map(|i| 1 << i).collect()]);
        let mut matrix: Vec<u8> = factors.iter_mut().take(m).flat_map(|row| row[..k].to_vec()).collect();
        let mut tables = vec![0; 32 * k * m];
        let mut sources: Vec<*mut u8> = data.iter().map(|d| d.as_ptr().cast_mut()).collect();
        let mut parity = vec![vec![0u8; BLOCK]; m];
        let mut out: Vec<*mut u8> = parity.iter_mut().map(|p| p.as_mut_ptr()).collect();
        // SAFETY: the matrix has k * m factors, the tables 32 bytes for each, every column a block.
        unsafe {
            (self.tables)(int(k), int(m), matrix.as_mut_ptr(), tables.as_mut_ptr());
            best(|| {
                let (sources, out) = (black_box(sources.as_mut_ptr()), out.as_mut_ptr());
                (self.encode)(int(BLOCK), int(k), int(m), tables.as_mut_ptr(), sources, out);
            })
        }
    }
}
