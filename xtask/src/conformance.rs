//! The conformance suite of the library on every backend: the engine on this machine with each
//! privilege, the driver and a NUMA node in the lab, and the engine on a real device there.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    engine,
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad, Range},
    place::{cargo, repository, target},
    privilege::{self, Privilege, PublicCopy},
    setup::{self, Group},
};

/// Memory of the emulated device on this machine.
const EMULATED: &str = "96M";

/// Runs all of it.
///
/// # Errors
///
/// When a test failed, a backend was not what it had to be, or the lab complained.
pub(crate) fn check() -> Result<()> {
    let suite = suite()?;
    on_this_machine(&suite)?;
    in_the_lab(&suite)?;
    on_real_device_memory(&suite)
}

/// Builds the suite; its program.
fn suite() -> Result<PathBuf> {
    const TARGET: [&str; 4] = ["--package", "cohmem", "--test", "conformance"];
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--no-run", "--message-format=json"])
        .args(TARGET)
        .current_dir(repository()?)
        .output()
        .context("cargo test --no-run")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let messages = String::from_utf8(output.stdout).context("cargo's messages")?;
    // The one message with an executable.
    let path = messages
        .lines()
        .filter(|line| line.contains(r#""name":"conformance""#))
        .find_map(|line| Some(line.split_once(r#""executable":""#)?.1.split_once('"')?.0));
    path.map(PathBuf::from)
        .context("cargo names no executable of the suite")
}

fn on_this_machine(suite: &Path) -> Result<()> {
    let copy = PublicCopy::of(suite)?;
    for privilege in Privilege::ALL {
        println!("conformance: the engine, {}", privilege.name());
        // What is not said to be level 3 must be better: an unprivileged user has level 2.
        let backend = match privilege {
            Privilege::Own => format!("engine:{EMULATED}"),
            Privilege::User => format!("engine:{EMULATED},level=2"),
            Privilege::UserWithoutUserfaultfd => format!("engine:{EMULATED}"),
        };
        let output = privilege
            .command(copy.program())?
            .args(["--quiet", "--backend", &backend])
            .current_dir("/")
            .output()
            .context("cannot run the suite")?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("the suite {}: {}", privilege.name(), output.status);
        }
        // Who is not root may have /dev/userfaultfd, which is another way to it.
        let is_refused = privilege == Privilege::UserWithoutUserfaultfd && privilege::is_root()?;
        if is_refused && !text.contains("level 3") {
            bail!("the engine found userfaultfd where it is refused");
        }
    }
    Ok(())
}

fn in_the_lab(suite: &Path) -> Result<()> {
    setup::ensure(Group::Guest)?;
    cargo(&["build", "--quiet", "--package", "cohmem-cli"])?;
    let script = repository()?.join("lab/conformance.sh");
    let command = [script, target()?.join("debug/cohmem"), suite.to_path_buf()];
    let guest = Guest {
        spm: vec![Range {
            start: 0x1_4000_0000,
            bytes: 128 << 20,
        }],
        numa: true,
        modules: vec![ModuleLoad::file(kmod::build(Variant::Shipped)?)],
        command: command.map(|path| path.display().to_string()).to_vec(),
        timeout: Duration::from_secs(400),
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!("the suite in the lab: exit status {}", outcome.exit_code());
    }
    Ok(())
}

/// The engine on a real device-dax node: the suite and the engine's own tests, with each privilege.
fn on_real_device_memory(suite: &Path) -> Result<()> {
    setup::ensure(Group::Guest)?;
    let programs = engine::programs()?;
    let named = |name: &str| {
        let is_named = |path: &&PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
        };
        let found = programs.iter().find(is_named);
        found
            .cloned()
            .with_context(|| format!("no test program {name}"))
    };
    let command = [
        repository()?.join("lab/dax.sh"),
        suite.to_path_buf(),
        std::env::current_exe().context("where xtask is")?,
        named("dax")?,
        named("huge_pages")?,
    ];
    let guest = Guest {
        spm: vec![Range {
            start: 0x1_4000_0000,
            bytes: 128 << 20,
        }],
        modules: vec![
            ModuleLoad::stock("dax_hmem"),
            ModuleLoad::stock("device_dax"),
        ],
        command: command.map(|path| path.display().to_string()).to_vec(),
        timeout: Duration::from_secs(900),
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!(
            "the engine on a real device: exit status {}",
            outcome.exit_code()
        );
    }
    Ok(())
}
