//! One Debian package: its files, put together in a directory, and `dpkg-deb` over it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::packaging;
use crate::place::{repository, target};

/// What the packages are made from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) version: String,
    /// Of the last commit: year, month, day.
    pub(super) date: String,
    /// The same, as Debian's changelogs have it.
    mail_date: String,
    /// The same, in seconds since 1970: no file in a package is newer.
    epoch: String,
}

impl Origin {
    pub(super) fn of_tree(version: &str) -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["log", "-1", "--date=format:%F"])
            .arg("--format=%cd%n%cD%n%ct")
            .current_dir(repository()?);
        let text = String::from_utf8(output_of(&mut git)?).context("git log")?;
        let mut lines = text.lines().map(str::to_owned);
        let mut next = || lines.next().context("git log names no commit");
        Ok(Self {
            version: version.to_owned(),
            date: next()?,
            mail_date: next()?,
            epoch: next()?,
        })
    }
}

/// A package that is being put together.
#[derive(Debug)]
pub(super) struct Deb<'a> {
    name: &'static str,
    origin: &'a Origin,
    directory: &'a Path,
    stage: PathBuf,
    programs: Vec<PathBuf>,
}

impl<'a> Deb<'a> {
    /// An empty package; its file will be in `directory`.
    pub(super) fn new(name: &'static str, directory: &'a Path, origin: &'a Origin) -> Result<Self> {
        let stage = directory.join("stage").join(name);
        if stage.exists() {
            fs::remove_dir_all(&stage)
                .with_context(|| format!("cannot clear {}", stage.display()))?;
        }
        let deb = Self {
            name,
            origin,
            directory,
            stage,
            programs: Vec::new(),
        };
        deb.make_directory("")?;
        Ok(deb)
    }

    /// Adds a file. Its mode does not depend on the umask.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.make_directory(directory)?;
        }
        let to = self.stage.join(path);
        fs::write(&to, content).with_context(|| format!("cannot write {}", to.display()))?;
        set_mode(&to, mode)
    }

    /// Adds a file, compressed, under its name and `.gz`.
    pub(super) fn compressed(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let packed = through(Command::new("gzip").arg("-9n"), content)?;
        self.file(&format!("{path}.gz"), 0o644, &packed)
    }

    /// Adds one of the tree's programs, stripped.
    pub(super) fn program(&mut self, path: &str, name: &str) -> Result<()> {
        let built = target()?.join("release").join(name);
        let content =
            fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        self.file(path, 0o755, &content)?;
        let installed = self.stage.join(path);
        output_of(
            Command::new("strip")
                .args(["--strip-unneeded", "--remove-section=.comment"])
                .arg(&installed),
        )?;
        self.programs.push(installed);
        Ok(())
    }

    /// Adds copyright, changelog, and which crates are in the programs.
    pub(super) fn documents(&mut self, package: &str) -> Result<()> {
        let directory = format!("usr/share/doc/{}", self.name);
        let copyright = self.copyright()?;
        self.file(
            &format!("{directory}/copyright"),
            0o644,
            copyright.as_bytes(),
        )?;
        let changelog = self.changelog();
        self.compressed(&format!("{directory}/changelog"), changelog.as_bytes())?;
        let crates = crates_in(package)?;
        self.file(&format!("{directory}/crates"), 0o644, crates.as_bytes())
    }

    /// A file of `packaging/deb`, with the words for this package filled in.
    pub(super) fn text(&self, path: &str) -> Result<String> {
        let path = packaging("deb")?.join(path);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text
            .replace("@VERSION@", &self.origin.version)
            .replace("@PACKAGE@", self.name))
    }

    /// Writes the package's file and gives its path.
    pub(super) fn build(mut self) -> Result<PathBuf> {
        let size = kib_below(&self.stage)?.to_string();
        let control = self
            .text(&format!("{}/control", self.name))?
            .replace("@SIZE@", &size)
            .replace("@SHLIBS@", &self.shared_libraries()?);
        let sums = self.checksums()?;
        self.file("DEBIAN/control", 0o644, control.as_bytes())?;
        self.file("DEBIAN/md5sums", 0o644, &sums)?;
        let scripts = packaging("deb")?.join(self.name);
        for (name, mode) in [
            ("conffiles", 0o644),
            ("postinst", 0o755),
            ("prerm", 0o755),
            ("postrm", 0o755),
        ] {
            if scripts.join(name).exists() {
                let text = self.text(&format!("{}/{name}", self.name))?;
                self.file(&format!("DEBIAN/{name}"), mode, text.as_bytes())?;
            }
        }
        let file = format!("{}_{}_amd64.deb", self.name, self.origin.version);
        let file = self.directory.join(file);
        output_of(
            Command::new("dpkg-deb")
                .args(["--root-owner-group", "--build"])
                .arg(&self.stage)
                .arg(&file)
                .env("SOURCE_DATE_EPOCH", &self.origin.epoch),
        )?;
        Ok(file)
    }

    fn make_directory(&self, path: &str) -> Result<()> {
        let mut directory = self.stage.clone();
        for part in [""].into_iter().chain(path.split('/')) {
            directory.push(part);
            if !directory.exists() {
                fs::create_dir_all(&directory)
                    .with_context(|| format!("cannot create {}", directory.display()))?;
            }
            set_mode(&directory, 0o755)?;
        }
        Ok(())
    }

    fn copyright(&self) -> Result<String> {
        let licence = |name: &str| -> Result<String> {
            let path = repository()?.join("LICENSES").join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(self
            .text("copyright")?
            .replace("@MIT@", &indented(&licence("MIT.txt")?))
            .replace("@NOTE@", &indented(&licence("Linux-syscall-note.txt")?)))
    }

    fn changelog(&self) -> String {
        format!(
            "{} ({}) unstable; urgency=medium\n\n  * Built from the source tree; its CHANGELOG.md \
             tells what changed.\n\n -- The cohmem developers <maintainers@cohmem.invalid>  {}\n",
            self.name, self.origin.version, self.origin.mail_date
        )
    }

    /// What the programs are linked with, as a list of packages.
    fn shared_libraries(&self) -> Result<String> {
        // It wants to be called in a Debian source package.
        let source = self.directory.join("shlibs").join(self.name);
        fs::create_dir_all(source.join("debian"))
            .with_context(|| format!("cannot create {}", source.display()))?;
        fs::write(
            source.join("debian/control"),
            format!(
                "Source: cohmem\n\nPackage: {}\nArchitecture: amd64\n",
                self.name
            ),
        )?;
        let mut command = Command::new("dpkg-shlibdeps");
        command.arg("-O").args(&self.programs).current_dir(&source);
        let text = String::from_utf8(output_of(&mut command)?).context("dpkg-shlibdeps")?;
        text.lines()
            .find_map(|line| line.strip_prefix("shlibs:Depends="))
            .map(str::to_owned)
            .with_context(|| format!("dpkg-shlibdeps names no library: {text}"))
    }

    /// As `md5sum` prints them, for `dpkg --verify`.
    fn checksums(&self) -> Result<Vec<u8>> {
        let names: Vec<_> = files_below(&self.stage)?
            .iter()
            .map(|path| path.strip_prefix(&self.stage).map(Path::to_owned))
            .collect::<Result<_, _>>()?;
        output_of(Command::new("md5sum").args(&names).current_dir(&self.stage))
    }
}

/// A path's last part, as text.
pub(super) fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a file without a name")?.to_owned())
}

/// Names, versions and licences of the crates that a package's program is linked with.
fn crates_in(package: &str) -> Result<String> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["tree", "--package", package, "--edges", "normal"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p} {l}"])
        .current_dir(repository()?);
    let text = String::from_utf8(output_of(&mut command)?).context("cargo tree")?;
    // Crates of the tree are followed by their directory.
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| !line.contains(" (/"))
        .map(|line| line.replace(" (proc-macro)", ""))
        .collect();
    lines.sort();
    lines.dedup();
    Ok(lines.join("\n") + "\n")
}

/// A text as the value of a field: indented, with dots for empty lines.
fn indented(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| match line.trim_end() {
            "" => " .".to_owned(),
            line => format!(" {line}"),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Size of all files, each in whole KiB, as Debian's policy counts it.
fn kib_below(directory: &Path) -> Result<u64> {
    let mut kib = 0;
    for path in files_below(directory)? {
        kib += path.metadata()?.len().div_ceil(1024);
    }
    Ok(kib)
}

/// The files at or below a path, sorted.
pub(super) fn files_below(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        files.extend(files_below(&entry?.path())?);
    }
    files.sort();
    Ok(files)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// What a command prints; what it says on the standard error is the error if it fails.
fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}):\n{text}", output.status);
    }
    Ok(output.stdout)
}

/// `input` through a filter.
fn through(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run a filter")?;
    let mut stdin = child.stdin.take().context("it has an input")?;
    let input = input.to_owned();
    // It may want to write before it has read everything.
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().context("cannot wait for it")?;
    if writer.join().is_ok_and(|result| result.is_ok()) && output.status.success() {
        return Ok(output.stdout);
    }
    bail!("a filter failed ({})", output.status)
}

#[cfg(test)]
mod tests {
    use super::{indented, through};
    use std::process::Command;

    #[test]
    fn a_field_has_no_empty_line() {
        assert_eq!(indented("a\n\n  b\n"), " a\n .\n   b");
    }

    #[test]
    fn a_filter_s_failure_is_an_error() {
        assert_eq!(
            through(&mut Command::new("cat"), b"abc").expect("cat"),
            b"abc"
        );
        through(&mut Command::new("false"), b"").expect_err("it fails");
    }
}
