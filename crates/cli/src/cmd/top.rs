//! `cohmem top`: the devices and who is on them, live.

mod answer;
mod screen;
mod state;
mod view;
mod work;

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use cohmem::discover;

use self::{
    state::{Message, State},
    work::Looker,
};
use crate::{
    duration,
    exit::{CliError, Exit, Result},
    output::Output,
    survey::Sight,
};

/// Watch the devices and the processes on them.
///
/// Keys: up and down select, Tab goes to the other table, d s p n sort by device, system memory, pid
/// or name, m or Enter opens the map of a process, e moves what is selected home (after a question;
/// of a device everything, which needs root), q or Esc leaves.
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Time between two looks at the devices, with ms, s, m or h. Looking at the processes takes
    /// a twentieth of one processor at most, however many they are.
    #[arg(long, default_value = "1s", value_parser = duration::parse_interval, value_name = "TIME")]
    interval: Duration,
    /// Print one picture and leave; what needs no terminal, and what --json does.
    #[arg(long)]
    once: bool,
}

/// Lines of a picture that is printed once.
const PRINTED_LINES: u16 = 30;

impl Top {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let sight = Sight::open()?;
        let mut state = State::new(sight.limit.clone());
        if self.once || out.is_json() {
            state.update(Message::Devices {
                at: Duration::ZERO,
                devices: discover()?,
            });
            let mut looker = Looker::new(sight);
            state.update(Message::Processes(Box::new(looker.look(None)?)));
            if out.is_json() {
                out.json(&answer::rows(&state))?;
            } else {
                let width = u16::try_from(out.width()).unwrap_or(u16::MAX);
                for line in view::text(&state, width, PRINTED_LINES)? {
                    out.line(&line)?;
                }
            }
            return Ok(Exit::Done);
        }
        if !std::io::stdout().is_terminal() {
            return Err(CliError::NoTerminal);
        }
        screen::run(state, sight, self.interval, out.is_coloured())?;
        Ok(Exit::Done)
    }
}
