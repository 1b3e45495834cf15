//! The screen of `top`, drawn from its state alone.

use std::io;

use cohmem::{ByteCount, Place};
use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row, Table, TableState, Wrap},
};

use super::state::{Focus, Screen, Sort, State, is_device};
use crate::{
    cmd::{
        map::terminal::{self, Canvas},
        state_name,
    },
    palette,
    survey::{Counts, in_cells, place_letter, place_name},
};

const BAR_CELLS: usize = 16;
const REASON_WIDTH: u16 = 46;

/// What the terminal can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) is_coloured: bool,
}

/// Draws the state.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: Look) {
    let nr_devices = u16::try_from(state.devices.len().clamp(1, 8)).unwrap_or(8);
    let [top, devices, processes, below, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(nr_devices + 3),
        Constraint::Min(6),
        Constraint::Length(9),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    if let Screen::Map { pid, survey } = &state.screen {
        let rest = Rect {
            height: frame.area().height.saturating_sub(1),
            ..frame.area()
        };
        map(frame, rest, *pid, survey.as_deref(), look);
        frame.render_widget(Line::from(" q Esc m: back"), keys);
        return;
    }
    frame.render_widget(Line::from(headline(state)), top);
    device_table(frame, devices, state, look);
    process_table(frame, processes, state, look);
    let [left, right] =
        Layout::horizontal([Constraint::Length(REASON_WIDTH), Constraint::Min(20)]).areas(below);
    reasons(frame, left, state);
    events(frame, right, state);
    let help = " arrows Tab: select  d s p n: sort  m: map  e: move home  q: quit";
    frame.render_widget(Line::from(help), keys);
    if let Screen::Question { text, .. } = &state.screen {
        question(frame, text);
    }
}

/// One picture as lines of text.
pub(super) fn text(state: &State, width: u16, height: u16) -> io::Result<Vec<String>> {
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    let look = Look { is_coloured: false };
    terminal.draw(|frame| draw(frame, state, look))?;
    let buffer = terminal.backend().buffer();
    let row = |y: u16| {
        let cells = (0..width).filter_map(|x| buffer.cell((x, y)));
        let line: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    };
    Ok((0..height).map(row).collect())
}

fn headline(state: &State) -> String {
    let sum = |bytes_fn: fn(&cohmem::DeviceSummary) -> ByteCount| {
        let bytes = state.devices.iter().map(|row| bytes_fn(&row.device).get());
        ByteCount::new(bytes.sum())
    };
    let mut line = match (state.devices.len(), &state.limit) {
        (0, Some(limit)) => format!(" cohmem top: {limit}"),
        (0, None) => " cohmem top: no device is attached".to_owned(),
        (nr, limit) => {
            let devices = if nr == 1 { "device" } else { "devices" };
            let limit = limit
                .as_ref()
                .map_or(String::new(), |text| format!("; {text}"));
            format!(
                " cohmem top: {nr} {devices}, {}, {} free{limit}",
                sum(|device| device.size),
                sum(|device| device.free)
            )
        }
    };
    if let Some(busy) = &state.busy {
        line.push_str("; ");
        line.push_str(busy);
    }
    line
}

fn block(title: &str, is_focused: bool) -> Block<'static> {
    let style = if is_focused {
        Style::new().add_modifier(Modifier::BOLD)
    } else {
        Style::new()
    };
    Block::bordered()
        .title(format!(" {title} "))
        .title_style(style)
}

/// A name that starts with `>` stands, as its column does, at the right.
fn heading<'a>(names: impl IntoIterator<Item = String>) -> Row<'a> {
    let cells = names.into_iter().map(|name| match name.strip_prefix('>') {
        Some(name) => right(name.to_owned()),
        None => Line::from(name),
    });
    Row::new(cells.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::UNDERLINED))
}

fn right(text: String) -> Line<'static> {
    Line::from(text).right_aligned()
}

fn device_table(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let rows = state.devices.iter().map(|row| {
        let device = &row.device;
        let used = device.allocated.frames();
        let counts: Counts = [(Place::Device(device.number), used)].into_iter().collect();
        Row::new(vec![
            Line::from(format!("cohmem{}", device.number)),
            bar(&counts, device.size.frames(), look),
            right(device.size.to_string()),
            right(device.free.to_string()),
            right(rate(row.rate_in)),
            right(rate(row.rate_out)),
            right(device.poisoned.to_string()),
            Line::from(state_name(device.state)),
        ])
    });
    let names = [
        "device",
        "in use",
        ">size",
        ">free",
        ">in",
        ">out",
        ">poisoned",
        "state",
    ];
    let widths = [8, 16, 11, 11, 13, 13, 9, 9].map(Constraint::Length);
    let table = Table::new(rows, widths)
        .header(heading(names.map(str::to_owned)))
        .row_highlight_style(highlight(state.focus == Focus::Devices))
        .block(block("devices", state.focus == Focus::Devices));
    let selected = (!state.devices.is_empty()).then(|| state.selected_device());
    let mut position = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut position);
}

fn process_table(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let mut total = Counts::default();
    for row in &state.look.rows {
        total.merge(&row.counts);
    }
    let mut places: Vec<_> = total
        .iter()
        .map(|(place, _)| place)
        .filter(|&place| is_device(place))
        .take(4)
        .collect();
    places.extend([Place::System, Place::File, Place::Swap]);
    let rows = state.look.rows.iter().map(|row| {
        let mut cells = vec![right(row.pid.to_string()), Line::from(row.name.clone())];
        cells.extend(places.iter().map(|&place| match row.counts.get(place) {
            0 => right("-".to_owned()),
            pages => right(ByteCount::of_frames(pages).to_string()),
        }));
        cells.push(bar(&row.counts, row.counts.nr_shown(), look));
        Row::new(cells)
    });
    let mut names = vec![">pid".to_owned(), "name".to_owned()];
    names.extend(
        places
            .iter()
            .map(|&place| format!(">{}", place_name(place))),
    );
    names.push("share".to_owned());
    let mut widths = vec![Constraint::Length(7), Constraint::Length(16)];
    widths.extend(places.iter().map(|_| Constraint::Length(11)));
    widths.push(Constraint::Length(16));
    let sorted = match state.sort {
        Sort::Device => "device",
        Sort::System => "system memory",
        Sort::Pid => "pid",
        Sort::Name => "name",
    };
    let unseen = match state.look.nr_unseen {
        0 => String::new(),
        nr => format!(", {nr} not to be seen"),
    };
    let title = format!("processes, by {sorted}{unseen}");
    let is_focused = state.focus == Focus::Processes;
    let table = Table::new(rows, widths)
        .header(heading(names))
        .row_highlight_style(highlight(is_focused))
        .block(block(&title, is_focused));
    let selected = (!state.look.rows.is_empty()).then(|| state.selected_process());
    let mut position = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut position);
}

fn highlight(is_focused: bool) -> Style {
    if is_focused {
        Style::new().add_modifier(Modifier::REVERSED)
    } else {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

fn rate(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        bytes => format!("{}/s", ByteCount::new(bytes)),
    }
}

/// Parts of a whole: in colours, or in letters.
fn bar(counts: &Counts, whole: u64, look: Look) -> Line<'static> {
    let cells = in_cells(counts, whole, BAR_CELLS);
    let spans = cells.into_iter().map(|cell| match cell {
        Some(place) if look.is_coloured => {
            let colour = Color::Indexed(palette::terminal(place));
            Span::styled("\u{2588}", Style::new().fg(colour))
        }
        Some(place) => Span::raw(place_letter(place).to_string()),
        None => Span::raw("\u{b7}"),
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn reasons(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let pid = state.pid_in_question();
    let known = state.look.reasons.filter(|&(of, _)| Some(of) == pid);
    let title = match pid {
        Some(pid) => format!("why {pid}'s system memory stays"),
        None => "why system memory stays".to_owned(),
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    if let Some((_, reasons)) = known {
        let line = |pages: u64, text: &str| {
            Line::from(format!(
                "{:>10}  {text}",
                ByteCount::of_frames(pages).to_string()
            ))
        };
        let mut stay: Vec<_> = reasons.stay.iter().collect();
        stay.sort_by_key(|&(_, pages)| std::cmp::Reverse(pages));
        lines.extend(
            stay.iter()
                .map(|(reason, pages)| line(*pages, reason.name())),
        );
        if reasons.would_move > 0 {
            lines.push(line(reasons.would_move, "would move if asked to"));
        }
    }
    frame.render_widget(Paragraph::new(lines).block(block(&title, false)), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let lines = state.events.iter().map(|(at, text)| {
        let seconds = at.as_secs();
        Line::from(format!("{:>3}:{:02}  {text}", seconds / 60, seconds % 60))
    });
    let lines: Vec<_> = lines.take(usize::from(area.height)).collect();
    frame.render_widget(Paragraph::new(lines).block(block("events", false)), area);
}

fn question(frame: &mut Frame<'_>, text: &str) {
    let area = frame.area();
    let width = area.width.saturating_sub(4).min(70);
    let popup = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + area.height / 3,
        width,
        height: 5,
    }
    .intersection(area);
    let lines = vec![
        Line::from(text.to_owned()),
        Line::from(""),
        Line::from("y: yes   n: no"),
    ];
    frame.render_widget(Clear, popup);
    let paragraph = Paragraph::new(lines).wrap(Wrap { trim: true });
    frame.render_widget(paragraph.block(block("sure?", true)), popup);
}

fn map(
    frame: &mut Frame<'_>,
    area: Rect,
    pid: u32,
    survey: Option<&crate::survey::Survey>,
    look: Look,
) {
    let canvas = Canvas {
        width: usize::from(area.width.saturating_sub(2)),
        is_coloured: look.is_coloured,
    };
    let lines = match survey {
        None => vec![Line::from("looking ...")],
        Some(survey) => {
            let mut lines = vec![terminal::headline(survey)];
            lines.extend(terminal::heat(survey, canvas));
            lines.push(String::new());
            lines.extend(terminal::table_lines(survey, canvas, false));
            lines.iter().map(|line| painted(line)).collect()
        }
    };
    let title = format!("map of {pid}");
    frame.render_widget(Paragraph::new(lines).block(block(&title, true)), area);
}

/// A line with the colours that `terminal` has put into it.
fn painted(line: &str) -> Line<'static> {
    let mut spans = Vec::new();
    let mut parts = line.split("\x1b[");
    if let Some(plain) = parts.next() {
        spans.push(Span::raw(plain.to_owned()));
    }
    for part in parts {
        let (code, text) = part.split_once('m').unwrap_or(("", part));
        let colour = code
            .strip_prefix("38;5;")
            .and_then(|number| number.parse().ok());
        let style = colour.map_or(Style::new(), |number| {
            Style::new().fg(Color::Indexed(number))
        });
        spans.push(Span::styled(text.to_owned(), style));
    }
    Line::from(spans)
}

#[cfg(test)]
pub(super) mod sample {
    //! A machine for tests: two devices, three processes.

    use std::time::Duration;

    use cohmem::{Place, Reason, ReasonCounts};

    use super::super::state::{Look, Message, ProcessRow, Reasons, State};
    use crate::fake_sysfs;

    /// The devices at the second look.
    pub(in crate::cmd::top) fn later() -> Vec<(&'static str, &'static str)> {
        let mut files = fake_sysfs::TWO_DEVICES.to_vec();
        files.push(("cohmem0/moved_in", "16384"));
        files.push(("cohmem0/moved_out", "1024"));
        files
    }

    pub(in crate::cmd::top) fn state() -> State {
        let mut state = State::new(None);
        let at = Duration::from_secs;
        state.update(Message::Devices {
            at: at(10),
            devices: fake_sysfs::devices(fake_sysfs::TWO_DEVICES),
        });
        state.update(Message::Devices {
            at: at(12),
            devices: fake_sysfs::devices(&later()),
        });
        let row = |pid, name: &str, counts: &[(Place, u64)]| ProcessRow {
            pid,
            name: name.to_owned(),
            counts: counts.iter().copied().collect(),
        };
        let mut stay = ReasonCounts::default();
        stay.add(Reason::Shared, 512);
        stay.add(Reason::Pinned, 4);
        let rows = vec![
            row(7, "idle", &[(Place::File, 100)]),
            row(
                812,
                "python3",
                &[
                    (Place::Device(1), 2048),
                    (Place::System, 65_536),
                    (Place::Swap, 16),
                ],
            ),
            row(
                4711,
                "redis-server",
                &[
                    (Place::Device(0), 12_288),
                    (Place::System, 1024),
                    (Place::File, 448),
                ],
            ),
        ];
        let reasons = Reasons {
            would_move: 508,
            stay,
        };
        state.update(Message::Processes(Box::new(Look {
            rows,
            nr_unseen: 2,
            reasons: Some((4711, reasons)),
        })));
        state.update(Message::Ended("nginx (31): 3 MiB went home".to_owned()));
        state
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::*;
    use crate::cmd::top::state::Message;

    fn picture(state: &State, width: u16, height: u16) -> String {
        text(state, width, height).unwrap().join("\n") + "\n"
    }

    #[test]
    fn the_tables_look_so() {
        let state = sample::state();
        assert_eq!(picture(&state, 110, 26), include_str!("tables.txt"));
    }

    #[test]
    fn the_question_looks_so() {
        let mut state = sample::state();
        state.update(Message::Key(KeyEvent::from(KeyCode::Char('e'))));
        assert_eq!(picture(&state, 110, 26), include_str!("question.txt"));
    }

    #[test]
    fn the_map_looks_so() {
        let mut state = sample::state();
        state.update(Message::Key(KeyEvent::from(KeyCode::Char('m'))));
        assert!(picture(&state, 110, 26).contains("looking ..."));
        let survey = Box::new(crate::survey::sample::survey());
        state.update(Message::Surveyed(survey));
        assert_eq!(picture(&state, 110, 20), include_str!("map.txt"));
    }

    #[test]
    fn an_empty_machine_says_why() {
        let state = State::new(Some("the module is not loaded".to_owned()));
        assert!(picture(&state, 100, 24).contains("the module is not loaded"));
        let state = State::new(None);
        assert!(picture(&state, 100, 24).contains("no device is attached"));
    }

    #[test]
    fn no_size_is_too_small() {
        let mut state = sample::state();
        for (width, height) in [(1, 1), (10, 3), (40, 10), (500, 100)] {
            picture(&state, width, height);
            state.update(Message::Key(KeyEvent::from(KeyCode::Char('e'))));
            picture(&state, width, height);
            state.update(Message::Key(KeyEvent::from(KeyCode::Char('n'))));
        }
    }

    #[test]
    fn colours_come_from_the_picture_s_own_codes() {
        let line = painted("a \x1b[38;5;214mb\x1b[0m c");
        let styles: Vec<_> = line.spans.iter().map(|span| span.style.fg).collect();
        assert_eq!(styles, [None, Some(Color::Indexed(214)), None]);
        let text: String = line.spans.iter().map(|span| &*span.content).collect();
        assert_eq!(text, "a b c");
    }
}
