//! Writes a `newc` cpio archive, the form the kernel unpacks its initramfs from.
//!
//! A `newc` entry is 110 bytes of ASCII (magic and thirteen 8-digit hexadecimal fields), the name with a NUL,
//! padding to four bytes, the content, padding to four bytes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// File type bits of a mode word (`stat(2)`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Packs the tree under `root` into the archive `to`; owners become root, times zero.
pub(crate) fn pack(root: &Path, to: &Path) -> io::Result<()> {
    let mut archive = Archive { out: BufWriter::new(File::create(to)?), next_inode: 1 };
    archive.tree(root, Path::new(""))?;
    archive.entry(b"TRAILER!!!", 0, &[])?;
    archive.out.flush()
}

struct Archive<W> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// Adds everything below `root/inner`, parents before children, in the order of names.
    fn tree(&mut self, root: &Path, inner: &Path) -> io::Result<()> {
        let mut names: Vec<_> =
            fs::read_dir(root.join(inner))?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let inner = inner.join(name);
            let path = root.join(&inner);
            let meta = fs::symlink_metadata(&path)?;
            let permissions = meta.permissions().mode() & 0o7777;
            let name = inner.as_os_str().as_bytes();
            if meta.is_dir() {
                self.entry(name, DIRECTORY | permissions, &[])?;
                self.tree(root, &inner)?;
            } else if meta.is_symlink() {
                self.entry(name, SYMLINK | 0o777, fs::read_link(&path)?.as_os_str().as_bytes())?;
            } else {
                self.entry(name, REGULAR | permissions, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &[u8], mode: u32, content: &[u8]) -> io::Result<()> {
        let inode = self.next_inode;
        self.next_inode += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other("file too large for newc"))?;
        let name_size =
            u32::try_from(name.len() + 1).map_err(|_| io::Error::other("name too long for newc"))?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name)?;
        self.out.write_all(b"\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_padded_to_four_bytes() {
        let mut archive = Archive { out: Vec::new(), next_inode: 1 };
        archive.entry(b"ab", super::REGULAR | 0o644, b"hello").expect("a vector takes all");
        let bytes = archive.out;
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[14..22], b"000081a4");
        assert_eq!(&bytes[110..116], b"ab\0\0\0\0"[..6].as_ref());
        assert_eq!(bytes.len(), 116 + 8);
    }
}
