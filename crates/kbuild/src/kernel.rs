//! The kernel that the module is built for: its headers, its configuration, its C flags.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::step::{self, Key, output_of};

/// Prints the flags that kbuild would compile a C file of a module with. kbuild accepts a target
/// with the suffix of a Rust intermediate as a single target, even without Rust support.
const PRINT_FLAGS: &str = "$(obj)/cflags.rsi: FORCE\n\t@echo '$(c_flags)' > $@\n";

/// A kernel's build directory.
pub(super) struct Kernel {
    /// Headers and build rules.
    pub(super) build: PathBuf,
    /// Where the results for this kernel go.
    pub(super) out: PathBuf,
    /// Changes whenever the headers do.
    pub(super) identity: String,
    /// Flags of the C compiler.
    pub(super) c_flags: Vec<String>,
    config: BTreeMap<String, String>,
}

impl Kernel {
    /// Finds the kernel with this release, or the build directory at this absolute path.
    pub(super) fn find(release: &str, out: &Path) -> Result<Self> {
        let build = if release.starts_with('/') {
            PathBuf::from(release)
        } else {
            Path::new("/lib/modules").join(release).join("build")
        };
        let name = fs::read_to_string(build.join("include/config/kernel.release"));
        let Ok(name) = name else {
            bail!(
                "{} is no prepared kernel build; are the kernel's headers installed?",
                build.display()
            );
        };
        let autoconf = build.join("include/generated/autoconf.h");
        let identity = Key::new("kernel")
            .text(build.to_string_lossy())
            .metadata(&autoconf)?
            .metadata(&build.join("Module.symvers"))?
            .finish();
        let out = out.join(name.trim());
        let config = fs::read_to_string(&autoconf)
            .with_context(|| format!("cannot read {}", autoconf.display()))?;
        let c_flags = c_flags(&build, &out, &identity)?;
        Ok(Self {
            build,
            out,
            identity,
            c_flags,
            config: parse_config(&config),
        })
    }

    /// Whether an option is on (built in).
    pub(super) fn has(&self, option: &str) -> bool {
        self.config.get(option).is_some_and(|value| value == "1")
    }

    /// Value of an option that is a number.
    pub(super) fn number(&self, option: &str) -> Option<u32> {
        self.config.get(option)?.parse().ok()
    }
}

/// Reads the `#define CONFIG_NAME VALUE` lines of autoconf.h.
fn parse_config(autoconf: &str) -> BTreeMap<String, String> {
    autoconf
        .lines()
        .filter_map(|line| line.strip_prefix("#define CONFIG_")?.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn c_flags(build: &Path, out: &Path, identity: &str) -> Result<Vec<String>> {
    let directory = out.join("flags");
    let result = directory.join("cflags.rsi");
    step::run(
        &result,
        &Key::new("flags").text(identity).text(PRINT_FLAGS),
        || {
            fs::write(directory.join("Kbuild"), PRINT_FLAGS)?;
            let mut make = Command::new("make");
            make.arg("-s")
                .arg("-C")
                .arg(build)
                .arg(format!("M={}", directory.display()));
            output_of(make.arg("cflags.rsi")).map(drop)
        },
    )?;
    let text = fs::read_to_string(&result).context("cannot read the kernel's C flags")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::parse_config;

    #[test]
    fn options_are_read_with_their_values() {
        let config = parse_config(
            "/* x */\n#define CONFIG_KASAN 1\n#define CONFIG_FUNCTION_PADDING_BYTES 16\n",
        );
        assert_eq!(config.get("KASAN").map(String::as_str), Some("1"));
        assert_eq!(
            config.get("FUNCTION_PADDING_BYTES").map(String::as_str),
            Some("16")
        );
        assert_eq!(config.len(), 2);
    }
}
