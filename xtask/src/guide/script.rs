//! The examples in a document.

use anyhow::{Result, bail};

/// Where a block is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    Lab,
}

/// One fenced block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) place: Place,
    pub(super) commands: Vec<Command>,
}

impl Block {
    /// Whether any of its commands is shown with what it prints.
    pub(super) fn shows_output(&self) -> bool {
        self.commands
            .iter()
            .any(|command| !command.output.is_empty())
    }
}

/// One command of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Document and line.
    pub(super) at: String,
    pub(super) line: String,
    /// What it is to print.
    pub(super) output: Vec<String>,
}

/// The blocks of `text` that are run.
///
/// # Errors
///
/// When a block has an info string that starts with `console` but is none of the known ones, does not
/// end, or begins with no command.
pub(super) fn blocks(name: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let place = match info.trim() {
            "console" => Some(Place::Host),
            "console lab" => Some(Place::Lab),
            other if other.starts_with("console") => {
                bail!(
                    "{name}:{}: {other:?} is neither console nor console lab",
                    at + 1
                )
            }
            _ => None,
        };
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let Some((at, line)) = lines.next() else {
                bail!("{name}:{}: the block does not end", at + 1);
            };
            if line == "```" {
                break;
            }
            if place.is_none() {
                continue;
            }
            let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
            match (command, commands.last_mut()) {
                (Some(command), _) => commands.push(Command {
                    at: format!("{name}:{}", at + 1),
                    line: command.to_owned(),
                    output: Vec::new(),
                }),
                (None, None) => bail!("{name}:{}: the block begins with no command", at + 1),
                (None, Some(last)) => match line.strip_prefix("> ") {
                    Some(more) if last.output.is_empty() => {
                        last.line.push('\n');
                        last.line.push_str(more);
                    }
                    _ => last.output.push(line.to_owned()),
                },
            }
        }
        blocks.extend(place.map(|place| Block { place, commands }));
    }
    Ok(blocks)
}

/// The names in the list of commands of a help text.
pub(super) fn subcommands(help: &str) -> Vec<&str> {
    let Some((_, list)) = help.split_once("Commands:\n") else {
        return Vec::new();
    };
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        // The second line of a long text is indented further.
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_console_blocks_are_run() {
        let text = "# Title\n```sh\n$ rm -rf /\n```\ntext\n```console\n$ echo a\na\n$ cat <<E\n> b\n> E\nb\n```\n\
                    ```console lab\n# id -u\n0\n```\n";
        let blocks = blocks("x.md", text).expect("they are well formed");
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].place, Place::Host);
        let [first, second] = &blocks[0].commands[..] else {
            panic!("two commands: {blocks:?}");
        };
        assert_eq!(
            (first.at.as_str(), first.line.as_str()),
            ("x.md:7", "echo a")
        );
        assert_eq!(first.output, ["a"]);
        assert_eq!(second.line, "cat <<E\nb\nE");
        assert_eq!(second.output, ["b"]);
        assert_eq!(blocks[1].place, Place::Lab);
        assert!(blocks[1].shows_output());
    }

    #[test]
    fn a_block_of_commands_alone_shows_no_output() {
        let blocks = blocks("x.md", "```console\n$ echo a # a comment\n$ echo b\n```\n");
        assert!(!blocks.expect("it is well formed")[0].shows_output());
    }

    #[test]
    fn a_block_that_would_not_be_run_by_mistake_is_refused() {
        for (text, says) in [
            ("```console labs\n$ a\n```\n", "x.md:1: \"console labs\""),
            ("```console\n$ a\n", "does not end"),
            ("```console\na\n```\n", "x.md:2: the block begins"),
        ] {
            let error = blocks("x.md", text).expect_err(text);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn the_commands_of_a_help_text_are_found() {
        let help = "Usage: x\n\nCommands:\n  list    List\n  attach  A long\n          text\n\nOptions:\n  -h";
        assert_eq!(subcommands(help), ["list", "attach"]);
    }
}
