//! `cohmem completions`: what a shell needs to complete command lines.

use std::io::{self, Write as _};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::{Exit, Result};

/// Print the completions for a shell.
///
/// The Debian package installs them for bash, fish and zsh. Elsewhere, put
/// `source <(cohmem completions bash)` into ~/.bashrc, or the like for another shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, mut command: Command) -> Result<Exit> {
        // The generator panics when it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "cohmem", &mut script);
        io::stdout().lock().write_all(&script)?;
        Ok(Exit::Done)
    }
}
