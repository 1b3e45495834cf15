//! A rustc that can build code for the kernel: one that has the source of its own `core`.
//!
//! The kernel's flags change the ABI, so `core` has to be compiled with them. Its source uses what
//! only the compiler of the same version knows. Distributions install the two by themselves
//! (rustc-web and rust-web-src on Debian 12, rustc and rust-src later), rustup with
//! `rustup component add rust-src`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::step::output_of;

/// Where a distribution installs it: preferred to others, so that what one user has in the PATH does
/// not change the module.
const DISTRIBUTION: &str = "/usr/bin/rustc";

/// The first rustc that knows the language of our crates.
const OLDEST: (u32, u32) = (1, 89);

/// The newest of the options that kernels want: earlier compilers lack one or another of them.
const OPTIONS: [&str; 2] = ["min-function-alignment", "retpoline-external-thunk"];

/// A rustc, and the source of its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub(crate) rustc: PathBuf,
    /// What `rustc -vV` prints.
    pub(crate) version: String,
    /// The directory that has `core`.
    pub(crate) library: PathBuf,
}

impl Toolchain {
    /// The rustc at `wanted`; by default the first that is fit of the distribution's and those in the
    /// PATH.
    ///
    /// # Errors
    ///
    /// Why each is not fit.
    pub fn find(wanted: Option<&Path>) -> Result<Self> {
        let candidates = match wanted {
            Some(rustc) => vec![rustc.to_owned()],
            None => candidates(env::var_os("PATH").unwrap_or_default()),
        };
        let mut reasons = Vec::new();
        for rustc in candidates {
            match Self::at(&rustc) {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => reasons.push(format!("  {}: {error:#}", rustc.display())),
            }
        }
        if reasons.is_empty() {
            reasons.push(format!(
                "  there is no {DISTRIBUTION}, and none in the PATH"
            ));
        }
        bail!(
            "no rustc can build code for the kernel; install rustc and its library's source \
             (rustc-web and rust-web-src, or rustc and rust-src):\n{}",
            reasons.join("\n")
        );
    }

    fn at(rustc: &Path) -> Result<Self> {
        let version = output_of(Command::new(rustc).arg("-vV"))?;
        let sysroot = output_of(Command::new(rustc).args(["--print", "sysroot"]))?;
        let options = output_of(
            Command::new(rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .arg("-Zhelp"),
        )?;
        Self::with(rustc, version, Path::new(sysroot.trim()), &options)
    }

    /// A rustc that has answered.
    fn with(rustc: &Path, version: String, sysroot: &Path, options: &str) -> Result<Self> {
        let found = release(&version).context("it does not print its version")?;
        if number(found).is_none_or(|number| number < OLDEST) {
            bail!("version {found} is older than {}.{}", OLDEST.0, OLDEST.1);
        }
        if let Some(missing) = OPTIONS.iter().find(|&&option| !knows(options, option)) {
            bail!("version {found} does not know the option -Z{missing}");
        }
        let library = sysroot.join("lib/rustlib/src/rust/library");
        if !library.join("core/src/lib.rs").exists() {
            bail!("the source of its library is not in {}", library.display());
        }
        // Debian's is a link to a directory that has the version in its name.
        if let Ok(real) = fs::canonicalize(&library)
            && let Some(other) = version_in(&real)
            && other != plain(found)
        {
            bail!("version {found}, but the source of its library is of {other}");
        }
        Ok(Self {
            rustc: rustc.to_owned(),
            version,
            library,
        })
    }
}

/// Whether the list that `rustc -Zhelp` prints has the option.
fn knows(options: &str, option: &str) -> bool {
    options
        .split(|letter: char| letter.is_whitespace() || letter == '=')
        .any(|word| word == option)
}

fn candidates(path: impl AsRef<std::ffi::OsStr>) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(DISTRIBUTION)];
    for directory in env::split_paths(&path) {
        let rustc = directory.join("rustc");
        if !found.contains(&rustc) {
            found.push(rustc);
        }
    }
    found.retain(|rustc| rustc.exists());
    found
}

/// The line "release: 1.96.0" of `rustc -vV`.
fn release(version: &str) -> Option<&str> {
    version
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
}

/// Without "-nightly" and the like.
fn plain(release: &str) -> &str {
    release.split('-').next().unwrap_or(release)
}

fn number(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The version in a directory's name as in `/usr/src/rustc-1.96.0/library`.
fn version_in(library: &Path) -> Option<&str> {
    library
        .parent()?
        .file_name()?
        .to_str()?
        .strip_prefix("rustc-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What comes of a rustc of `version` whose library's source is in the directory `source`.
    fn judge(name: &str, version: &str, source: Option<&str>) -> Result<Toolchain> {
        let root = env::temp_dir().join(format!("cohmem-rustc-{}-{name}", std::process::id()));
        if let Some(source) = source {
            let core = root.join(source).join("library/core/src");
            fs::create_dir_all(&core).expect("a directory");
            fs::write(core.join("lib.rs"), "").expect("a file");
            fs::create_dir_all(root.join("lib/rustlib/src")).expect("a directory");
            symlink(root.join(source), root.join("lib/rustlib/src/rust")).expect("a link");
        }
        let answer = format!("rustc {version}\nrelease: {version}\n");
        let options = "    -Z min-function-alignment=val -- align\n    -Z retpoline-external-thunk=val -- thunks\n";
        let result = Toolchain::with(&root.join("rustc"), answer, &root, options);
        if root.exists() {
            fs::remove_dir_all(&root).expect("ours");
        }
        result
    }

    fn refused(name: &str, version: &str, source: Option<&str>) -> String {
        judge(name, version, source)
            .expect_err("it is not fit")
            .to_string()
    }

    #[test]
    fn a_rustc_with_its_source_is_taken() {
        let found = judge("fit", "1.96.0", Some("rustc-1.96.0")).expect("it is fit");
        assert!(found.library.ends_with("lib/rustlib/src/rust/library"));
        // rustup's directory has no version in its name.
        judge("nightly", "1.97.0-nightly", Some("rust")).expect("it is fit");
    }

    #[test]
    fn the_source_of_another_version_is_refused() {
        let says = refused("other", "1.96.0", Some("rustc-1.85.0"));
        assert!(says.contains("version 1.96.0"), "{says}");
        assert!(says.contains("is of 1.85.0"), "{says}");
    }

    #[test]
    fn a_missing_source_and_an_old_version_are_told() {
        let says = refused("bare", "1.96.0", None);
        assert!(says.contains("is not in"), "{says}");
        let says = refused("old", "1.85.1", Some("rustc-1.85.1"));
        assert!(says.contains("1.85.1 is older than 1.89"), "{says}");
    }

    #[test]
    fn a_missing_option_is_named() {
        let says = Toolchain::with(
            Path::new("/x/rustc"),
            "release: 1.89.0\n".to_owned(),
            Path::new("/x"),
            "    -Z min-function-alignment=val -- align\n    -Z retpoline=val -- thunks\n",
        )
        .expect_err("it lacks one");
        assert!(
            says.to_string().contains("-Zretpoline-external-thunk"),
            "{says}"
        );
    }
}
