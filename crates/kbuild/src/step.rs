//! Build steps that run only when something they depend on changed.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Digest of everything that a step's result depends on.
///
/// It guards against stale results, not against people: 64 bits that need not be cryptographic. A
/// compiler whose standard library hashes differently rebuilds once.
#[derive(Clone)]
pub(super) struct Key(DefaultHasher);

impl Key {
    /// The digest of nothing, for the step `name`.
    pub(super) fn new(name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self(hasher)
    }

    /// Adds a text.
    pub(super) fn text(mut self, text: impl AsRef<str>) -> Self {
        text.as_ref().hash(&mut self.0);
        self
    }

    /// Adds texts.
    pub(super) fn texts(mut self, texts: &[String]) -> Self {
        texts.hash(&mut self.0);
        self
    }

    /// Adds a file's content.
    pub(super) fn file(mut self, path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        bytes.hash(&mut self.0);
        Ok(self)
    }

    /// Adds a file's size and modification time: for large files that others install.
    pub(super) fn metadata(mut self, path: &Path) -> Result<Self> {
        let metadata =
            fs::metadata(path).with_context(|| format!("cannot see {}", path.display()))?;
        metadata.len().hash(&mut self.0);
        metadata.modified()?.hash(&mut self.0);
        Ok(self)
    }

    /// Adds the names and contents of all files below `directory`.
    pub(super) fn directory(mut self, directory: &Path) -> Result<Self> {
        for path in files_below(directory)? {
            path.strip_prefix(directory)?.hash(&mut self.0);
            self = self.file(&path)?;
        }
        Ok(self)
    }

    /// The digest as text.
    pub(super) fn finish(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// Runs `make_fn` unless `output` exists and was made from what `key` is the digest of.
pub(super) fn run(output: &Path, key: &Key, make_fn: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut stamp = output.as_os_str().to_owned();
    stamp.push(".made-from");
    let stamp = PathBuf::from(stamp);
    let digest = key.finish();
    if output.exists() && fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == digest) {
        return Ok(());
    }
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("cannot remove {}", stamp.display()))?;
    }
    if let Some(parent) = output.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
    }
    make_fn()?;
    fs::write(&stamp, digest).with_context(|| format!("cannot write {}", stamp.display()))
}

/// All files below `directory`, sorted.
pub(super) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Runs a command; returns what it printed on both outputs, which is the error if it failed.
pub(super) fn output_of(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{program} failed ({}):\n{text}", output.status);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_runs_once_per_key() {
        let directory = std::env::temp_dir().join(format!("cohmem-step-{}", std::process::id()));
        let output = directory.join("output");
        let mut runs = 0;
        for text in ["a", "a", "b", "b"] {
            run(&output, &Key::new("test").text(text), || {
                runs += 1;
                fs::write(&output, text)?;
                Ok(())
            })
            .expect("the step succeeds");
        }
        fs::remove_dir_all(&directory).expect("the directory is ours");
        assert_eq!(runs, 2);
    }

    #[test]
    fn texts_do_not_run_together() {
        let split = Key::new("step").text("ab").text("c").finish();
        let other = Key::new("step").text("a").text("bc").finish();
        assert_ne!(split, other);
    }
}
