//! A kernel unpacked from its package: the image to boot, and the modules the guest needs with all that they
//! depend on, decompressed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::sh::run;

/// What the guest loads: its own devices, both sides of NVMe/TCP, backing stores, file systems.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "9p",
    "9pnet_virtio",
    "nvme-tcp",
    "nvme-fabrics",
    "nvmet",
    "nvmet-tcp",
    "nbd",
    "crc32c_generic",
    "crc32c-intel",
    "ext4",
    "xfs",
    "loop",
    "null_blk",
    "brd",
    "af_packet",
];

/// One kernel series, unpacked below the work folder.
pub(crate) struct Kernel {
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// `/lib/modules/<release>` of the package.
    modules: PathBuf,
    /// The release string, as `uname -r` says it.
    pub(crate) release: String,
}

impl Kernel {
    /// Fetches (once) and opens the newest kernel of a series such as `6.12`.
    pub(crate) fn of_series(series: &str, work: &Path) -> Result<Self> {
        let root = packages::unpack_kernel(series, work)?;
        let image = fs::read_dir(root.join("boot"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
            .context("the kernel package holds no vmlinuz")?;
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let release = name.trim_start_matches("vmlinuz-").to_owned();
        let lib = ["lib", "usr/lib"].map(|lib| root.join(lib).join("modules").join(&release));
        let modules =
            lib.into_iter().find(|dir| dir.is_dir()).context("the kernel package holds no modules")?;
        let depmod = packages::find_program("depmod").context("depmod is missing")?;
        if !modules.join("modules.dep").is_file() {
            let base = modules.ancestors().nth(3).context("module folder without a root")?;
            run(&depmod.to_string_lossy()).arg("-b").arg(base).arg(&release).bytes()?;
        }
        Ok(Self { image, modules, release })
    }

    /// Copies the guest's modules and their dependencies below `root/lib/modules`, decompressed and indexed.
    pub(crate) fn install_modules(&self, root: &Path) -> Result<()> {
        let to = root.join("lib/modules").join(&self.release);
        fs::create_dir_all(&to)?;
        for file in self.closure()? {
            let target = to.join(plain_name(&file));
            fs::create_dir_all(target.parent().context("module without a folder")?)?;
            fs::write(&target, decompress(&self.modules.join(&file))?)?;
        }
        for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            if self.modules.join(index).is_file() {
                fs::copy(self.modules.join(index), to.join(index))?;
            }
        }
        let depmod = packages::find_program("depmod").context("depmod is missing")?;
        run(&depmod.to_string_lossy()).arg("-b").arg(root).arg(&self.release).bytes()?;
        Ok(())
    }

    /// The module files, relative to the module folder, that [`MODULES`] and their dependencies come to.
    fn closure(&self) -> Result<BTreeSet<String>> {
        let text = fs::read_to_string(self.modules.join("modules.dep"))?;
        let mut needs: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
        for line in text.lines() {
            let (file, dependencies) = line.split_once(':').context("modules.dep: line without a colon")?;
            needs.insert(module_name(file), (file, dependencies.split_whitespace().collect()));
        }
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))?;
        let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
        let mut files = BTreeSet::new();
        for wanted in MODULES {
            let wanted = wanted.replace('-', "_");
            // modules.dep lists the whole closure of a module on its line.
            match needs.get(&wanted) {
                Some((file, dependencies)) => {
                    files.insert((*file).to_owned());
                    files.extend(dependencies.iter().map(|&file| file.to_owned()));
                }
                None if builtin.contains(&wanted) || wanted.starts_with("crc32c") => {}
                None => bail!("kernel {} has no module {wanted}", self.release),
            }
        }
        Ok(files)
    }
}

/// `kernel/net/9p/9pnet.ko.xz` -> `9pnet`, with the kernel's underscore spelling.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// The file name without its compression suffix.
fn plain_name(file: &str) -> &str {
    file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file)
}

/// A module's content, whatever it is packed with.
fn decompress(file: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => run("xz").args(["-dc"]).arg(file).bytes(),
        Some("zst") => run("zstd").args(["-dcq"]).arg(file).bytes(),
        _ => Ok(fs::read(file)?),
    }
}

#[cfg(test)]
mod tests {
    use super::{module_name, plain_name};

    #[test]
    fn module_names_lose_folder_suffix_and_dashes() {
        assert_eq!(module_name("kernel/drivers/nvme/host/nvme-tcp.ko.xz"), "nvme_tcp");
        assert_eq!(plain_name("a/b.ko.zst"), "a/b.ko");
        assert_eq!(plain_name("a/b.ko"), "a/b.ko");
    }
}
