//! The manual pages: for each command its own text and options, and what all of them have in common.
//!
//! Everything comes from the definition of the command line, so that a new command has a page at once;
//! only an exit status of its own must be told here.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

/// What each exit status means, but for the commands of [`OTHER_STATUS`].
const STATUS: [(&str, &str); 4] = [
    ("0", "All was done."),
    (
        "1",
        "A part was done, the answer is no, or it failed; the output says which.",
    ),
    (
        "2",
        "Wrong use: an option, a value or a range that cannot be. Nothing was changed.",
    ),
    (
        "3",
        "Not possible on this machine: the module is not loaded, or there is no such device.",
    ),
];

/// Commands whose exit status is another one, which their own text tells.
const OTHER_STATUS: [&str; 1] = ["run"];

const FILES: [(&str, &str); 5] = [
    (
        "/dev/cohmem",
        "The control node: root attaches and detaches with it.",
    ),
    (
        "/dev/cohmemN",
        "The device N. The udev rule of the package opens it to the group cohmem.",
    ),
    ("/sys/class/cohmem/", "Sizes and counters of each device."),
    (
        "/etc/cohmem/attach.conf",
        "What cohmem-attach.service attaches at boot.",
    ),
    (
        "/run/cohmem/",
        "For each device that attach took over from a dax driver: from which, so that detach can give it back.",
    ),
];

/// Writes a page a command below `directory`, each with `date` at its foot.
///
/// # Errors
///
/// When the directory or a page cannot be written.
pub(crate) fn write(mut command: Command, date: &str, directory: &Path) -> io::Result<()> {
    command.build();
    let mut pages = Vec::new();
    collect(&command, "cohmem", &mut pages);
    let names: Vec<String> = pages.iter().map(|(name, _)| name.clone()).collect();
    fs::create_dir_all(directory)?;
    for (name, page) in &pages {
        let text = page_of(page, name, date, &names)?;
        fs::File::create(directory.join(format!("{name}.1")))?.write_all(&text)?;
    }
    Ok(())
}

/// A command and those below it, each with the name of its page.
fn collect<'a>(command: &'a Command, name: &str, pages: &mut Vec<(String, &'a Command)>) {
    pages.push((name.to_owned(), command));
    let visible = |command: &&Command| command.get_name() != "help" && !command.is_hide_set();
    for below in command.get_subcommands().filter(visible) {
        collect(below, &format!("{name}-{}", below.get_name()), pages);
    }
}

fn page_of(command: &Command, name: &str, date: &str, names: &[String]) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut text = Vec::new();
    // By hand, since an empty date would be left out, and the rest move up one place.
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        text,
        ".TH {name} 1 \"{date}\" \"cohmem {version}\" \"User commands\""
    )?;
    man.render_name_section(&mut text)?;
    synopsis(command).to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if !command.has_subcommands() {
        notes(command).to_writer(&mut text)?;
    }
    common(command, name, names).to_writer(&mut text)?;
    Ok(text)
}

/// What the help says below the options, line by line.
fn notes(command: &Command) -> Roff {
    let mut roff = Roff::new();
    if let Some(notes) = command.get_after_help() {
        roff.control("SH", ["NOTES"]);
        roff.control("nf", []);
        for line in notes.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff
}

/// As in the help: options that must be there are shown with their values.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let name = command.get_bin_name().unwrap_or("cohmem");
    let arguments = usage.strip_prefix(name).unwrap_or(usage);
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold(name), roman(arguments)]);
    roff
}

/// The sections that are the same in all pages, but for the page's own name.
fn common(command: &Command, name: &str, names: &[String]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    if OTHER_STATUS.contains(&command.get_name()) {
        let text = "That of the program, see DESCRIPTION. Before the program starts:";
        roff.text([roman(text)]);
    }
    for (status, meaning) in STATUS {
        entry(&mut roff, bold(status), meaning);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    entry(
        &mut roff,
        bold("NO_COLOR"),
        "If set, no colour on a terminal.",
    );
    roff.control("SH", ["FILES"]);
    for (path, meaning) in FILES {
        entry(&mut roff, italic(path), meaning);
    }
    roff.control("SH", ["SEE ALSO"]);
    let mut others: Vec<Inline> = Vec::new();
    for other in names.iter().filter(|other| *other != name) {
        others.extend([bold(other), roman("(1), ")]);
    }
    others.extend([bold("daxctl-list"), roman("(1), ")]);
    others.extend([bold("numactl"), roman("(8)")]);
    roff.text(others);
    roff
}

fn entry(roff: &mut Roff, term: Inline, meaning: &str) {
    roff.control("TP", []);
    roff.text([term]);
    roff.text([roman(meaning)]);
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn pages() -> Vec<(String, String)> {
        let directory = tempfile::tempdir().unwrap();
        let command = Command::new("cohmem")
            .about("All of it")
            .subcommand(Command::new("list").about("List it"))
            .subcommand(
                Command::new("run")
                    .arg(Arg::new("program"))
                    .after_help("Policy:\n  all   everything\n\n'quoted'"),
            )
            .subcommand(Command::new("quota").subcommand(Command::new("set").about("Set it")))
            .subcommand(Command::new("secret").hide(true));
        write(command, "2026-01-31", directory.path()).unwrap();
        let mut pages: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        pages.sort();
        pages
    }

    #[test]
    fn each_command_has_a_page_with_every_section() {
        let pages = pages();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["list", "quota-set", "quota", "run"].map(|name| format!("cohmem-{name}.1"));
        assert_eq!(names[..4], expected);
        assert_eq!(names[4..], ["cohmem.1"]);
        for (name, text) in &pages {
            for section in [
                "NAME",
                "SYNOPSIS",
                "OPTIONS",
                "\"EXIT STATUS\"",
                "ENVIRONMENT",
                "FILES",
                "\"SEE ALSO\"",
            ] {
                assert!(
                    text.contains(&format!(".SH {section}\n")),
                    "{name} lacks {section}:\n{text}"
                );
            }
        }
    }

    #[test]
    fn notes_keep_their_lines() {
        let pages = pages();
        let (_, run) = &pages[3];
        let (_, notes) = run.split_once(".SH NOTES\n.nf\n").unwrap();
        assert!(
            notes.starts_with("Policy:\n  all   everything\n"),
            "{notes}"
        );
        assert!(!pages[0].1.contains("NOTES"));
    }

    #[test]
    fn a_page_names_the_others_but_not_itself() {
        let pages = pages();
        let (_, list) = &pages[0];
        let (_, other) = list.split_once("SEE ALSO").unwrap();
        assert!(other.contains("cohmem\\-run"), "{other}");
        assert!(!other.contains("cohmem\\-list"), "{other}");
    }
}
