//! Jobs and run instances: what a control group, or what comes through one open device, may hold.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use cohmem_uapi::{FRAME_BYTES, MAX_OBJECTS, ObjectKind, QUOTA_INHERITED, QUOTA_UNLIMITED, args};

use crate::{
    backend::driver::DeviceNode,
    cgroup,
    error::{Cause, Result},
    quota::Limit,
    units::ByteCount,
};

/// A control group (version 2) with all below it, by the number that the kernel gives it until the next
/// boot: the inode number of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job(u64);

impl Job {
    /// The job with this number, whether there is such a group or not.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The control group whose directory is `path`.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound): nothing is there;
    /// [`Io`](crate::ErrorKind::Io): it is not the directory of a control group of version 2.
    pub fn at(path: &Path) -> Result<Self> {
        let failed = |source| Cause::File {
            doing: "find the control group",
            path: path.into(),
            source,
        };
        let number = fs::metadata(path).map_err(failed)?.ino();
        // Every group has it, the root too; a directory of another file system or of version 1 has not.
        if !path.join("cgroup.controllers").exists() {
            return Err(failed(io::ErrorKind::NotADirectory.into()).into());
        }
        Ok(Self(number))
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Path of the group below the mount of the control groups; `None` when it is gone, or not to be seen.
    #[must_use]
    pub fn path(self) -> Option<PathBuf> {
        let mount = cgroup::mount_below(Path::new("/"))?;
        let mut left = vec![mount.clone()];
        while let Some(directory) = left.pop() {
            let found = fs::metadata(&directory).is_ok_and(|metadata| metadata.ino() == self.0);
            if found {
                let below = directory.strip_prefix(&mount).unwrap_or(&directory);
                return Some(Path::new("/").join(below));
            }
            // A group may go away meanwhile, and it is no other then.
            let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let is_directory =
                |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            left.extend(entries.filter(is_directory).map(|entry| entry.path()));
        }
        None
    }
}

/// Who an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A control group with all below it.
    Job(Job),
    /// What came through one open device.
    Run {
        /// Never another's while the device is attached.
        number: u64,
        /// The real user who made it.
        user: u32,
        /// The process that made it, by its number in the initial process namespace.
        process: u32,
    },
}

/// What one job or run instance holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Object {
    /// Who it is.
    pub who: Who,
    /// How much it may hold; [`Limit::Inherited`]: it has ended, and frames are still charged to it.
    pub limit: Limit,
    /// What is charged to it; more than the limit when that was set later.
    pub charged: ByteCount,
}

impl Object {
    /// `None` for a kind that this library does not know.
    fn read(raw: &args::Object) -> Option<Self> {
        let who = match ObjectKind::from_raw(raw.kind)? {
            ObjectKind::Job => Who::Job(Job(raw.number)),
            ObjectKind::Run => Who::Run {
                number: raw.number,
                user: raw.user,
                process: raw.process,
            },
        };
        Some(Self {
            who,
            limit: Limit::from_raw(raw.flags, raw.limit),
            charged: ByteCount::of_frames(raw.charged),
        })
    }
}

pub(crate) fn set_job(node: &DeviceNode, job: Job, limit: Limit) -> Result<()> {
    let (limit, flags) = raw(limit, QUOTA_INHERITED)?;
    node.set_job(&args::Job {
        job: job.0,
        limit,
        flags,
        ..args::Job::default()
    })
}

pub(crate) fn set_run(node: &DeviceNode, limit: Limit) -> Result<u64> {
    let (limit, flags) = raw(limit, QUOTA_UNLIMITED)?;
    node.set_run(&args::Run {
        limit,
        flags,
        ..args::Run::default()
    })
}

/// Frames and flags of a limit, of which `inherited` says what none of its own is.
fn raw(limit: Limit, inherited: u32) -> Result<(u64, u32)> {
    match limit {
        Limit::Bytes(bytes) if !bytes.get().is_multiple_of(FRAME_BYTES) => {
            Err(Cause::BadLimit { bytes: bytes.get() }.into())
        }
        Limit::Bytes(bytes) => Ok((bytes.frames(), 0)),
        Limit::Unlimited => Ok((0, QUOTA_UNLIMITED)),
        Limit::Inherited => Ok((0, inherited)),
    }
}

pub(crate) fn list(node: &DeviceNode) -> Result<Vec<Object>> {
    let mut list = vec![args::Object::default(); MAX_OBJECTS as usize];
    let answer = node.objects(&mut list)?;
    list.truncate(usize::try_from(answer.nr_objects).unwrap_or(usize::MAX));
    Ok(list.iter().filter_map(Object::read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn limits_become_frames_and_flags() {
        let bytes = |bytes| Limit::Bytes(ByteCount::new(bytes));
        assert_eq!(raw(bytes(8192), QUOTA_INHERITED).unwrap(), (2, 0));
        assert_eq!(raw(bytes(0), QUOTA_INHERITED).unwrap(), (0, 0));
        let unlimited = raw(Limit::Unlimited, QUOTA_INHERITED).unwrap();
        assert_eq!(unlimited, (0, QUOTA_UNLIMITED));
        for flag in [QUOTA_INHERITED, QUOTA_UNLIMITED] {
            assert_eq!(raw(Limit::Inherited, flag).unwrap(), (0, flag));
        }
        let error = raw(bytes(4097), QUOTA_INHERITED).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misaligned);
        assert!(error.to_string().contains("4097"), "{error}");
    }

    #[test]
    fn objects_are_told_by_kind() {
        let job = args::Object {
            kind: ObjectKind::Job as u32,
            flags: QUOTA_INHERITED,
            number: 9,
            charged: 2,
            ..args::Object::default()
        };
        let run = args::Object {
            kind: ObjectKind::Run as u32,
            number: 3,
            limit: 5,
            user: 1000,
            process: 77,
            ..args::Object::default()
        };
        let object = Object::read(&job).unwrap();
        assert_eq!(object.who, Who::Job(Job::new(9)));
        assert_eq!(
            (object.limit, object.charged.frames()),
            (Limit::Inherited, 2)
        );
        let object = Object::read(&run).unwrap();
        let who = Who::Run {
            number: 3,
            user: 1000,
            process: 77,
        };
        let limit = Limit::Bytes(ByteCount::of_frames(5));
        assert_eq!((object.who, object.limit), (who, limit));
        let unknown = args::Object { kind: 9, ..run };
        assert_eq!(Object::read(&unknown), None);
    }

    #[test]
    fn a_directory_that_is_no_control_group_is_refused() {
        let error = Job::at(Path::new("/proc")).unwrap_err();
        assert!(error.to_string().contains("/proc"), "{error}");
        let error = Job::at(Path::new("/no/such/group")).unwrap_err();
        assert!(error.to_string().contains("/no/such/group"), "{error}");
    }
}
