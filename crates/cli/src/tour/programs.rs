//! The programs of the tour: each a process group of its own that ends with its [`Program`].

use std::{
    env, fs,
    fs::{DirBuilder, File},
    io,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::trouble::Trouble;

const INSTALL: &str = "on Debian: apt install redis-server redis-tools python3-numpy util-linux";

/// Finds a program on the `PATH`, and where an ordinary user's has none, in the system's places.
pub(super) fn find(name: &str) -> Result<PathBuf, Trouble> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Trouble::NotHere(format!("{name} is not installed; {INSTALL}")))
}

/// The system's python3, which the system's numpy belongs to, rather than one of the user's.
pub(super) fn python() -> Result<String, Trouble> {
    let system = PathBuf::from("/usr/bin/python3");
    let python = if system.is_file() {
        system
    } else {
        find("python3")?
    };
    Ok(python.display().to_string())
}

/// A new directory for the files of the programs, removed when dropped.
#[derive(Debug)]
pub(super) struct Workplace(PathBuf);

impl Workplace {
    pub(super) fn new() -> Result<Self, Trouble> {
        let mut number = 0;
        loop {
            let name = format!("cohmem-tour-{}-{number}", std::process::id());
            let path = env::temp_dir().join(name);
            // It must be new: nobody else has put anything there.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left by a tour that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {
                    number += 1;
                }
                Err(error) => return Err(Trouble::file("make", &path)(error)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cohmem tour: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A running child.
///
/// # Invariants
///
/// `child` leads the process group of its own number, and was not waited for before that group was
/// killed: no other process has its number.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `words` in `workplace`. What it says on standard error is kept for [`Self::ended`].
    pub(super) fn start<S: AsRef<std::ffi::OsStr>>(
        name: &'static str,
        words: &[S],
        workplace: &Workplace,
        stdout: Stdio,
    ) -> Result<Self, Trouble> {
        let log = workplace.path().join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(Trouble::file("write", &log))?;
        // setpriv becomes the program; by it the kernel ends the program should the tour be killed.
        let child = Command::new(find("setpriv")?)
            .args(["--pdeathsig", "KILL", "--"])
            .args(words)
            .current_dir(workplace.path())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .map_err(|source| Trouble::failed(format!("cannot start {name}"), source))?;
        // INVARIANT: It was started as the leader of a new group, and nobody has waited for it.
        Ok(Self { name, child, log })
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails if the program has ended, with what it said last.
    pub(super) fn check_running(&mut self) -> Result<(), Trouble> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(source) => Err(Trouble::failed(
                format!("cannot ask for {}", self.name),
                source,
            )),
        }
    }

    fn ended(&self, status: ExitStatus) -> Trouble {
        // What cannot be read was not said.
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let said = log.lines().rev().find(|line| !line.trim().is_empty());
        let said = said.map_or_else(String::new, |line| format!("; it said: {}", line.trim()));
        Trouble::said(format!("{} has ended ({status}){said}", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group
            && let Ok(None) = self.child.try_wait()
        {
            // It can only fail if all of the group ended just now.
            match kill_process_group(group, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => eprintln!("cohmem tour: cannot end {}: {error}", self.name),
            }
        }
        if let Err(error) = self.child.wait() {
            eprintln!("cohmem tour: cannot wait for {}: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Processes of a group. Killed children of a killed parent may still wait for init to collect them:
    /// they do not count.
    fn nr_living(group: Pid) -> usize {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let living = processes.filter(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let state = fields.next().unwrap_or_default().to_owned();
            let group_of = fields.nth(1).unwrap_or_default();
            !"ZX".contains(&state) && group_of == group.as_raw_nonzero().to_string()
        });
        living.count()
    }

    #[test]
    fn a_program_and_its_children_end_with_it() {
        let workplace = Workplace::new().unwrap();
        let words = [
            "/bin/sh",
            "-c",
            "echo gone wrong >&2; sleep 1000 & sleep 1000",
        ];
        let mut program = Program::start("sh", &words, &workplace, Stdio::null()).unwrap();
        program.check_running().unwrap();
        let group = Pid::from_raw(i32::try_from(program.pid()).unwrap()).unwrap();
        // Another test's workplace may be at the same path at once.
        let file = workplace.path().join("of this test");
        fs::write(&file, "").unwrap();
        drop(program);
        // Only the leader was waited for: the others end as soon as they run.
        let begin = Instant::now();
        while nr_living(group) != 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "a child is left");
            std::thread::yield_now();
        }
        drop(workplace);
        assert!(!file.exists());
    }

    #[test]
    fn an_end_is_told_with_the_last_words() {
        let workplace = Workplace::new().unwrap();
        let words = ["/bin/sh", "-c", "echo no room >&2; exit 4"];
        let mut program = Program::start("sh", &words, &workplace, Stdio::null()).unwrap();
        let error = loop {
            match program.check_running() {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.contains("exit status: 4") && error.contains("no room"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_install() {
        let error = find("no-such-program").unwrap_err();
        assert!(matches!(error, Trouble::NotHere(_)));
        assert!(
            error
                .to_string()
                .starts_with("no-such-program is not installed"),
            "{error}"
        );
    }
}
