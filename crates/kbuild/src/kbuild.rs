//! The C half of the module, and the module itself, made by the kernel's own build rules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Tree, Variant,
    kernel::Kernel,
    step::{self, Key, output_of},
};

/// Builds a module from the C helpers and the Rust object.
///
/// # Errors
///
/// When kbuild fails or prints a warning of any tool: objtool's and modpost's are about code that
/// the kernel would run wrongly.
pub(super) fn build(
    kernel: &Kernel,
    tree: &Tree,
    object: &Path,
    out: &Path,
    variant: Variant,
) -> Result<PathBuf> {
    let directory = out.join("kbuild");
    let module = directory.join(variant.module()).with_extension("ko");
    let source = tree.root.join(variant.directory());
    let shared = tree.shared().join("helpers");
    let key = Key::new("kbuild")
        .text(&kernel.identity)
        .text(variant.name())
        .file(&source.join("Kbuild"))?
        .directory(&source.join("helpers"))?
        .directory(&shared)?
        .file(&tree.header())?
        .file(object)?;
    step::run(&module, &key, || {
        copy_sources(&source, &shared, object, &directory)?;
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(&kernel.build)
            .arg(format!("M={}", directory.display()));
        if variant == Variant::Hooks {
            make.arg("COHMEM_HOOKS=y");
        }
        let text = output_of(make.arg("modules"))?;
        let warnings = warnings(&text);
        if !warnings.is_empty() {
            bail!("the kernel's build rules warn:\n{}", warnings.join("\n"));
        }
        Ok(())
    })?;
    Ok(module)
}

fn copy_sources(source: &Path, shared: &Path, object: &Path, directory: &Path) -> Result<()> {
    let helpers = directory.join("helpers");
    if helpers.exists() {
        fs::remove_dir_all(&helpers).context("cannot clear the build directory")?;
    }
    fs::create_dir_all(&helpers).context("cannot create the build directory")?;
    fs::copy(source.join("Kbuild"), directory.join("Kbuild")).context("cannot copy Kbuild")?;
    let own = step::files_below(&source.join("helpers"))?;
    for path in step::files_below(shared)?.into_iter().chain(own) {
        let name = path.file_name().context("a file without a name")?;
        fs::copy(&path, helpers.join(name))
            .with_context(|| format!("cannot copy {}", path.display()))?;
    }
    fs::copy(object, directory.join("rust.o_shipped")).context("cannot copy the Rust object")?;
    Ok(())
}

/// Said of any other release of the compiler that the kernel was built with, as after an update of it.
const OTHER_COMPILER: &str = "the compiler differs from the one used to build the kernel";

fn warnings(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.to_ascii_lowercase().contains("warning"))
        .filter(|line| !line.contains(OTHER_COMPILER))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::warnings;

    #[test]
    fn warnings_of_every_tool_are_seen() {
        let text = "  CC [M]  helpers/mm.o\nhelpers/mm.c:3:1: warning: unused\n  LD [M]  cohmem.ko\n\
                    cohmem.o: warning: objtool: x+0x3: 'naked' return\nWARNING: modpost: missing X\n";
        assert_eq!(warnings(text).len(), 3);
    }

    #[test]
    fn an_updated_compiler_is_no_complaint() {
        let text = "warning: the compiler differs from the one used to build the kernel\n\
                      The kernel was built by: gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0\n";
        assert!(warnings(text).is_empty());
    }
}
