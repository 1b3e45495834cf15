//! One session of bash that runs commands and tells what each of them printed.

use anyhow::{Context as _, Result, bail};

use super::script::Command;

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: i32,
    /// Both outputs.
    pub(super) text: String,
}

/// Begins the line after each command's output. No program prints it.
const MARK: &str = "\u{1}end of ";

/// A script for bash that runs the commands, each between marks.
pub(super) fn script(commands: &[&Command]) -> String {
    let mut script = "exec 2>&1 </dev/null\n".to_owned();
    for (number, command) in commands.iter().enumerate() {
        // On a line of its own, whatever the command printed last.
        script += &format!(
            "{}\nprintf '\\n{MARK}%s %s\\n' {number} \"$?\"\n",
            command.line
        );
    }
    script
}

/// Takes the output of such a script apart.
///
/// # Errors
///
/// When it ended early.
pub(super) fn answers(said: &str, nr_commands: usize) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut rest = said;
    while let Some((text, after)) = rest.split_once(&format!("\n{MARK}")) {
        let (line, after) = after.split_once('\n').context("a mark is cut off")?;
        let (number, status) = line.split_once(' ').context("a mark is cut off")?;
        if number.parse() != Ok(answers.len()) {
            bail!(
                "the answer to command {} is missing:\n{said}",
                answers.len()
            );
        }
        answers.push(Answer {
            status: status.parse().context("no exit status")?,
            text: text.to_owned(),
        });
        rest = after;
    }
    if answers.len() != nr_commands {
        bail!(
            "the session ended after {} of {nr_commands} commands:\n{said}",
            answers.len()
        );
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(lines: &[&str]) -> Vec<Command> {
        lines
            .iter()
            .map(|line| Command {
                at: String::new(),
                line: (*line).to_owned(),
                output: Vec::new(),
            })
            .collect()
    }

    fn run(lines: &[&str]) -> Result<Vec<Answer>> {
        let commands = commands(lines);
        let commands: Vec<_> = commands.iter().collect();
        let output = std::process::Command::new("bash")
            .args(["-c", &script(&commands)])
            .output()
            .expect("bash");
        answers(&String::from_utf8_lossy(&output.stdout), lines.len())
    }

    #[test]
    fn commands_share_a_session_and_are_told_apart() {
        let answers = run(&[
            "x=1; echo a >&2",
            "printf %s $x",
            "(exit 3)",
            "cat <<E\nb\nE",
        ]);
        let answers = answers.expect("it ran to its end");
        let expected = [(0, "a\n"), (0, "1"), (3, ""), (0, "b\n")];
        let answers: Vec<_> = answers
            .iter()
            .map(|answer| (answer.status, answer.text.as_str()))
            .collect();
        assert_eq!(answers, expected);
    }

    #[test]
    fn a_session_that_ends_early_is_an_error() {
        let error = run(&["echo a", "exit 0", "echo b"]).expect_err("it left");
        assert!(error.to_string().contains("after 1 of 3"), "{error}");
    }
}
