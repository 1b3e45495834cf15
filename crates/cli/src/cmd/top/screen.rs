//! The loop of `top` on a real terminal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use cohmem::discover;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{
    state::{Effect, Message, Screen, State},
    view::{self, Look},
    work::{self, Looker},
};
use crate::{
    exit::{CliError, Result},
    interrupt::Interrupt,
    survey::Sight,
};

/// Looking at the processes takes one part of so many of a processor's time.
const SHARE: u32 = 20;
/// Time for which a key may have to wait for its effect on the screen.
const TICK: Duration = Duration::from_millis(100);

/// What the thread that looks at processes is asked for; 0 is nothing. Read now and then, and
/// nothing else is published with it, so relaxed.
#[derive(Debug, Default)]
struct Asked {
    reasons_of: AtomicU32,
    map_of: AtomicU32,
}

/// Runs until a key ends it; the terminal is then as it was.
pub(super) fn run(state: State, sight: Sight, interval: Duration, is_coloured: bool) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let (sender, messages) = mpsc::channel();
    let asked = Arc::new(Asked::default());
    let (looking, asked_of) = (sender.clone(), Arc::clone(&asked));
    thread::Builder::new()
        .name("looker".to_owned())
        .spawn(move || keep_looking(Looker::new(sight), interval, &asked_of, &looking))
        .map_err(CliError::Output)?;
    let mut terminal = ratatui::try_init()?;
    let result = show(
        state,
        interval,
        &interrupt,
        &asked,
        (&sender, &messages),
        |state| {
            let look = Look { is_coloured };
            terminal.draw(|frame| view::draw(frame, state, look))?;
            Ok(())
        },
    );
    ratatui::try_restore()?;
    result
}

fn show(
    mut state: State,
    interval: Duration,
    interrupt: &Interrupt,
    asked: &Asked,
    (sender, messages): (&Sender<Message>, &Receiver<Message>),
    mut draw_fn: impl FnMut(&State) -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let mut next_look = start;
    while !interrupt.is_set() {
        if Instant::now() >= next_look {
            next_look = Instant::now() + interval;
            let devices = discover()?;
            let at = start.elapsed();
            state.update(Message::Devices { at, devices });
        }
        messages.try_iter().for_each(|message| {
            state.update(message);
        });
        let reasons_of = state.pid_in_question().unwrap_or(0);
        asked.reasons_of.store(reasons_of, Ordering::Relaxed);
        if !matches!(state.screen, Screen::Map { .. }) {
            asked.map_of.store(0, Ordering::Relaxed);
        }
        draw_fn(&state)?;
        let wait = next_look
            .saturating_duration_since(Instant::now())
            .min(TICK);
        if !event::poll(wait)? {
            continue;
        }
        let key = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => key,
            _ => continue,
        };
        match state.update(Message::Key(key)) {
            Some(Effect::Quit) => break,
            Some(Effect::Survey(pid)) => asked.map_of.store(pid, Ordering::Relaxed),
            Some(effect) => {
                let sender = sender.clone();
                thread::spawn(move || {
                    // Nobody listens any more when the screen has been left meanwhile.
                    sender.send(Message::Ended(work::carry_out(&effect))).ok()
                });
            }
            None => {}
        }
    }
    Ok(())
}

/// Looks again and again, until nobody listens.
fn keep_looking(mut looker: Looker, interval: Duration, asked: &Asked, sender: &Sender<Message>) {
    loop {
        let begin = Instant::now();
        let reasons_of = asked.reasons_of.load(Ordering::Relaxed);
        let look = looker.look((reasons_of != 0).then_some(reasons_of));
        let message = match look {
            Ok(look) => Message::Processes(Box::new(look)),
            Err(error) => Message::Trouble(format!("the processes cannot be looked at: {error}")),
        };
        if sender.send(message).is_err() {
            return;
        }
        let rest = interval.max(begin.elapsed() * (SHARE - 1));
        let end = Instant::now() + rest;
        while Instant::now() < end {
            let begin = Instant::now();
            let map_of = asked.map_of.load(Ordering::Relaxed);
            if map_of != 0 {
                let message = match looker.survey(map_of) {
                    Ok(survey) => Message::Surveyed(Box::new(survey)),
                    Err(error) => Message::Trouble(format!("process {map_of}: {error}")),
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
            thread::sleep(TICK.max(begin.elapsed() * (SHARE - 1)));
        }
    }
}
