//! redis-server under load: the server, keys of known value, and redis-benchmark.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::{
    programs::{Program, Workplace, find},
    trouble::{Stop, Trouble},
};

/// Keys of known value.
pub(super) const NR_KEYS: u64 = 8000;
/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 2048;
/// Four clients set and get 2000 keys of 1 KiB without an end: so few that the server soon has all
/// the memory that it needs for them.
const LOAD: &str = "-c 4 -t set,get -r 2000 -d 1024 -n 20000 -l -q";
const KEYS_A_COMMAND: u64 = 500;
/// The known keys are in a database of their own; the load is in database 0.
const DATABASE: &str = "1";

/// The running server, and its load once that was started.
#[derive(Debug)]
pub(super) struct Redis {
    // Ends first.
    load: Option<Program>,
    server: Program,
    cli: PathBuf,
    socket: PathBuf,
}

impl Redis {
    /// Starts the server on a socket in `workplace`, without persistence; it is not ready before
    /// [`Self::wait_ready`] has returned.
    pub(super) fn start(workplace: &Workplace) -> Result<Self, Trouble> {
        let program = find("redis-server")?.display().to_string();
        let cli = find("redis-cli")?;
        find("redis-benchmark")?;
        let socket = workplace.path().join("redis.socket");
        let socket_text = socket.display().to_string();
        let words = [
            &program,
            "--port",
            "0",
            "--unixsocket",
            &socket_text,
            "--save",
            "",
            "--appendonly",
            "no",
        ];
        let server = Program::start("redis-server", &words, workplace, Stdio::null())?;
        Ok(Self {
            load: None,
            server,
            cli,
            socket,
        })
    }

    pub(super) const fn server(&self) -> &Program {
        &self.server
    }

    /// Waits until it answers.
    pub(super) fn wait_ready(&mut self, stop: &Stop) -> Result<(), Trouble> {
        stop.wait_for(
            "redis-server did not answer",
            Duration::from_secs(60),
            || {
                self.server.check_running()?;
                if !self.socket.exists() {
                    return Ok(None);
                }
                let output = self.command(&["PING"]).output();
                let output =
                    output.map_err(|source| Trouble::failed("cannot run redis-cli", source))?;
                Ok((output.stdout.trim_ascii() == b"PONG").then_some(()))
            },
        )
    }

    /// Writes the known keys.
    pub(super) fn write_keys(&self) -> Result<(), Trouble> {
        let failed = |source| Trouble::failed("cannot write keys by redis-cli --pipe", source);
        let mut child = self
            .command(&["-n", DATABASE, "--pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let mut stdin = stdin.ok_or_else(|| Trouble::said("redis-cli has no standard input"))?;
        let writer = thread::spawn(move || {
            for key in 0..NR_KEYS {
                let (name, value) = (name(key), value(key));
                let (name_bytes, value_bytes) = (name.len(), value.len());
                write!(
                    stdin,
                    "*3\r\n$3\r\nSET\r\n${name_bytes}\r\n{name}\r\n${value_bytes}\r\n{value}\r\n"
                )?;
            }
            Ok(())
        });
        let output = child.wait_with_output().map_err(failed)?;
        let written = writer.join();
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !said.contains(&format!("errors: 0, replies: {NR_KEYS}")) {
            let why = String::from_utf8_lossy(&output.stderr);
            let what = format!(
                "redis-cli --pipe ({}) said: {} {}",
                output.status,
                said.trim(),
                why.trim()
            );
            return Err(Trouble::said(what));
        }
        match written {
            Ok(written) => written.map_err(failed),
            Err(_panic) => Err(Trouble::said("the thread that writes keys has panicked")),
        }
    }

    /// Starts redis-benchmark, which sets and gets other keys without an end.
    pub(super) fn start_load(&mut self, workplace: &Workplace) -> Result<(), Trouble> {
        let program = find("redis-benchmark")?.display().to_string();
        let socket = self.socket.display().to_string();
        let words = [program.as_str(), "-s", &socket].into_iter();
        let words: Vec<_> = words.chain(LOAD.split(' ')).collect();
        self.load = Some(Program::start(
            "redis-benchmark",
            &words,
            workplace,
            Stdio::null(),
        )?);
        Ok(())
    }

    /// Fails if the server or the load has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Trouble> {
        self.server.check_running()?;
        self.load.iter_mut().try_for_each(Program::check_running)
    }

    /// Reads all known keys back; the first that is wrong, if any.
    pub(super) fn find_wrong_value(&self) -> Result<Option<String>, Trouble> {
        let failed = |source| Trouble::failed("cannot read keys by redis-cli", source);
        let mut child = self
            .command(&["-n", DATABASE, "--raw"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Trouble::said("redis-cli has no standard input or output"));
        };
        let writer = thread::spawn(move || {
            let all: Vec<_> = (0..NR_KEYS).map(name).collect();
            all.chunks(usize::try_from(KEYS_A_COMMAND).unwrap_or(1))
                .try_for_each(|names| writeln!(stdin, "MGET {}", names.join(" ")))
        });
        let compared = compare(BufReader::new(stdout).lines().map_while(Result::ok));
        let status = child.wait().map_err(failed)?;
        let written = writer.join();
        if let Ok(Err(source)) = written {
            return Err(failed(source));
        }
        if !status.success() {
            return Err(Trouble::said(format!("redis-cli failed ({status})")));
        }
        Ok(compared)
    }

    /// Commands that the server has carried out so far.
    pub(super) fn count_commands(&self) -> Result<u64, Trouble> {
        let output = self.command(&["INFO", "stats"]).output();
        let output = output.map_err(|source| Trouble::failed("cannot run redis-cli", source))?;
        nr_commands(&String::from_utf8_lossy(&output.stdout))
            .ok_or_else(|| Trouble::said("redis-cli INFO tells no number of commands"))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command.arg("-s").arg(&self.socket).args(words);
        // Ctrl-C is for the tour.
        command.process_group(0);
        command
    }
}

fn name(key: u64) -> String {
    format!("known:{key:06}")
}

/// Hexadecimal digits that no other key has.
fn value(key: u64) -> String {
    let mut value = String::with_capacity(VALUE_BYTES);
    let mut state = key;
    while value.len() < VALUE_BYTES {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ key;
        value.push_str(&format!("{mixed:016x}"));
    }
    value
}

/// Compares the values as they come, one a line, with what they should be.
fn compare(mut lines: impl Iterator<Item = String>) -> Option<String> {
    let mut wrong = None;
    for key in 0..NR_KEYS {
        let found = lines.next();
        if wrong.is_none() && found.as_ref() != Some(&value(key)) {
            let found = found.map_or_else(|| "nothing".to_owned(), |found| excerpt(&found));
            wrong = Some(format!(
                "{} holds {found}, not {}",
                name(key),
                excerpt(&value(key))
            ));
        }
    }
    // To the end, so that redis-cli does not die of a closed pipe.
    let more = lines.count();
    wrong.or_else(|| (more > 0).then(|| format!("{more} values more than keys")))
}

fn excerpt(value: &str) -> String {
    let start: String = value.chars().take(32).collect();
    format!("{start:?}... ({} bytes)", value.len())
}

fn nr_commands(stats: &str) -> Option<u64> {
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_commands_processed:"));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_whole_and_each_is_its_own() {
        assert_eq!(value(1).len(), VALUE_BYTES);
        let mut all: Vec<_> = (0..200).map(value).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn right_values_are_right_and_a_wrong_one_is_named() {
        let right = || (0..NR_KEYS).map(value);
        assert_eq!(compare(right()), None);
        let wrong = compare(right().map(|value| {
            if value == self::value(7) {
                value.replace('a', "b")
            } else {
                value
            }
        }));
        assert!(wrong.unwrap().starts_with("known:000007 holds"));
        let short = compare(right().take(12)).unwrap();
        assert!(short.starts_with("known:000012 holds nothing"), "{short}");
        let long = compare(right().chain(["more".to_owned()])).unwrap();
        assert_eq!(long, "1 values more than keys");
    }

    #[test]
    fn the_number_of_commands_is_found() {
        let stats = "# Stats\r\ntotal_connections_received:5\r\ntotal_commands_processed:1234\r\n";
        assert_eq!(nr_commands(stats), Some(1234));
        assert_eq!(nr_commands("NOAUTH"), None);
    }
}
