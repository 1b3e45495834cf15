//! `cohmem man`: the manual, made from the definition of the command line.

use std::path::PathBuf;

use clap::{Args, Command};

use crate::{
    exit::{Exit, Result},
    manual,
};

/// Write the manual pages, one a command, into a directory.
///
/// The Debian package installs them. Elsewhere, `cohmem man ~/.local/share/man/man1` does.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Date at the foot of the pages; none by default.
    #[arg(long, default_value = "", hide_default_value = true)]
    date: String,
    /// It is created if need be; pages that are there are replaced.
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(&self, command: Command) -> Result<Exit> {
        manual::write(command, &self.date, &self.directory)?;
        Ok(Exit::Done)
    }
}
