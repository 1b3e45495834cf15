//! `cohmem quota`: who holds how much of a device, and may hold how much.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cohmem::{
    ByteCount, Device, ErrorKind, discover,
    objects::{Job, Object, Who},
    quota::{Account, Accounts, Limit, Whose},
};
use serde::Serialize;

use crate::{
    cmd::device_number,
    exit::{Exit, Result},
    output::{Output, Table},
    user,
};

/// See and limit how much of a device each user and each job holds.
///
/// Memory of a device is charged to the user whose program asked for it, until it is freed: also when
/// another process shares it by then, or the program is gone. So it is to each job that the program was
/// in, which is a control group with all below it, and to the "cohmem run" that moved it. All of them
/// must allow it: beyond a limit, pages stay where they are, for the reason "quota". Limits end when the
/// device is detached.
#[derive(Args, Debug)]
pub(crate) struct Quota {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Set(Set),
    Clear(Clear),
}

/// List who holds how much of each device, and may hold how much: users, jobs and runs.
#[derive(Args, Debug)]
struct List {
    /// cohmemN or N; every device by default.
    #[arg(value_parser = device_number)]
    device: Option<u32>,
}

/// Set how much of a device a user or a job may hold. Needs root.
///
/// What they hold already stays, also above the limit. What a control group got before it was a job is
/// not counted; with "unlimited" a job is only counted.
#[derive(Args, Debug)]
struct Set {
    /// cohmemN or N.
    #[arg(value_parser = device_number)]
    device: u32,
    /// A multiple of 4096 bytes, as 4096, 64K, 2M or 1G; or "unlimited".
    #[arg(value_parser = limit)]
    limit: Limit,
    #[command(flatten)]
    subject: Subject,
}

/// Take a user's limit away, so that the default applies; or the default, so that nothing does; or make a
/// control group no job. Needs root.
#[derive(Args, Debug)]
struct Clear {
    /// cohmemN or N.
    #[arg(value_parser = device_number)]
    device: u32,
    #[command(flatten)]
    subject: Subject,
}

/// Whose limit.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Subject {
    /// The user, by name or number.
    #[arg(long, value_parser = user::parse)]
    user: Option<u32>,
    /// Every user without a limit of their own, root as well.
    #[arg(long)]
    default: bool,
    /// The control group (version 2) with this directory, as /sys/fs/cgroup/batch, and all below it; or
    /// its number, as the list tells it.
    #[arg(long, value_name = "DIRECTORY")]
    job: Option<PathBuf>,
}

impl Subject {
    fn change(&self, out: &mut Output, device: u32, limit: Limit) -> Result<Exit> {
        match &self.job {
            Some(path) => change_job(out, device, job(path)?, limit),
            None => {
                let whose = self.user.map_or(Whose::Default, Whose::User);
                change(out, device, whose, limit)
            }
        }
    }
}

/// A group that is gone has its number only.
fn job(path: &Path) -> Result<Job> {
    match path.to_str().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Job::new(number)),
        None => Ok(Job::at(path)?),
    }
}

fn limit(text: &str) -> std::result::Result<Limit, cohmem::Error> {
    match text {
        "unlimited" => Ok(Limit::Unlimited),
        _ => text.parse().map(Limit::Bytes),
    }
}

/// One line of the list.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Row {
    /// What users without a limit of their own may hold.
    Default {
        schema: &'static str,
        device: String,
        limit: Option<u64>,
    },
    /// A user with a charge or a limit.
    Account {
        schema: &'static str,
        device: String,
        user: u32,
        name: Option<String>,
        charged: u64,
        /// The limit that holds; `None`: none does.
        limit: Option<u64>,
        /// It is the default.
        inherited: bool,
    },
    /// A control group with all below it.
    Job {
        schema: &'static str,
        device: String,
        /// Number of the group.
        job: u64,
        /// Its path below the mount of the control groups; `None`: it is gone.
        path: Option<String>,
        charged: u64,
        /// `None`: any amount.
        limit: Option<u64>,
        /// It is no job any more, and holds something.
        ended: bool,
    },
    /// What came through one open device, of `cohmem run` or another program.
    Run {
        schema: &'static str,
        device: String,
        run: u64,
        process: u32,
        user: u32,
        name: Option<String>,
        charged: u64,
        /// `None`: any amount.
        limit: Option<u64>,
        /// It is over, and something of it is left.
        ended: bool,
    },
}

const SCHEMA: &str = "cohmem.quota/1";

impl Quota {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        match &self.action {
            Action::List(list) => list.run(out),
            Action::Set(set) => set.subject.change(out, set.device, set.limit),
            Action::Clear(clear) => clear.subject.change(out, clear.device, Limit::Inherited),
        }
    }
}

impl List {
    fn run(&self, out: &mut Output) -> Result<Exit> {
        let numbers: Vec<u32> = match self.device {
            Some(device) => vec![device],
            None => discover()?.iter().map(|device| device.number).collect(),
        };
        let mut rows = Vec::new();
        for &number in &numbers {
            let device = Device::open(number)?;
            let accounts = device.query_accounts()?;
            rows.push(default_row(number, &accounts));
            rows.extend(account_rows(number, &accounts));
            rows.extend(object_rows(number, &device.query_objects()?));
        }
        if out.is_json() {
            out.json(&rows)?;
        } else if numbers.is_empty() {
            out.line("no device is attached")?;
        } else {
            out.table(&table(&rows))?;
        }
        Ok(Exit::Done)
    }
}

/// Sets a limit, and shows what holds now.
fn change(out: &mut Output, number: u32, whose: Whose, limit: Limit) -> Result<Exit> {
    let device = Device::open(number)?;
    device.set_limit(whose, limit)?;
    let accounts = device.query_accounts()?;
    let row = match whose {
        Whose::Default => default_row(number, &accounts),
        Whose::User(user) => account_rows(number, &accounts)
            .find(|row| matches!(row, Row::Account { user: other, .. } if *other == user))
            // Without a charge and a limit there is no account.
            .unwrap_or_else(|| idle_row(number, user, accounts.default)),
    };
    if out.is_json() {
        out.json(&[row])?;
    } else {
        out.table(&table(&[row]))?;
    }
    Ok(Exit::Done)
}

/// Sets a job's limit, and shows what holds now.
fn change_job(out: &mut Output, number: u32, job: Job, limit: Limit) -> Result<Exit> {
    let device = Device::open(number)?;
    device.set_job(job, limit)?;
    let objects = device.query_objects()?;
    let same = |object: &&Object| object.who == Who::Job(job);
    let listed = objects.iter().find(same);
    let row = listed.map_or_else(
        // No job any more, and nothing is charged to it.
        || job_row(number, job, 0, Limit::Inherited),
        |object| object_row(number, object),
    );
    if out.is_json() {
        out.json(&[row])?;
    } else {
        out.table(&table(&[row]))?;
    }
    Ok(Exit::Done)
}

/// Who holds memory of a device, or may hold so much only; nobody for those who may not open its node.
pub(crate) fn holders(number: u32) -> Result<Vec<Row>> {
    let ask = |device: Device| Ok((device.query_accounts()?, device.query_objects()?));
    let (accounts, objects) = match Device::open(number).and_then(ask) {
        Ok(answer) => answer,
        Err(error) => match error.kind() {
            // Or it went away since it was listed, or its driver is older.
            ErrorKind::NotPermitted
            | ErrorKind::NoDevice
            | ErrorKind::NoDriver
            | ErrorKind::Unsupported => return Ok(Vec::new()),
            _ => return Err(error.into()),
        },
    };
    let rows = account_rows(number, &accounts);
    Ok(rows.chain(object_rows(number, &objects)).collect())
}

fn default_row(number: u32, accounts: &Accounts) -> Row {
    Row::Default {
        schema: SCHEMA,
        device: format!("cohmem{number}"),
        limit: bytes_of(accounts.default),
    }
}

fn account_rows(number: u32, accounts: &Accounts) -> impl Iterator<Item = Row> {
    accounts
        .users
        .iter()
        .map(move |account: &Account| Row::Account {
            schema: SCHEMA,
            device: format!("cohmem{number}"),
            user: account.user,
            name: user::name_of(account.user),
            charged: account.charged.get(),
            limit: bytes_of(accounts.limit_of(account)),
            inherited: account.limit == Limit::Inherited,
        })
}

fn object_rows(number: u32, objects: &[Object]) -> impl Iterator<Item = Row> {
    objects.iter().map(move |object| object_row(number, object))
}

fn object_row(number: u32, object: &Object) -> Row {
    match object.who {
        Who::Run {
            number: run,
            user,
            process,
        } => Row::Run {
            schema: SCHEMA,
            device: format!("cohmem{number}"),
            run,
            process,
            user,
            name: user::name_of(user),
            charged: object.charged.get(),
            limit: bytes_of(object.limit),
            ended: object.limit == Limit::Inherited,
        },
        Who::Job(job) => job_row(number, job, object.charged.get(), object.limit),
    }
}

fn job_row(number: u32, job: Job, charged: u64, limit: Limit) -> Row {
    Row::Job {
        schema: SCHEMA,
        device: format!("cohmem{number}"),
        job: job.number(),
        path: job.path().map(|path| path.display().to_string()),
        charged,
        limit: bytes_of(limit),
        ended: limit == Limit::Inherited,
    }
}

fn idle_row(number: u32, user: u32, default: Limit) -> Row {
    Row::Account {
        schema: SCHEMA,
        device: format!("cohmem{number}"),
        user,
        name: user::name_of(user),
        charged: 0,
        limit: bytes_of(default),
        inherited: true,
    }
}

const fn bytes_of(limit: Limit) -> Option<u64> {
    match limit {
        Limit::Bytes(bytes) => Some(bytes.get()),
        Limit::Unlimited | Limit::Inherited => None,
    }
}

/// Whose, how much, and how much it may be.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["device", "who", ">charged", ">limit", ""]);
    let size = |bytes: Option<u64>| {
        bytes.map_or("unlimited".to_owned(), |bytes| {
            ByteCount::new(bytes).to_string()
        })
    };
    for row in rows {
        table.row(match row {
            Row::Default { device, limit, .. } => vec![
                device.clone(),
                "(every other)".to_owned(),
                String::new(),
                size(*limit),
            ],
            Row::Account {
                device,
                user,
                name,
                charged,
                limit,
                inherited,
                ..
            } => vec![
                device.clone(),
                name.clone().unwrap_or_else(|| user.to_string()),
                size(Some(*charged)),
                size(*limit),
                if *inherited { "by default" } else { "" }.to_owned(),
            ],
            Row::Job {
                device,
                job,
                path,
                charged,
                limit,
                ended,
                ..
            } => vec![
                device.clone(),
                path.as_ref().map_or_else(
                    || format!("job {job} (gone)"),
                    |path| format!("job {job}: {path}"),
                ),
                size(Some(*charged)),
                if *ended { String::new() } else { size(*limit) },
                if *ended { "ended" } else { "" }.to_owned(),
            ],
            Row::Run {
                device,
                run,
                process,
                user,
                name,
                charged,
                limit,
                ended,
                ..
            } => vec![
                device.clone(),
                format!(
                    "run {run}: process {process} of {}",
                    name.clone().unwrap_or_else(|| user.to_string())
                ),
                size(Some(*charged)),
                if *ended { String::new() } else { size(*limit) },
                if *ended { "ended" } else { "" }.to_owned(),
            ],
        });
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema: a change here is a new number in [`SCHEMA`].
    #[test]
    fn rows_have_the_published_fields() {
        let default = Row::Default {
            schema: SCHEMA,
            device: "cohmem0".to_owned(),
            limit: None,
        };
        let account = Row::Account {
            schema: SCHEMA,
            device: "cohmem0".to_owned(),
            user: 1000,
            name: Some("ada".to_owned()),
            charged: 4096,
            limit: Some(8192),
            inherited: false,
        };
        let job = Row::Job {
            schema: SCHEMA,
            device: "cohmem0".to_owned(),
            job: 41,
            path: Some("/batch".to_owned()),
            charged: 4096,
            limit: None,
            ended: false,
        };
        let run = Row::Run {
            schema: SCHEMA,
            device: "cohmem0".to_owned(),
            run: 3,
            process: 77,
            user: 1000,
            name: None,
            charged: 4096,
            limit: Some(8192),
            ended: false,
        };
        assert_eq!(
            serde_json::to_string(&[job, run]).unwrap(),
            concat!(
                r#"[{"type":"job","schema":"cohmem.quota/1","device":"cohmem0","job":41,"#,
                r#""path":"/batch","charged":4096,"limit":null,"ended":false},"#,
                r#"{"type":"run","schema":"cohmem.quota/1","device":"cohmem0","run":3,"process":77,"#,
                r#""user":1000,"name":null,"charged":4096,"limit":8192,"ended":false}]"#
            )
        );
        assert_eq!(
            serde_json::to_string(&[default, account]).unwrap(),
            concat!(
                r#"[{"type":"default","schema":"cohmem.quota/1","device":"cohmem0","limit":null},"#,
                r#"{"type":"account","schema":"cohmem.quota/1","device":"cohmem0","user":1000,"#,
                r#""name":"ada","charged":4096,"limit":8192,"inherited":false}]"#
            )
        );
    }

    #[test]
    fn a_job_is_a_directory_or_a_number() {
        assert_eq!(job(Path::new("41")).unwrap(), Job::new(41));
        let error = job(Path::new("/no/such/group")).unwrap_err();
        assert!(error.to_string().contains("/no/such/group"), "{error}");
    }

    #[test]
    fn limits_are_sizes_or_none() {
        assert_eq!(limit("2M").unwrap(), Limit::Bytes(ByteCount::new(2 << 20)));
        assert_eq!(limit("unlimited").unwrap(), Limit::Unlimited);
        assert!(limit("much").unwrap_err().to_string().contains("\"much\""));
    }
}
