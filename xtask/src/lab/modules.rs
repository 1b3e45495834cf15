//! Stock kernel modules: which files a module needs, in load order, and their unpacked copies.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The modules of one installed kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    directory: PathBuf,
    dependencies: String,
    built_in: String,
}

impl Modules {
    /// Reads the indexes in `directory`, a kernel's own below `/lib/modules`.
    pub(crate) fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let dependencies = read("modules.dep")?;
        let built_in = read("modules.builtin")?;
        Ok(Self {
            directory: directory.to_owned(),
            dependencies,
            built_in,
        })
    }

    /// The files to load for module `name`, dependencies first, below the modules' directory; none
    /// when the kernel has it built in.
    pub(crate) fn load_order(&self, name: &str) -> Result<Vec<&str>> {
        for line in self.dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            if same_module(file, name) {
                // The file lists all of them, each before what it needs.
                let mut order = vec![file];
                order.extend(needs.split_whitespace());
                order.reverse();
                return Ok(order);
            }
        }
        if self.built_in.lines().any(|file| same_module(file, name)) {
            return Ok(Vec::new());
        }
        bail!(
            "the kernel has no module {name} ({})",
            self.directory.display()
        );
    }

    /// The content of one of [`Modules::load_order`]'s files, unpacked; `cache` keeps it.
    pub(crate) fn content(&self, file: &str, cache: &Path) -> Result<Vec<u8>> {
        let packed = self.directory.join(file);
        if !file.ends_with(".xz") {
            return fs::read(&packed).with_context(|| format!("cannot read {}", packed.display()));
        }
        let unpacked = cache.join(module_name(file)).with_extension("ko");
        if let Ok(content) = fs::read(&unpacked) {
            return Ok(content);
        }
        let output = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(&packed)
            .output()
            .context("cannot run xz")?;
        if !output.status.success() {
            bail!("xz cannot unpack {}: {}", packed.display(), output.status);
        }
        // Renamed into place, as another lab may be doing the same.
        let partial = cache.join(format!("{}.{}", module_name(file), std::process::id()));
        fs::create_dir_all(cache)
            .and_then(|()| fs::write(&partial, &output.stdout))
            .and_then(|()| fs::rename(&partial, &unpacked))
            .with_context(|| format!("cannot write {}", unpacked.display()))?;
        Ok(output.stdout)
    }
}

/// A module's name as the kernel has it: `kernel/net/9p/9pnet.ko.xz` is `9pnet`.
pub(crate) fn module_name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split_once(".ko")
        .map_or(base, |(stem, _)| stem)
        .replace('-', "_")
}

fn same_module(file: &str, name: &str) -> bool {
    module_name(file) == name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules {
            directory: PathBuf::from("/lib/modules/6.12.1"),
            dependencies: "kernel/fs/netfs/netfs.ko.xz:\n\
                kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz\n\
                kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                kernel/drivers/misc/pvpanic/pvpanic-mmio.ko.xz: kernel/drivers/misc/pvpanic/pvpanic.ko.xz\n"
                .to_owned(),
            built_in: "kernel/drivers/virtio/virtio_pci.ko\n".to_owned(),
        }
    }

    #[test]
    fn dependencies_come_first() {
        let modules = modules();
        assert_eq!(
            modules.load_order("9p").expect("known"),
            [
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/fs/9p/9p.ko.xz"
            ]
        );
    }

    #[test]
    fn dash_and_underscore_are_the_same_letter() {
        let modules = modules();
        let order = modules.load_order("pvpanic_mmio").expect("known");
        assert_eq!(order, modules.load_order("pvpanic-mmio").expect("known"));
        assert_eq!(
            order.last().map(|file| module_name(file)).as_deref(),
            Some("pvpanic_mmio")
        );
    }

    #[test]
    fn built_in_needs_nothing_and_unknown_is_an_error() {
        let modules = modules();
        assert!(
            modules
                .load_order("virtio_pci")
                .expect("built in")
                .is_empty()
        );
        let error = modules.load_order("nosuch").expect_err("unknown");
        assert!(error.to_string().contains("nosuch"), "{error}");
    }
}
