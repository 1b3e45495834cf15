//! Which installed kernel the module is built for and the lab boots.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// The newest installed 6.12 kernel of Debian's plain amd64 flavour that has both its headers and
/// its image, as in `uname -r`.
///
/// # Errors
///
/// When there is none; `cargo xtask setup` installs one.
pub(crate) fn kernel_release() -> Result<String> {
    let installed = fs::read_dir("/lib/modules")
        .context("cannot list /lib/modules")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|release| {
            Path::new("/lib/modules")
                .join(release)
                .join("build/Makefile")
                .exists()
                && Path::new("/boot")
                    .join(format!("vmlinuz-{release}"))
                    .exists()
        });
    newest(installed)
        .context("no installed 6.12 kernel has both headers and image; run `cargo xtask setup`")
}

fn newest(releases: impl Iterator<Item = String>) -> Option<String> {
    releases
        .filter(|release| is_wanted(release))
        .max_by_key(|release| numbers(release))
}

fn is_wanted(release: &str) -> bool {
    release.starts_with("6.12.")
        && release.strip_suffix("-amd64").is_some_and(|rest| {
            // "-rt-amd64" and "-cloud-amd64" are other kernels.
            !rest.ends_with("-rt") && !rest.ends_with("-cloud")
        })
}

/// The numbers in a release, which order releases as people do: 6.12.9 before 6.12.10.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::newest;

    fn newest_of(releases: &[&str]) -> Option<String> {
        newest(releases.iter().map(|&release| release.to_owned()))
    }

    #[test]
    fn the_newest_is_by_number_not_by_letter() {
        let newest = newest_of(&[
            "6.12.9+deb12-amd64",
            "6.12.117+deb12-amd64",
            "6.12.48+deb12-amd64",
        ]);
        assert_eq!(newest.as_deref(), Some("6.12.117+deb12-amd64"));
    }

    #[test]
    fn other_series_and_flavours_do_not_count() {
        let other = [
            "6.1.0-9-amd64",
            "6.12.48+deb12-rt-amd64",
            "6.12.48+deb12-cloud-amd64",
            "6.13.1+deb13-amd64",
        ];
        assert_eq!(newest_of(&other), None);
    }
}
