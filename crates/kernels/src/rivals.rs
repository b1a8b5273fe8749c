//! The best libraries of the machine, loaded when they are there, for benchmarks to compare with: ISA-L (`libisal`), LZ4 and
//! xxHash of the system. Not part of what Dolmen runs.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};

type Crc = unsafe extern "C" fn(*mut c_uchar, c_int, u32) -> u32;
type Tables = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
type Encode = unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);
type Compress = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_char, c_int, c_int, c_int) -> c_int;
type Expand = unsafe extern "C" fn(*const c_char, *mut c_char, c_int, c_int) -> c_int;
type Hash = unsafe extern "C" fn(*const c_void, usize, u64) -> u64;

/// A function of a library; `None` when the machine has no such library or it has no such function.
fn find(library: &CStr, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: both names are C strings; loading a library runs its constructors, which choose instructions; it is never unloaded.
    let found = unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) }
    };
    (!found.is_null()).then_some(found)
}

fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("benchmarks are of small blocks")
}

/// Intel's library.
pub struct Isal {
    crc: Crc,
    tables: Tables,
    encode: Encode,
}

impl Isal {
    /// `None` when it is not there.
    #[must_use]
    pub fn load() -> Option<Isal> {
        let find = |name| find(c"libisal.so.2", name);
        // SAFETY: the types are those of the library's headers.
        unsafe {
            Some(Isal {
                crc: std::mem::transmute::<*mut c_void, Crc>(find(c"crc32_iscsi")?),
                tables: std::mem::transmute::<*mut c_void, Tables>(find(c"ec_init_tables")?),
                encode: std::mem::transmute::<*mut c_void, Encode>(find(c"ec_encode_data")?),
            })
        }
    }

    /// CRC-32C.
    #[must_use]
    pub fn crc32c(&self, bytes: &[u8]) -> u32 {
        // SAFETY: the library only reads, as many bytes as there are.
        unsafe { (self.crc)(bytes.as_ptr().cast_mut(), int(bytes.len()), !0) }
    }

    /// What [`Isal::encode`] needs for `data` and `parity` columns: the same factors as [`crate::reed_solomon`] has.
    #[must_use]
    pub fn tables(&self, data: usize, parity: usize) -> Vec<u8> {
        let mut matrix: Vec<u8> = (0..parity).flat_map(|p| (0..data).map(move |i| 1 << (p * i))).collect();
        let mut tables = vec![0; 32 * data * parity];
        // SAFETY: the matrix has a factor, the tables 32 bytes, for each pair of columns.
        unsafe { (self.tables)(int(data), int(parity), matrix.as_mut_ptr(), tables.as_mut_ptr()) };
        tables
    }

    /// The parity columns of data columns.
    ///
    /// # Panics
    /// When the tables are of other numbers of columns, or the columns of several lengths.
    pub fn encode(&self, tables: &mut [u8], data: &[&[u8]], parity: &mut [&mut [u8]]) {
        let len = data[0].len();
        assert!(tables.len() == 32 * data.len() * parity.len() && data.len() <= 8 && parity.len() <= 2);
        assert!(data.iter().all(|d| d.len() == len) && parity.iter().all(|p| p.len() == len));
        let (mut from, mut to) = ([std::ptr::null_mut(); 8], [std::ptr::null_mut(); 2]);
        from.iter_mut().zip(data).for_each(|(p, d)| *p = d.as_ptr().cast_mut());
        to.iter_mut().zip(parity.iter_mut()).for_each(|(p, d)| *p = d.as_mut_ptr());
        let (k, m) = (int(data.len()), int(parity.len()));
        // SAFETY: numbers and lengths were looked at above; data is only read.
        unsafe { (self.encode)(int(len), k, m, tables.as_mut_ptr(), from.as_mut_ptr(), to.as_mut_ptr()) };
    }
}

/// The system's LZ4.
pub struct Lz4 {
    compress: Compress,
    expand: Expand,
    state: Vec<u64>,
}

impl Lz4 {
    /// `None` when it is not there.
    #[must_use]
    pub fn load() -> Option<Lz4> {
        let find = |name| find(c"liblz4.so.1", name);
        // SAFETY: the types are those of the library's headers.
        unsafe {
            Some(Lz4 {
                compress: std::mem::transmute::<*mut c_void, Compress>(find(c"LZ4_compress_fast_extState")?),
                expand: std::mem::transmute::<*mut c_void, Expand>(find(c"LZ4_decompress_safe")?),
                state: vec![0; 4096],
            })
        }
    }

    /// Compresses; how many bytes it took, 0 when they don't fit.
    pub fn compress(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        let (from, to) = (input.as_ptr().cast(), out.as_mut_ptr().cast());
        // SAFETY: the state has the 16 KiB and more that the library asks for, aligned; the lengths are those of the slices.
        let len = unsafe {
            (self.compress)(self.state.as_mut_ptr().cast(), from, to, int(input.len()), int(out.len()), 1)
        };
        usize::try_from(len).unwrap_or(0)
    }

    /// Expands; true when it fills `out`.
    #[must_use]
    pub fn expand(&self, input: &[u8], out: &mut [u8]) -> bool {
        let (from, to) = (input.as_ptr().cast(), out.as_mut_ptr().cast());
        // SAFETY: the lengths are those of the slices.
        unsafe { (self.expand)(from, to, int(input.len()), int(out.len())) == int(out.len()) }
    }
}

/// The system's xxHash.
pub struct XxHash(Hash);

impl XxHash {
    /// `None` when it is not there.
    #[must_use]
    pub fn load() -> Option<XxHash> {
        let found = find(c"libxxhash.so.0", c"XXH3_64bits_withSeed")?;
        // SAFETY: the type is that of the library's header.
        Some(XxHash(unsafe { std::mem::transmute::<*mut c_void, Hash>(found) }))
    }

    /// XXH3-64 under a seed.
    #[must_use]
    pub fn hash(&self, seed: u64, bytes: &[u8]) -> u64 {
        // SAFETY: the library only reads, as many bytes as there are.
        unsafe { (self.0)(bytes.as_ptr().cast(), bytes.len(), seed) }
    }
}
