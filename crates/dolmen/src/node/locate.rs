//! Where a drive is in the machine, from what the kernel tells under `/sys`; and its light, where there is one.
//!
//! A light is, in this order: the locate light of the drive's slot in an enclosure, a light of the drive's own, the attention light of
//! its hot-plug slot. Never: touches the drive, or lets a light blink of another one. Devices are numbered anew when one is gone, so a
//! path tells where a drive is while that is open here, or while what is there has its serial number; else it only tells where it was.

use dolmen_cluster::plane::DriveLocation;
use dolmen_types::Uuid;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the kernel tells of its devices.
pub(super) const SYS: &str = "/sys";

/// A file by which a light is told to blink.
struct Light {
    file: PathBuf,
    on: &'static str,
}

/// A drive that is looked for.
pub(super) struct Sought {
    /// Where it is, or was when it was open last.
    pub(super) path: PathBuf,
    /// Its serial number; empty where none is known.
    pub(super) serial: String,
    /// Whether it is open here.
    pub(super) open: bool,
    /// All drives that are open here.
    pub(super) here: Vec<(PathBuf, Uuid)>,
}

impl Sought {
    /// The drive of the pool that is at this device instead of the one that is looked for.
    fn other_at(&self, device: &Path) -> Option<Uuid> {
        let mut others = self.here.iter().filter(|_| !self.open);
        others.find(|(path, _)| real(path) == device).map(|(_, uuid)| *uuid)
    }
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// Tells where a drive is; `light` lets it blink or not. `Err` says why its light did not do as it was told.
pub(super) fn locate(sys: &Path, sought: &Sought, light: Option<bool>) -> Result<DriveLocation, String> {
    let device = real(&sought.path);
    let path = sought.path.display().to_string();
    let mut at = DriveLocation { path, serial: sought.serial.clone(), ..DriveLocation::default() };
    let name = device.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let block = sys.join("class/block").join(&name);
    let nowhere = |mut at: DriveLocation, why: String| {
        at.slot = why;
        if light.is_some() { Err(format!("{}: {}", at.path, at.slot)) } else { Ok(at) }
    };
    if let Some(other) = sought.other_at(&device) {
        return nowhere(at, format!("it is not there; what is there now is drive {other} of the pool"));
    }
    if !device.starts_with("/dev") || !block.exists() {
        let what = if device.exists() { "a file, not a device" } else { "the system has no such device" };
        return nowhere(at, what.into());
    }
    let serial = serial(&block);
    if !at.serial.is_empty() && !serial.is_empty() && at.serial != serial {
        return nowhere(at, format!("it is not there; what is there now has the serial number '{serial}'"));
    }
    if !sought.open && (at.serial.is_empty() || serial.is_empty()) {
        let why = "it is not open here, and no serial number tells whether it is what is there now";
        return nowhere(at, why.into());
    }
    at.serial = if serial.is_empty() { at.serial } else { serial };
    at.model = first_line(&block, &["device/model", "device/device/model"]);
    let slot = enclosure_slot(sys, &name);
    let address = bus_address(&block);
    let hot_plug = address.as_deref().and_then(|address| hot_plug_slot(sys, address));
    at.slot = match (&slot, &hot_plug, address) {
        (Some(slot), _, _) => format!("enclosure slot {}", file_name(slot)),
        (None, Some(slot), Some(address)) => format!("PCI slot {} ({address})", file_name(slot)),
        (None, None, Some(address)) => format!("PCI address {address}"),
        (None, _, None) => String::new(),
    };
    let found = light_of(sys, &name, slot, hot_plug);
    if let Some(on) = light {
        let Some(found) = &found else {
            let place =
                if at.slot.is_empty() { "in an unknown slot".into() } else { format!("in {}", at.slot) };
            return Err(format!(
                "{} has no light that the system knows; it is {place}, model '{}', serial number '{}'",
                at.path, at.model, at.serial
            ));
        };
        let (file, word) = (found.file.display(), if on { found.on } else { "0" });
        fs::write(&found.file, word).map_err(|why| {
            format!(
                "the light of {} ({file}): {why}. It is in {}; as root on the node: echo {word} > '{file}'. What a service needs to \
                 do it stands in packaging/dolmen.service",
                at.path, at.slot
            )
        })?;
    }
    at.light = found.map(|light| {
        let now = fs::read_to_string(light.file).unwrap_or_default();
        !matches!(now.trim(), "0" | "")
    });
    Ok(at)
}

fn light_of(sys: &Path, name: &str, slot: Option<PathBuf>, hot_plug: Option<PathBuf>) -> Option<Light> {
    let there = |file: PathBuf, on| file.exists().then_some(Light { file, on });
    let own = || {
        let lights = entries(&sys.join("class/leds"));
        let own = lights.into_iter().find(|l| {
            let light = file_name(l);
            light.split(':').any(|part| part == name) && light.contains("locate")
        });
        own.and_then(|l| there(l.join("brightness"), "1"))
    };
    slot.and_then(|slot| there(slot.join("locate"), "1"))
        .or_else(own)
        .or_else(|| hot_plug.and_then(|slot| there(slot.join("attention"), "1")))
}

/// The slot of an enclosure that a disk is in.
fn enclosure_slot(sys: &Path, name: &str) -> Option<PathBuf> {
    let slots = entries(&sys.join("class/enclosure")).into_iter().flat_map(|e| entries(&e));
    slots.into_iter().find(|slot| slot.join("device/block").join(name).exists())
}

/// The address of a disk's controller on the PCI bus, without the function.
fn bus_address(block: &Path) -> Option<String> {
    let device = fs::canonicalize(block.join("device")).ok()?;
    let is_address = |part: &str| {
        let mut parts = part.split(['.', ':']);
        part.len() == 12 && parts.all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let parts: Vec<String> = device.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    parts.into_iter().rev().find(|part| is_address(part))
}

fn hot_plug_slot(sys: &Path, address: &str) -> Option<PathBuf> {
    let here = |slot: &PathBuf| {
        let at = first_line(slot, &["address"]);
        !at.is_empty() && address.starts_with(&at)
    };
    entries(&sys.join("bus/pci/slots")).into_iter().find(here)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The serial number of a disk, from where the opening of a drive has it too; a partition has that of its disk.
fn serial(block: &Path) -> String {
    let disk = real(block);
    let disk = if disk.join("partition").exists() { disk.parent().unwrap_or(&disk) } else { &disk };
    let places = ["device/serial", "device/device/serial", "serial", "device/vpd_pg80"];
    let told = places.iter().find_map(|place| fs::read(disk.join(place)).ok()).unwrap_or_default();
    let clean: String = String::from_utf8_lossy(&told).chars().filter(|c| !c.is_control()).collect();
    clean.trim().to_owned()
}

fn first_line(folder: &Path, names: &[&str]) -> String {
    let text = names.iter().find_map(|name| fs::read_to_string(folder.join(name)).ok()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sys: &Path, file: &str, text: &str) {
        let file = sys.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// A disk of its own name in a machine of files; the device itself is not looked at.
    fn machine() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let device = "devices/pci0000:00/0000:00:1d.0/0000:3b:00.0/nvme/nvme7";
        put(sys.path(), &format!("{device}/serial"), "S3R1AL \n");
        put(sys.path(), &format!("{device}/model"), "MODEL 9\n");
        let block = sys.path().join("class/block/nvme7n1");
        fs::create_dir_all(&block).unwrap();
        std::os::unix::fs::symlink(sys.path().join(device), block.join("device")).unwrap();
        sys
    }

    fn sought(path: impl AsRef<Path>, serial: &str, open: bool) -> Sought {
        Sought { path: path.as_ref().into(), serial: serial.into(), open, here: Vec::new() }
    }

    #[test]
    fn the_light_of_another_drive_stays_as_it_is() {
        let sys = machine();
        let light = "class/leds/nvme7n1:red:locate/brightness";
        put(sys.path(), light, "0");
        let at = |sought: &Sought| locate(sys.path(), sought, None).unwrap();
        let blinks = |sought: &Sought| {
            let done = locate(sys.path(), sought, Some(true));
            (done.is_ok(), fs::read_to_string(sys.path().join(light)).unwrap() == "1")
        };
        let dead = |serial| sought("/dev/nvme7n1", serial, false);
        let (moved, nobody) = (dead("OTHER"), dead(""));
        assert_eq!((at(&moved).serial.as_str(), blinks(&moved)), ("OTHER", (false, false)));
        assert!(
            at(&moved).slot.contains("not there") && at(&moved).slot.contains("S3R1AL"),
            "{:?}",
            at(&moved)
        );
        assert_eq!((at(&nobody).light, blinks(&nobody)), (None, (false, false)));
        let uuid = Uuid::from_random([7; 16]);
        let taken = Sought { here: vec![("/dev/nvme7n1".into(), uuid)], ..dead("S3R1AL") };
        assert!(at(&taken).slot.contains(&uuid.to_string()) && blinks(&taken) == (false, false));
        // It has failed, and is where it was.
        let failed = dead("S3R1AL");
        assert_eq!((at(&failed).slot.as_str(), blinks(&failed)), ("PCI address 0000:3b:00.0", (true, true)));
    }

    #[test]
    fn lights_are_found_where_there_are_some() {
        let (sys, drive) = (machine(), &sought("/dev/nvme7n1", "", true));
        let at = locate(sys.path(), drive, None).unwrap();
        assert_eq!((at.serial.as_str(), at.model.as_str()), ("S3R1AL", "MODEL 9"));
        assert_eq!((at.slot.as_str(), at.light), ("PCI address 0000:3b:00.0", None));
        let why = locate(sys.path(), drive, Some(true)).unwrap_err();
        assert!(why.contains("no light") && why.contains("S3R1AL"), "{why}");
        put(sys.path(), "bus/pci/slots/12/address", "0000:3b:00\n");
        put(sys.path(), "bus/pci/slots/12/attention", "0\n");
        let at = locate(sys.path(), drive, Some(true)).unwrap();
        assert_eq!((at.slot.as_str(), at.light), ("PCI slot 12 (0000:3b:00.0)", Some(true)));
        put(sys.path(), "class/leds/nvme7n1:red:locate/brightness", "0");
        assert_eq!(locate(sys.path(), drive, Some(true)).unwrap().light, Some(true));
        put(sys.path(), "class/enclosure/0:0:1:0/Slot 03/locate", "0\n");
        fs::create_dir_all(sys.path().join("class/enclosure/0:0:1:0/Slot 03/device/block/nvme7n1")).unwrap();
        let at = locate(sys.path(), drive, Some(true)).unwrap();
        assert_eq!((at.slot.as_str(), at.light), ("enclosure slot Slot 03", Some(true)));
        assert_eq!(locate(sys.path(), drive, Some(false)).unwrap().light, Some(false));
    }

    /// Under the systemd unit as it is shipped.
    #[test]
    fn who_may_not_touch_a_light_is_told_who_may_and_how() {
        let (sys, drive) = (machine(), &sought("/dev/nvme7n1", "", true));
        // No user may write to a folder.
        let light = sys.path().join("class/leds/nvme7n1:red:locate/brightness");
        fs::create_dir_all(&light).unwrap();
        let why = locate(sys.path(), drive, Some(true)).unwrap_err();
        assert!(why.contains(&format!("as root on the node: echo 1 > '{}'", light.display())), "{why}");
        assert!(
            why.contains("packaging/dolmen.service") && why.contains("PCI address 0000:3b:00.0"),
            "{why}"
        );
    }

    #[test]
    fn a_file_has_a_path_and_no_more() {
        let sys = machine();
        let file = sys.path().join("drive");
        fs::write(&file, "").unwrap();
        let file = sought(file, "", true);
        let at = locate(sys.path(), &file, None).unwrap();
        assert!(at.slot.contains("a file") && at.light.is_none());
        assert!(locate(sys.path(), &file, Some(true)).is_err());
    }
}
