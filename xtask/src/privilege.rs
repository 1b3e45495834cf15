//! Running a program with less privilege than this one has: what ordinary users and containers give.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Arguments of `cargo xtask without-userfaultfd`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The program and its arguments, after --
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a program may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// What this program may, which CI runs as root: full userfaultfd.
    Own,
    /// An unprivileged user: userfaultfd for user mode only.
    User,
    /// An unprivileged user in a container that refuses userfaultfd.
    UserWithoutUserfaultfd,
}

/// The kernel's overflow user, `nobody`.
const NOBODY: &str = "65534";
const ROOT: u32 = 0;

impl Privilege {
    pub(crate) const ALL: [Self; 3] = [Self::Own, Self::User, Self::UserWithoutUserfaultfd];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Own => "with this user's privilege",
            Self::User => "without privilege",
            Self::UserWithoutUserfaultfd => "without privilege and userfaultfd",
        }
    }

    /// The program, to be run so. Whoever is not root has no more privilege to give up.
    pub(crate) fn command(self, program: &Path) -> Result<Command> {
        let mut words: Vec<OsString> = Vec::new();
        if self == Self::UserWithoutUserfaultfd {
            words.push(std::env::current_exe().context("where xtask is")?.into());
            words.extend(["without-userfaultfd", "--"].map(OsString::from));
        }
        if self != Self::Own && is_root()? {
            words.extend(["setpriv", "--clear-groups", "--reuid", NOBODY].map(OsString::from));
            words.extend(["--regid", NOBODY, "--inh-caps=-all"].map(OsString::from));
        }
        words.push(program.into());
        let mut words = words.into_iter();
        let Some(first) = words.next() else {
            bail!("a command has a program");
        };
        let mut command = Command::new(first);
        command.args(words);
        Ok(command)
    }
}

/// Whether this program runs as root, and so can become another user.
pub(crate) fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    Ok(uid.and_then(|uid| uid.parse().ok()) == Some(ROOT))
}

/// A copy of a program where every user can run it, removed on drop: the tree may lie where others
/// may not look.
pub(crate) struct PublicCopy {
    directory: PathBuf,
    program: PathBuf,
}

impl PublicCopy {
    pub(crate) fn of(program: &Path) -> Result<Self> {
        let name = program.file_name().context("a program has a name")?;
        let directory = std::env::temp_dir().join(format!("cohmem-{}", std::process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let copy = Self {
            program: directory.join(name),
            directory,
        };
        let for_all = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&copy.directory, for_all.clone())
            .with_context(|| format!("cannot open {} to all", copy.directory.display()))?;
        fs::copy(program, &copy.program)
            .with_context(|| format!("cannot copy {}", program.display()))?;
        fs::set_permissions(&copy.program, for_all)
            .with_context(|| format!("cannot open {} to all", copy.program.display()))?;
        Ok(copy)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

impl Drop for PublicCopy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("xtask: cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// Refuses userfaultfd to this process and its children, as container profiles do, and becomes the
/// program. No privilege is needed.
pub(crate) fn run_without_userfaultfd(args: &Args) -> Result<ExitCode> {
    const EPERM: u32 = 1;
    // The number of the system call on x86-64.
    const USERFAULTFD: i64 = 323;
    let arch = std::env::consts::ARCH.try_into().context("seccomp")?;
    let filter = SeccompFilter::new(
        BTreeMap::from([(USERFAULTFD, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM),
        arch,
    )
    .context("cannot make the filter")?;
    let program: BpfProgram = filter.try_into().context("cannot make the filter")?;
    seccompiler::apply_filter(&program).context("cannot apply the filter")?;
    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("a command has a program");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
