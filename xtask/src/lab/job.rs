//! The shell script that runs the command inside the guest.

use std::path::Path;

/// What the guest runs, and as whom.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) prepare: &'a [Vec<String>],
    pub(super) command: &'a [String],
    pub(super) directory: &'a Path,
    pub(super) environment: Vec<(String, String)>,
    pub(super) user: Option<u32>,
}

impl Job<'_> {
    /// The script, for a POSIX shell.
    pub(super) fn script(&self) -> String {
        let mut script = format!(
            "cd {} || exit 126\n",
            quoted(&self.directory.display().to_string())
        );
        for (name, value) in &self.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        for command in self.prepare {
            // Out of the way of the command's own output; 125 as for env(1) and its kin.
            script += &format!("{} >&2 || exit 125\n", words(command));
        }
        script += "exec";
        if let Some(user) = self.user {
            // A user of that number need not exist; its group has the same number.
            script += &format!(" setpriv --reuid={user} --regid={user} --clear-groups --");
        }
        script += &format!(" {}\n", words(self.command));
        script
    }
}

fn words(command: &[String]) -> String {
    command
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// `word` as one word of a shell's command line.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_unchanged() {
        let words = ["printf", "%s|", "", "it's", "a  b", "$HOME", "\\", "*\n\"x"];
        let job = Job {
            prepare: &[vec!["echo".to_owned(), "ready".to_owned()]],
            command: &words.map(str::to_owned),
            directory: Path::new("/"),
            environment: vec![("A".to_owned(), "b c'd".to_owned())],
            user: None,
        };
        let output = std::process::Command::new("sh")
            .args(["-c", &job.script()])
            .output()
            .expect("a shell");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "|it's|a  b|$HOME|\\|*\n\"x|"
        );
    }

    #[test]
    fn an_unprivileged_job_has_no_groups() {
        let job = Job {
            prepare: &[],
            command: &["id".to_owned()],
            directory: Path::new("/it's"),
            environment: vec![],
            user: Some(65534),
        };
        assert_eq!(
            job.script(),
            "cd '/it'\\''s' || exit 126\n\
             exec setpriv --reuid=65534 --regid=65534 --clear-groups -- 'id'\n"
        );
    }
}
