//! Programs that stand still for the instant of a count.

use std::{fs, io, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::trouble::{Stop, Trouble};

/// Processes that were sent SIGSTOP and stand still; they go on when it is dropped.
#[derive(Debug)]
pub(super) struct Stopped(Vec<u32>);

impl Stopped {
    /// Stops the processes and waits until every thread of them stands still.
    pub(super) fn new(pids: &[u32], stop: &Stop) -> Result<Self, Trouble> {
        // From the first signal on, an early return lets them go on.
        let stopped = Self(pids.to_vec());
        for &pid in pids {
            signal(pid, Signal::STOP)
                .map_err(|source| Trouble::failed(format!("cannot stop process {pid}"), source))?;
        }
        for &pid in pids {
            let what = format!("process {pid} does not stand still");
            stop.wait_for(&what, Duration::from_secs(20), || {
                let still = is_still(pid)
                    .map_err(|source| Trouble::failed(format!("process {pid} is gone"), source))?;
                Ok(still.then_some(()))
            })?;
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for &pid in &self.0 {
            match signal(pid, Signal::CONT) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => eprintln!("cohmem tour: cannot let process {pid} go on: {error}"),
            }
        }
    }
}

fn signal(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or(rustix::io::Errno::SRCH)?, signal)
}

/// Whether every thread of the process is stopped.
fn is_still(pid: u32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has ended meanwhile stands still.
        let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        if Stat::parse(&stat).is_some_and(|stat| !"TtZX".contains(stat.state)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The process `root` and all that descend from it, by number.
pub(super) fn family(root: u32) -> Result<Vec<u32>, Trouble> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").map_err(Trouble::file("list", Path::new("/proc")))? {
        let entry = entry.map_err(Trouble::file("list", Path::new("/proc")))?;
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let stat = pid.and_then(|_: u32| fs::read_to_string(entry.path().join("stat")).ok());
        if let (Some(pid), Some(stat)) = (pid, stat.as_deref().and_then(Stat::parse)) {
            parents.push((pid, stat.parent));
        }
    }
    Ok(descendants(root, &parents))
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = parents
            .iter()
            .filter(|&&(pid, of)| of == parent && pid != parent);
        let new: Vec<_> = children
            .map(|&(pid, _)| pid)
            .filter(|pid| !found.contains(pid))
            .collect();
        found.extend(new);
        next += 1;
    }
    found.sort_unstable();
    found
}

/// What is of use in `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: u32,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name stands in parentheses and may hold any character, also a parenthesis.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let stat = Stat::parse("12 (a) S (b) T 3 12 12 0").unwrap();
        assert_eq!((stat.state, stat.parent), ('T', 3));
        assert!(Stat::parse("").is_none() && Stat::parse("12 (a").is_none());
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let parents = [(1, 0), (5, 1), (9, 7), (7, 5), (6, 1), (8, 5)];
        assert_eq!(descendants(5, &parents), [5, 7, 8, 9]);
        assert_eq!(descendants(4, &parents), [4]);
    }

    #[test]
    fn a_process_stands_still_and_goes_on() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let stopped = Stopped::new(&[child.id()], &Stop::default()).unwrap();
        assert!(is_still(child.id()).unwrap());
        drop(stopped);
        let goes_on = Stop::default().wait_for("it stands", Duration::from_secs(20), || {
            Ok((!is_still(child.id()).unwrap()).then_some(()))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        goes_on.unwrap();
    }
}
