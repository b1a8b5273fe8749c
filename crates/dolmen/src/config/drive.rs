//! One `--drive` of the daemon: a path and, for a file, its size.

use super::ConfigError;
use dolmen_types::{ByteSize, SizeError};
use std::path::PathBuf;

/// Smallest drive that makes sense. Bytes (256 MiB).
const MIN_DRIVE_BYTES: u64 = 256 << 20;

/// A drive as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveOption {
    /// A block device or a file.
    pub path: PathBuf,
    /// The size that a file shall have. Bytes, a multiple of 4096. `None` for a device, or for a file that is there.
    pub size_bytes: Option<u64>,
}

impl DriveOption {
    /// Reads `PATH[:SIZE]`. What follows the last colon is a size only if it is a number with a unit: device paths
    /// hold colons themselves (`/dev/disk/by-path/pci-0000:01:00.0-nvme-1`).
    pub fn parse(text: &str) -> Result<DriveOption, ConfigError> {
        let bad = |why: &str| Err(ConfigError::new(format!("--drive '{text}': {why}")));
        if text.trim().is_empty() {
            return bad("the path is empty");
        }
        let Some((path, suffix)) = text.rsplit_once(':') else {
            return Ok(DriveOption { path: text.into(), size_bytes: None });
        };
        let size = suffix.parse::<ByteSize>();
        if let Err(why @ SizeError::TooLarge(_)) = &size {
            return bad(&why.to_string());
        }
        let Ok(ByteSize(bytes)) = size else {
            return if !suffix.is_empty()
                && suffix.bytes().all(|b| b.is_ascii_digit())
                && !text.starts_with("/dev/")
            {
                bad(&format!("the size has no unit; write {path}:{suffix}GiB, or :{suffix}B for bytes"))
            } else {
                Ok(DriveOption { path: text.into(), size_bytes: None })
            };
        };
        if path.is_empty() {
            return bad("the path is empty");
        }
        if in_device_folder(path) {
            return bad(&format!("{path} names a device, which has a size of its own; leave out :{suffix}"));
        }
        if bytes < MIN_DRIVE_BYTES {
            return bad(&format!("a drive needs at least {}", ByteSize(MIN_DRIVE_BYTES)));
        }
        if bytes > i64::MAX.unsigned_abs() {
            return bad("no file can be that large");
        }
        Ok(DriveOption { path: path.into(), size_bytes: Some(bytes / 4096 * 4096) })
    }
}

/// Whether a path lies where devices are. A file that was made there would live in memory, and be gone with it.
fn in_device_folder(path: &str) -> bool {
    path.starts_with("/dev/") && !path.starts_with("/dev/shm/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(path: &str, size_bytes: Option<u64>) -> DriveOption {
        DriveOption { path: path.into(), size_bytes }
    }

    #[test]
    fn a_size_needs_a_unit_and_a_device_path_may_hold_colons() {
        assert_eq!(DriveOption::parse("/d/a:10GiB").unwrap(), drive("/d/a", Some(10 << 30)));
        assert_eq!(DriveOption::parse("a:1gb").unwrap(), drive("a", Some(1_000_000_000 / 4096 * 4096)));
        let device = "/dev/disk/by-path/pci-0000:01:00.0-nvme-1";
        assert_eq!(DriveOption::parse(device).unwrap(), drive(device, None));
        assert_eq!(DriveOption::parse("/dev/x:0:1").unwrap(), drive("/dev/x:0:1", None));
        assert_eq!(DriveOption::parse("/dev/nvme0n1").unwrap(), drive("/dev/nvme0n1", None));
        assert_eq!(DriveOption::parse("/dev/shm/a:1GiB").unwrap(), drive("/dev/shm/a", Some(1 << 30)));
    }

    #[test]
    fn refuses_with_the_way_out() {
        for (bad, says) in [
            ("", "empty"),
            (":10GiB", "empty"),
            ("/d/a:10", "/d/a:10GiB"),
            ("/d/a:1MiB", "at least 256 MiB"),
            ("/dev/nvme1n1:1GiB", "leave out :1GiB"),
            ("/d/a:9000PiB", "large"),
            ("/d/a:999999PiB", "more than 64 bits"),
        ] {
            let error = DriveOption::parse(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
