//! What `top` knows, and what becomes of it: no input or output happens here.

use std::{cmp::Reverse, collections::VecDeque, time::Duration};

use cohmem::{ByteCount, DeviceSummary, Place, ReasonCounts};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    cmd::state_name,
    survey::{Counts, Survey, place_name},
};

const MOST_EVENTS: usize = 200;

/// A process and where its memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessRow {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) counts: Counts,
}

/// One look at all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) rows: Vec<ProcessRow>,
    /// Processes that may not be looked into.
    pub(super) nr_unseen: u64,
    /// Of the process that was asked about: why its pages in system memory would stay there.
    pub(super) reasons: Option<(u32, Reasons)>,
}

/// Pages of a process in system memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reasons {
    pub(super) would_move: u64,
    pub(super) stay: ReasonCounts,
}

/// What happens outside.
#[derive(Debug)]
pub(super) enum Message {
    Key(KeyEvent),
    Devices {
        /// Since the start.
        at: Duration,
        devices: Vec<DeviceSummary>,
    },
    Processes(Box<Look>),
    Surveyed(Box<Survey>),
    /// Work that was begun has ended; says how.
    Ended(String),
    /// Something cannot be looked at.
    Trouble(String),
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// Move everything on a device home.
    Evict(u32),
    /// Move all of a process home.
    BringHome(u32),
    /// Look at one process: its map is open.
    Survey(u32),
}

/// The table that keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    Devices,
    Processes,
}

/// What the processes are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Device,
    System,
    Pid,
    Name,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) enum Screen {
    Tables,
    /// A question, and what yes means.
    Question {
        text: String,
        effect: Effect,
    },
    /// The map of a process, once it is there.
    Map {
        pid: u32,
        survey: Option<Box<Survey>>,
    },
}

/// A device with what has happened since the last look.
#[derive(Clone, Debug)]
pub(super) struct DeviceRow {
    pub(super) device: DeviceSummary,
    /// Bytes a second.
    pub(super) rate_in: u64,
    pub(super) rate_out: u64,
    /// What has moved since it last stood still, in pages.
    burst: (u64, u64),
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct State {
    pub(super) devices: Vec<DeviceRow>,
    pub(super) look: Look,
    pub(super) events: VecDeque<(Duration, String)>,
    pub(super) focus: Focus,
    pub(super) sort: Sort,
    pub(super) screen: Screen,
    /// What of the machine is not shown, and why.
    pub(super) limit: Option<String>,
    /// Work that goes on.
    pub(super) busy: Option<String>,
    selected_device: usize,
    selected_pid: Option<u32>,
    at: Duration,
    has_looked: bool,
}

impl State {
    pub(super) fn new(limit: Option<String>) -> Self {
        Self {
            devices: Vec::new(),
            look: Look::default(),
            events: VecDeque::new(),
            focus: Focus::Processes,
            sort: Sort::Device,
            screen: Screen::Tables,
            limit,
            busy: None,
            selected_device: 0,
            selected_pid: None,
            at: Duration::ZERO,
            has_looked: false,
        }
    }

    /// Takes in what happened; says what is to be done.
    pub(super) fn update(&mut self, message: Message) -> Option<Effect> {
        match message {
            Message::Key(key) => return self.key(key),
            Message::Devices { at, devices } => self.devices(at, devices),
            Message::Processes(look) => self.processes(*look),
            Message::Surveyed(found) => {
                if let Screen::Map { pid, survey } = &mut self.screen
                    && *pid == found.pid
                {
                    *survey = Some(found);
                }
            }
            Message::Ended(text) => {
                self.busy = None;
                self.event(text);
            }
            // It comes again with each look.
            Message::Trouble(text) => {
                if self.events.front().is_none_or(|(_, last)| *last != text) {
                    self.event(text);
                }
            }
        }
        None
    }

    pub(super) fn selected_device(&self) -> usize {
        self.selected_device
            .min(self.devices.len().saturating_sub(1))
    }

    /// Row of the selected process; the first one if it is gone.
    pub(super) fn selected_process(&self) -> usize {
        let selected = |row: &ProcessRow| Some(row.pid) == self.selected_pid;
        self.look.rows.iter().position(selected).unwrap_or(0)
    }

    /// The process that reasons are wanted of.
    pub(super) fn pid_in_question(&self) -> Option<u32> {
        self.look
            .rows
            .get(self.selected_process())
            .map(|row| row.pid)
    }

    fn event(&mut self, text: String) {
        self.events.push_front((self.at, text));
        self.events.truncate(MOST_EVENTS);
    }

    fn devices(&mut self, at: Duration, devices: Vec<DeviceSummary>) {
        let elapsed = at.saturating_sub(self.at);
        let is_first = self.at.is_zero() && self.devices.is_empty();
        self.at = at;
        let known = std::mem::take(&mut self.devices);
        for row in &known {
            let number = row.device.number;
            if devices.iter().all(|device| device.number != number) {
                self.event(format!("cohmem{number} was detached"));
            }
        }
        for device in devices {
            let before = known.iter().find(|row| row.device.number == device.number);
            let row = self.compare(before, device, elapsed, is_first);
            self.devices.push(row);
        }
    }

    fn compare(
        &mut self,
        before: Option<&DeviceRow>,
        device: DeviceSummary,
        elapsed: Duration,
        is_first: bool,
    ) -> DeviceRow {
        let number = device.number;
        let mut row = DeviceRow {
            device,
            rate_in: 0,
            rate_out: 0,
            burst: (0, 0),
        };
        let (now, Some(before)) = (&row.device, before) else {
            if !is_first {
                self.event(format!("cohmem{number} was attached: {}", row.device.size));
            }
            return row;
        };
        let old = &before.device;
        let pages_in = (now.moved_in + now.filled).saturating_sub(old.moved_in + old.filled);
        let pages_out = now.moved_out.saturating_sub(old.moved_out);
        let rate = |pages: u64| {
            let bytes = u128::from(ByteCount::of_frames(pages).get());
            u64::try_from(bytes * 1000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX)
        };
        if now.state != old.state {
            self.event(format!("cohmem{number} is now {}", state_name(now.state)));
        }
        if now.poisoned > old.poisoned {
            let lost = ByteCount::new(now.poisoned.get() - old.poisoned.get());
            self.event(format!("cohmem{number}: the hardware lost {lost}"));
        }
        let (moved_in, moved_out) = before.burst;
        let burst = if pages_in + pages_out > 0 {
            (moved_in + pages_in, moved_out + pages_out)
        } else {
            if moved_in + moved_out > 0 {
                self.event(format!(
                    "cohmem{number}: {} came in, {} went home",
                    ByteCount::of_frames(moved_in),
                    ByteCount::of_frames(moved_out)
                ));
            }
            (0, 0)
        };
        row.rate_in = rate(pages_in);
        row.rate_out = rate(pages_out);
        row.burst = burst;
        row
    }

    fn processes(&mut self, look: Look) {
        let known = std::mem::replace(&mut self.look, look);
        self.sort();
        let on_device = |look: &Look, pid: u32| {
            let row = look.rows.iter().find(|row| row.pid == pid);
            row.is_some_and(|row| row.counts.on_devices() > 0)
        };
        let mut events = Vec::new();
        for row in &self.look.rows {
            if row.counts.on_devices() > 0 && !on_device(&known, row.pid) {
                let (pid, name) = (row.pid, &row.name);
                let amounts = row.counts.iter().filter(|(place, _)| is_device(*place));
                let amounts: Vec<_> = amounts
                    .map(|(place, pages)| {
                        format!("{} on {}", ByteCount::of_frames(pages), place_name(place))
                    })
                    .collect();
                events.push(format!("{name} ({pid}): {}", amounts.join(", ")));
            }
        }
        for row in known.rows {
            if row.counts.on_devices() > 0 && !on_device(&self.look, row.pid) {
                let is_there = self.look.rows.iter().any(|other| other.pid == row.pid);
                let what = if is_there {
                    "is no longer on a device"
                } else {
                    "has ended"
                };
                events.push(format!("{} ({}) {what}", row.name, row.pid));
            }
        }
        // What was so at the start is no event.
        if self.has_looked {
            events.into_iter().for_each(|text| self.event(text));
        }
        self.has_looked = true;
    }

    fn sort(&mut self) {
        let rows = &mut self.look.rows;
        match self.sort {
            Sort::Device => rows.sort_by_key(|row| {
                let counts = &row.counts;
                (
                    Reverse((counts.on_devices(), counts.get(Place::System))),
                    row.pid,
                )
            }),
            Sort::System => {
                rows.sort_by_key(|row| (Reverse(row.counts.get(Place::System)), row.pid));
            }
            Sort::Pid => rows.sort_by_key(|row| row.pid),
            Sort::Name => rows.sort_by(|a, b| (&a.name, a.pid).cmp(&(&b.name, b.pid))),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Effect> {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Some(Effect::Quit);
        }
        match std::mem::replace(&mut self.screen, Screen::Tables) {
            Screen::Question { effect, .. } => {
                if matches!(key.code, KeyCode::Char('y' | 'Y')) {
                    self.busy = Some(match effect {
                        Effect::Evict(number) => format!("evicting cohmem{number}"),
                        _ => "moving home".to_owned(),
                    });
                    return Some(effect);
                }
                None
            }
            Screen::Map { pid, survey } => {
                if !matches!(
                    key.code,
                    KeyCode::Esc | KeyCode::Char('q' | 'm') | KeyCode::Enter
                ) {
                    self.screen = Screen::Map { pid, survey };
                }
                None
            }
            Screen::Tables => self.key_in_tables(key.code),
        }
    }

    fn key_in_tables(&mut self, code: KeyCode) -> Option<Effect> {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Effect::Quit),
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = match self.focus {
                    Focus::Devices => Focus::Processes,
                    Focus::Processes => Focus::Devices,
                };
            }
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-10),
            KeyCode::PageDown => self.step(10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('d') => self.sort_by(Sort::Device),
            KeyCode::Char('s') => self.sort_by(Sort::System),
            KeyCode::Char('p') => self.sort_by(Sort::Pid),
            KeyCode::Char('n') => self.sort_by(Sort::Name),
            KeyCode::Char('m') | KeyCode::Enter => {
                if let Some(pid) = self.pid_in_question() {
                    self.screen = Screen::Map { pid, survey: None };
                    return Some(Effect::Survey(pid));
                }
            }
            KeyCode::Char('e') => self.ask(),
            _ => {}
        }
        None
    }

    fn step(&mut self, by: isize) {
        let moved =
            |at: usize, nr_rows: usize| at.saturating_add_signed(by).min(nr_rows.saturating_sub(1));
        match self.focus {
            Focus::Devices => {
                self.selected_device = moved(self.selected_device(), self.devices.len());
            }
            Focus::Processes => {
                let at = moved(self.selected_process(), self.look.rows.len());
                self.selected_pid = self.look.rows.get(at).map(|row| row.pid);
            }
        }
    }

    fn sort_by(&mut self, sort: Sort) {
        // The selection stays with its process, also if it was the first one only by default.
        self.selected_pid = self.selected_pid.and(self.pid_in_question());
        self.sort = sort;
        self.sort();
    }

    /// Asks before anything is moved; there is nothing to ask about what is on no device.
    fn ask(&mut self) {
        if self.busy.is_some() {
            return;
        }
        let question = match self.focus {
            Focus::Devices => self.devices.get(self.selected_device()).map(|row| {
                let number = row.device.number;
                let text = format!(
                    "Move all {} on cohmem{number} home to system memory?",
                    row.device.allocated
                );
                (text, Effect::Evict(number))
            }),
            Focus::Processes => self
                .look
                .rows
                .get(self.selected_process())
                .filter(|row| row.counts.on_devices() > 0)
                .map(|row| {
                    let amount = ByteCount::of_frames(row.counts.on_devices());
                    let text = format!(
                        "Move {amount} of {} ({}) home to system memory?",
                        row.name, row.pid
                    );
                    (text, Effect::BringHome(row.pid))
                }),
        };
        if let Some((text, effect)) = question {
            self.screen = Screen::Question { text, effect };
        }
    }
}

pub(super) const fn is_device(place: Place) -> bool {
    matches!(place, Place::Device(_))
}

#[cfg(test)]
mod tests {
    use super::{super::view::sample, *};

    fn press(state: &mut State, code: KeyCode) -> Option<Effect> {
        state.update(Message::Key(KeyEvent::from(code)))
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let state = sample::state();
        assert_eq!(state.devices[0].rate_in, 8 << 20);
        assert_eq!(state.devices[0].rate_out, 2 << 20);
        assert_eq!(
            (state.devices[1].rate_in, state.devices[1].rate_out),
            (0, 0)
        );
    }

    #[test]
    fn what_happens_to_devices_is_told() {
        let mut state = sample::state();
        state.events.clear();
        let devices = |files: &[(&str, &str)]| crate::fake_sysfs::devices(files);
        let same = sample::later();
        let at = |seconds| Duration::from_secs(seconds);
        let message = |seconds, devices| Message::Devices {
            at: at(seconds),
            devices,
        };
        state.update(message(20, devices(&same)));
        assert_eq!(
            state.events.pop_front(),
            Some((
                at(20),
                "cohmem0: 16 MiB came in, 4 MiB went home".to_owned()
            ))
        );
        let mut changed = same.clone();
        changed.push(("cohmem0/state", "draining"));
        changed.push(("cohmem0/poisoned", "2"));
        state.update(message(21, devices(&changed)));
        let told: Vec<_> = state.events.drain(..).map(|(_, text)| text).collect();
        assert_eq!(
            told,
            [
                "cohmem0: the hardware lost 8 KiB",
                "cohmem0 is now draining"
            ]
        );
        state.update(message(22, Vec::new()));
        let told: Vec<_> = state.events.drain(..).map(|(_, text)| text).collect();
        assert_eq!(told, ["cohmem1 was detached", "cohmem0 was detached"]);
        state.update(message(23, devices(&same)));
        assert_eq!(state.events[0].1, "cohmem1 was attached: 512 MiB");
    }

    #[test]
    fn what_happens_to_processes_is_told() {
        let mut state = sample::state();
        state.events.clear();
        let mut look = state.look.clone();
        look.rows.retain(|row| row.pid != 4711);
        let mut newcomer = look.rows[0].clone();
        newcomer.pid = 99;
        newcomer.counts = [(Place::Device(1), 256)].into_iter().collect();
        look.rows.push(newcomer);
        state.update(Message::Processes(Box::new(look.clone())));
        let told: Vec<_> = state.events.drain(..).map(|(_, text)| text).collect();
        assert_eq!(
            told,
            [
                "redis-server (4711) has ended",
                "python3 (99): 1 MiB on cohmem1"
            ]
        );
        for row in &mut look.rows {
            row.counts = Counts::default();
        }
        state.update(Message::Processes(Box::new(look)));
        assert!(state.events[0].1.ends_with("is no longer on a device"));
    }

    #[test]
    fn keys_sort_and_the_selection_stays_with_its_process() {
        let mut state = sample::state();
        assert_eq!(state.pid_in_question(), Some(4711));
        assert_eq!(press(&mut state, KeyCode::Down), None);
        assert_eq!(state.pid_in_question(), Some(812));
        press(&mut state, KeyCode::Char('p'));
        assert_eq!(state.look.rows[0].pid, 7);
        assert_eq!(state.pid_in_question(), Some(812));
        press(&mut state, KeyCode::Char('n'));
        let names: Vec<_> = state.look.rows.iter().map(|row| &row.name[..]).collect();
        assert_eq!(names, ["idle", "python3", "redis-server"]);
        press(&mut state, KeyCode::Char('s'));
        assert_eq!(state.look.rows[0].name, "python3");
        press(&mut state, KeyCode::End);
        press(&mut state, KeyCode::PageDown);
        assert_eq!(state.selected_process(), 2);
        press(&mut state, KeyCode::Home);
        assert_eq!(state.selected_process(), 0);
        assert_eq!(press(&mut state, KeyCode::Char('q')), Some(Effect::Quit));
    }

    #[test]
    fn nothing_is_moved_before_yes() {
        let mut state = sample::state();
        for no in [
            KeyCode::Char('n'),
            KeyCode::Esc,
            KeyCode::Enter,
            KeyCode::Char('q'),
        ] {
            assert_eq!(press(&mut state, KeyCode::Char('e')), None);
            assert!(matches!(state.screen, Screen::Question { .. }));
            assert_eq!(press(&mut state, no), None, "{no:?}");
            assert!(matches!(state.screen, Screen::Tables));
        }
        press(&mut state, KeyCode::Char('e'));
        assert_eq!(
            press(&mut state, KeyCode::Char('y')),
            Some(Effect::BringHome(4711))
        );
        assert!(state.busy.is_some());
        press(&mut state, KeyCode::Char('e'));
        assert!(matches!(state.screen, Screen::Tables), "one work at a time");
        state.update(Message::Ended("it is home".to_owned()));
        assert_eq!(state.busy, None);
        press(&mut state, KeyCode::Tab);
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Char('e'));
        assert_eq!(
            press(&mut state, KeyCode::Char('y')),
            Some(Effect::Evict(1))
        );
    }

    #[test]
    fn a_process_on_no_device_has_nothing_to_move() {
        let mut state = sample::state();
        press(&mut state, KeyCode::End);
        assert_eq!(press(&mut state, KeyCode::Char('e')), None);
        assert!(matches!(state.screen, Screen::Tables));
    }

    #[test]
    fn the_map_opens_and_closes() {
        let mut state = sample::state();
        assert_eq!(
            press(&mut state, KeyCode::Enter),
            Some(Effect::Survey(4711))
        );
        let other = Box::new(Survey {
            pid: 1,
            ..crate::survey::sample::survey()
        });
        state.update(Message::Surveyed(other));
        assert!(matches!(state.screen, Screen::Map { survey: None, .. }));
        let survey = Box::new(crate::survey::sample::survey());
        state.update(Message::Surveyed(survey));
        assert!(matches!(
            state.screen,
            Screen::Map {
                survey: Some(_),
                ..
            }
        ));
        assert_eq!(press(&mut state, KeyCode::Char('x')), None);
        assert!(matches!(state.screen, Screen::Map { .. }));
        assert_eq!(press(&mut state, KeyCode::Esc), None);
        assert!(matches!(state.screen, Screen::Tables));
    }

    #[test]
    fn control_c_leaves_from_everywhere() {
        let mut state = sample::state();
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        press(&mut state, KeyCode::Char('e'));
        assert_eq!(state.update(Message::Key(key)), Some(Effect::Quit));
    }
}
