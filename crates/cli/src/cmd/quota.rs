//! `cohmem quota`: who holds how much of a device, and may hold how much.

use clap::{Args, Subcommand};
use cohmem::{
    ByteCount, Device, ErrorKind, discover,
    quota::{Account, Accounts, Limit, Whose},
};
use serde::Serialize;

use crate::{
    cmd::device_number,
    exit::{Exit, Result},
    output::{Output, Table},
    user,
};

/// See and limit how much of a device each user holds.
///
/// Memory of a device is charged to the user whose program asked for it, until it is freed: also when
/// another process shares it by then, or the program is gone. A user at the limit gets no more; pages
/// stay where they are, for the reason "quota". Limits end when the device is detached.
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

/// List who holds how much of each device, and may hold how much.
#[derive(Args, Debug)]
struct List {
    /// cohmemN or N; every device by default.
    #[arg(value_parser = device_number)]
    device: Option<u32>,
}

/// Set how much of a device a user may hold. Needs root.
///
/// What the user holds already stays, also above the limit.
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

/// Take a user's limit away, so that the default applies; or the default, so that nothing does. Needs
/// root.
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
}

impl Subject {
    fn whose(&self) -> Whose {
        self.user.map_or(Whose::Default, Whose::User)
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
}

const SCHEMA: &str = "cohmem.quota/1";

impl Quota {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        match &self.action {
            Action::List(list) => list.run(out),
            Action::Set(set) => change(out, set.device, set.subject.whose(), set.limit),
            Action::Clear(clear) => {
                change(out, clear.device, clear.subject.whose(), Limit::Inherited)
            }
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
            let accounts = Device::open(number)?.query_accounts()?;
            rows.push(default_row(number, &accounts));
            rows.extend(account_rows(number, &accounts));
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

/// Who holds memory of a device, or may hold so much only; nobody for those who may not open its node.
pub(crate) fn holders(number: u32) -> Result<Vec<Row>> {
    let accounts = match Device::open(number).and_then(|device| device.query_accounts()) {
        Ok(accounts) => accounts,
        Err(error) => match error.kind() {
            // Or it went away since it was listed, or its driver is older.
            ErrorKind::NotPermitted
            | ErrorKind::NoDevice
            | ErrorKind::NoDriver
            | ErrorKind::Unsupported => return Ok(Vec::new()),
            _ => return Err(error.into()),
        },
    };
    Ok(account_rows(number, &accounts).collect())
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
    let mut table = Table::new(&["device", "user", ">charged", ">limit", ""]);
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
    fn limits_are_sizes_or_none() {
        assert_eq!(limit("2M").unwrap(), Limit::Bytes(ByteCount::new(2 << 20)));
        assert_eq!(limit("unlimited").unwrap(), Limit::Unlimited);
        assert!(limit("much").unwrap_err().to_string().contains("\"much\""));
    }
}
