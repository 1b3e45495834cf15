//! `cargo xtask guide`: the examples of the guide and the README, run and compared.
//!
//! A fenced block whose info string is `console` is run on the host, one with `console lab` in the
//! lab's guest, as root, with the module loaded. Lines after `$ ` or `# ` are commands, lines after
//! `> ` go on with the one before; everything else is what the command prints. All blocks of a file
//! for one place are one session of bash, so that later ones build on earlier ones.
//!
//! What is printed is compared line by line, see [`pattern`]; in a block that shows no output at all, it
//! is not. A command must succeed; one that is to fail says so: `cohmem detach 9; echo "exit status $?"`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

mod pattern;
mod script;
mod session;

use self::{
    script::{Block, Place},
    session::Answer,
};
use crate::{
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad, Output},
    place::{cargo, repository, target},
    setup::{self, Group},
};

/// Documents that have examples.
const DOCUMENTS: [&str; 2] = ["docs/guide.md", "README.md"];

/// Arguments of `cargo xtask guide`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print what the commands print, too, for writing examples
    #[arg(long)]
    show: bool,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    check_all(args.show)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs and compares every example.
///
/// # Errors
///
/// When an example fails or prints something else, or a document cannot be read.
pub(crate) fn check() -> Result<()> {
    check_all(false)
}

fn check_all(show: bool) -> Result<()> {
    setup::ensure(Group::Programs)?;
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-cli"])?;
    let mut blocks = Vec::new();
    for name in DOCUMENTS {
        let path = repository()?.join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        blocks.extend(script::blocks(name, &text)?);
    }
    let mut complaints = commands_without_example(&blocks)?;
    let mut nr_commands = 0;
    for place in [Place::Host, Place::Lab] {
        let here: Vec<_> = blocks.iter().filter(|block| block.place == place).collect();
        let commands: Vec<_> = here.iter().flat_map(|block| &block.commands).collect();
        let is_compared = here
            .iter()
            .flat_map(|block| block.commands.iter().map(|_| block.shows_output()));
        if commands.is_empty() {
            continue;
        }
        nr_commands += commands.len();
        let text = session::script(&commands);
        let said = match place {
            Place::Host => on_host(&text)?,
            Place::Lab => in_lab(&text)?,
        };
        let answers = session::answers(&said, commands.len())?;
        for ((command, answer), is_compared) in commands.iter().zip(&answers).zip(is_compared) {
            if show {
                println!("{}\n$ {}\n{}", command.at, command.line, answer.text);
            }
            complaints.extend(complaint(command, answer, is_compared));
        }
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n\n"));
    }
    println!("examples: {nr_commands} commands pass");
    Ok(())
}

fn complaint(command: &script::Command, answer: &Answer, is_compared: bool) -> Option<String> {
    let at = &command.at;
    let line = &command.line;
    if answer.status != 0 {
        let (status, text) = (answer.status, &answer.text);
        return Some(format!("{at}: `{line}` ends with {status}:\n{text}"));
    }
    if !is_compared {
        return None;
    }
    pattern::difference(&command.output, &answer.text)
        .map(|difference| format!("{at}: `{line}` {difference}\n{}", answer.text))
}

/// Every command of `cohmem` has an example, but for those that other stages show.
fn commands_without_example(blocks: &[Block]) -> Result<Vec<String>> {
    // The tour is a stage of its own.
    const ELSEWHERE: [&str; 2] = ["help", "tour"];
    let help = Command::new(program()?).arg("--help").output();
    let help = help.context("cannot run cohmem")?;
    let help = String::from_utf8_lossy(&help.stdout);
    let lines: Vec<_> = blocks
        .iter()
        .flat_map(|block| &block.commands)
        .map(|command| command.line.as_str())
        .collect();
    let missing = script::subcommands(&help)
        .into_iter()
        .filter(|name| !ELSEWHERE.contains(name))
        .filter(|name| {
            !lines
                .iter()
                .any(|line| line.contains(&format!("cohmem {name}")))
        });
    Ok(missing
        .map(|name| format!("docs/guide.md: no example of `cohmem {name}`"))
        .collect())
}

fn program() -> Result<PathBuf> {
    Ok(target()?.join("release/cohmem"))
}

fn on_host(text: &str) -> Result<String> {
    let directory = target()?.join("guide/host");
    if directory.exists() {
        fs::remove_dir_all(&directory).context("cannot clear the examples' directory")?;
    }
    fs::create_dir_all(&directory).context("cannot create the examples' directory")?;
    let path = std::env::var("PATH").context("PATH")?;
    let output = Command::new("bash")
        .args(["-c", text])
        .current_dir(&directory)
        .env(
            "PATH",
            format!("{}:{path}", target()?.join("release").display()),
        )
        .env("NO_COLOR", "1")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context("cannot run bash")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn in_lab(text: &str) -> Result<String> {
    let module = kmod::build(Variant::Shipped)?;
    let path = target()?.join("guide/lab.sh");
    fs::create_dir_all(target()?.join("guide"))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let guest = Guest {
        modules: vec![ModuleLoad::file(module)],
        command: vec!["bash".to_owned(), path.display().to_string()],
        environment: vec![("NO_COLOR".to_owned(), "1".to_owned())],
        timeout: Duration::from_secs(600),
        output: Output::Capture,
        ..Guest::default()
    };
    let outcome = guest.run()?;
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    if !outcome.is_success() {
        lab::tell(&outcome);
        bail!("the lab: exit status {}\n{said}", outcome.exit_code());
    }
    Ok(said)
}
