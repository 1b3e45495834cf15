//! The guest's initramfs: busybox, the scripts of `lab/`, the modules and the job.

use std::fs;

use anyhow::{Context as _, Result};

use super::{
    cpio::Archive,
    guest::{Guest, Module, ModuleLoad},
    job::Job,
    modules::{Modules, module_name},
    place,
};
use crate::kernel::Kernel;

impl Guest {
    /// The archive for `kernel`; `mark` is to end each of the command's outputs.
    pub(super) fn initramfs(&self, kernel: &Kernel, mark: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "lab", "lab/modules"] {
            archive.directory(directory)?;
        }
        let busybox = fs::read("/bin/busybox").context("cannot read /bin/busybox")?;
        archive.file("bin/busybox", 0o755, &busybox)?;
        archive.file("init", 0o755, include_bytes!("../../../lab/init"))?;
        archive.file("lab/session", 0o644, include_bytes!("../../../lab/session"))?;
        archive.file("lab/job", 0o644, self.job()?.as_bytes())?;
        archive.file("lab/mark", 0o644, format!("{mark}\n").as_bytes())?;
        if self.shared.is_some() {
            archive.file("lab/out", 0o644, b"")?;
        }
        if !kernel.is_installed() {
            let modules = format!("{} {}\n", kernel.release, kernel.modules.display());
            archive.file("lab/kernel-modules", 0o644, modules.as_bytes())?;
        }
        let load = self.add_modules(&mut archive, kernel)?;
        archive.file("lab/load", 0o644, load.as_bytes())?;
        archive.finish()
    }

    /// Adds the modules' files; gives the list that `lab/init` loads from.
    fn add_modules(&self, archive: &mut Archive, kernel: &Kernel) -> Result<String> {
        let stock = Modules::read(&kernel.modules)?;
        let cache = place::lab_directory()?
            .join("modules")
            .join(&kernel.release);
        let mut load = String::new();
        let own = ["pvpanic_mmio", "9pnet_virtio", "9p", "overlay"];
        let own = own.map(|name| ModuleLoad {
            module: Module::Stock(name.to_owned()),
            parameters: String::new(),
        });
        let mut loaded: Vec<String> = Vec::new();
        for ModuleLoad { module, parameters } in own.iter().chain(&self.modules) {
            let mut add = |name: String, content: &[u8], parameters: &str| {
                if loaded.contains(&name) {
                    return Ok(());
                }
                load += &format!("{name}.ko {parameters}\n");
                archive.file(&format!("lab/modules/{name}.ko"), 0o644, content)?;
                loaded.push(name);
                anyhow::Ok(())
            };
            match module {
                Module::File(path) => {
                    let content = fs::read(path)
                        .with_context(|| format!("cannot read the module {}", path.display()))?;
                    add(
                        module_name(&path.display().to_string()),
                        &content,
                        parameters,
                    )?;
                }
                Module::Stock(name) => {
                    let files = stock.load_order(name)?;
                    for (position, file) in files.iter().enumerate() {
                        let is_last = position + 1 == files.len();
                        let content = stock.content(file, &cache)?;
                        add(
                            module_name(file),
                            &content,
                            if is_last { parameters } else { "" },
                        )?;
                    }
                }
            }
        }
        Ok(load)
    }

    fn job(&self) -> Result<String> {
        let directory = place::repository()?;
        let mut environment = vec![
            ("PATH".to_owned(), place::guest_path()?),
            ("HOME".to_owned(), "/tmp".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("COHMEM_LAB".to_owned(), "1".to_owned()),
        ];
        for load in &self.modules {
            if let Module::File(path) = &load.module
                && path
                    .file_name()
                    .is_some_and(|name| name == "cohmem.ko" || name == "cohmem_dmirror.ko")
            {
                // For tests that unload it and load it again.
                environment.push(("COHMEM_MODULE".to_owned(), path.display().to_string()));
            }
        }
        environment.extend(self.environment.iter().cloned());
        let job = Job {
            prepare: &self.prepare,
            command: &self.command,
            directory: &directory,
            environment,
            user: self.user,
        };
        Ok(job.script())
    }
}
