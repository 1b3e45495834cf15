//! The suite and the kernel's own test device, out of the distribution's source package.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result, bail};

use crate::{place::target, setup};

/// The package's archive.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
/// What is taken out of it.
const MEMBERS: [&str; 5] = [
    "*/lib/test_hmm*",
    "*/mm/gup_test.h",
    "*/tools/testing/selftests/mm/hmm-tests.c",
    "*/tools/testing/selftests/mm/*.h",
    "*/tools/testing/selftests/kselftest*.h",
];

/// The kernel's sources that the suite consists of.
#[derive(Debug)]
pub(crate) struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// Takes it out of the archive, unless that was done.
    ///
    /// # Errors
    ///
    /// When the archive is missing, or has no suite.
    pub(crate) fn unpack() -> Result<Self> {
        let metadata = fs::metadata(ARCHIVE).with_context(|| format!("cannot see {ARCHIVE}"))?;
        let seconds = metadata.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
        let parent = target()?.join("selftest");
        let directory = parent.join(format!("source-{seconds}-{}", metadata.len()));
        if directory.exists() {
            return Ok(Self { directory });
        }
        eprintln!("xtask: taking the suite out of {ARCHIVE} (once, about 10 s)");
        // Renamed into place when it is whole.
        let partial = parent.join(format!("partial-{}", std::process::id()));
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(ARCHIVE).arg("-C").arg(&partial);
        tar.args(["--strip-components=1", "--wildcards"])
            .args(MEMBERS);
        run(&mut tar)?;
        fs::rename(&partial, &directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Builds the suite, unmodified.
    ///
    /// # Errors
    ///
    /// What the compiler says.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        let program = self.directory.join("hmm-tests");
        if program.exists() {
            return Ok(program);
        }
        // Relative: the suite's messages name its file as the compiler is given it.
        let mut gcc = Command::new("gcc");
        gcc.current_dir(&self.directory)
            .args(["-O2", "-w", "-static", "-pthread", "-D_GNU_SOURCE", "-I."])
            .args(["-o", "hmm-tests.partial"])
            .arg("tools/testing/selftests/mm/hmm-tests.c");
        run(&mut gcc)?;
        fs::rename(self.directory.join("hmm-tests.partial"), &program)
            .context("cannot write the suite's program")?;
        Ok(program)
    }
}

/// A change to the kernel's test device: what a stock kernel offers no symbol or no memory type for.
struct Edit {
    /// A text that occurs in one line.
    at: &'static str,
    what: Change,
    why: &'static str,
}

enum Change {
    /// The call that the text names becomes this.
    ReplaceCall(&'static str),
    /// This comes before the line.
    Before(&'static str),
}

const EDITS: [Edit; 2] = [
    Edit {
        at: "make_device_exclusive_range",
        what: Change::ReplaceCall("-EOPNOTSUPP"),
        why: "not exported",
    },
    Edit {
        at: "return dmirror_allocate_chunk",
        what: Change::Before("\tif (dmirror_is_private_zone(mdevice))\n\t\treturn 0;"),
        why: "no private device memory (CONFIG_DEVICE_PRIVATE)",
    },
];

/// Builds the kernel's test device, adapted to a stock kernel; prints the edits.
///
/// # Errors
///
/// When an edit has no place, or what kbuild says.
pub(crate) fn test_device(suite: &Suite) -> Result<PathBuf> {
    let release = setup::kernel_release()?;
    let directory = target()?.join("selftest").join(&release);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let original = fs::read_to_string(suite.directory.join("lib/test_hmm.c"))
        .context("cannot read the kernel's test device")?;
    println!("test_hmm.c, adapted to {release}:");
    let adapted = adapt(&original)?;
    let source = directory.join("test_hmm.c");
    let module = directory.join("test_hmm.ko");
    if module.exists() && fs::read_to_string(&source).is_ok_and(|text| text == adapted) {
        return Ok(module);
    }
    fs::write(&source, adapted).context("cannot write the adapted device")?;
    fs::write(directory.join("Kbuild"), "obj-m := test_hmm.o\n").context("cannot write Kbuild")?;
    fs::copy(
        suite.directory.join("lib/test_hmm_uapi.h"),
        directory.join("test_hmm_uapi.h"),
    )
    .context("cannot copy the device's header")?;
    let build = Path::new("/lib/modules").join(&release).join("build");
    let mut make = Command::new("make");
    make.arg("-C").arg(build);
    make.arg(format!("M={}", directory.display()))
        .arg("modules");
    run(&mut make)?;
    Ok(module)
}

/// Makes each of [`EDITS`] once, and prints it.
fn adapt(original: &str) -> Result<String> {
    let mut lines: Vec<String> = original.lines().map(str::to_owned).collect();
    for edit in &EDITS {
        let mut places = lines.iter_mut().filter(|line| line.contains(edit.at));
        let (Some(line), None) = (places.next(), places.next()) else {
            bail!(
                "{:?} does not occur once in the kernel's test device",
                edit.at
            );
        };
        let edited = match edit.what {
            Change::ReplaceCall(with) => replace_call(line, edit.at, with)
                .with_context(|| format!("{:?} is no call: {line}", edit.at))?,
            Change::Before(text) => format!("{text}\n{line}"),
        };
        println!("  {}:", edit.why);
        println!("    - {}", line.trim());
        for part in edited.lines() {
            println!("    + {}", part.trim());
        }
        *line = edited;
    }
    Ok(lines.join("\n") + "\n")
}

/// Replaces the call of `function` in `line`, whose arguments have no parentheses.
fn replace_call(line: &str, function: &str, with: &str) -> Option<String> {
    let (before, rest) = line.split_once(function)?;
    let (_arguments, after) = rest.strip_prefix('(')?.split_once(')')?;
    Some(format!("{before}{with}{after}"))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}):\n{said}", output.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "\tret = make_device_exclusive_range(a, b);\n\
                          \treturn dmirror_allocate_chunk(mdevice, NULL);\n";

    #[test]
    fn each_edit_is_made_where_it_belongs() {
        let adapted = adapt(DEVICE).expect("both places are there");
        assert_eq!(
            adapted,
            "\tret = -EOPNOTSUPP;\n\tif (dmirror_is_private_zone(mdevice))\n\t\treturn 0;\n\
             \treturn dmirror_allocate_chunk(mdevice, NULL);\n"
        );
    }

    #[test]
    fn a_device_that_changed_is_refused() {
        let error = adapt(&DEVICE.repeat(2)).expect_err("two places");
        assert!(error.to_string().contains("does not occur once"), "{error}");
    }
}
