//! `cohmem`: see, attach, fill and take back device-owned coherent memory.
//!
//! One file a subcommand under `cmd/`. Exit status: 0 done, 1 partly or no, 2 wrong use, 3 not
//! possible on this machine; that of `run` is its program's.
#![forbid(unsafe_code)]

mod cmd;
mod duration;
mod exit;
#[cfg(test)]
mod fake_sysfs;
mod follow;
mod interrupt;
mod limits;
mod manual;
mod output;
mod palette;
mod policy;
mod progress;
mod stuck;
mod survey;
mod tour;
mod user;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{exit::report, output::Output};

/// Device-owned coherent memory: see it, attach it, move live programs' memory there and back.
#[derive(Debug, Parser)]
#[command(name = "cohmem", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done, 1 partly or no, 2 wrong use, 3 not possible on this machine."
)]
struct Cli {
    /// Print JSON: an array of objects with integer bytes.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(cmd::list::List),
    Attach(cmd::attach::Attach),
    Detach(cmd::detach::Detach),
    Migrate(cmd::migrate::Migrate),
    Evict(cmd::evict::Evict),
    Quota(cmd::quota::Quota),
    Run(cmd::run::Run),
    Explain(cmd::explain::Explain),
    Map(cmd::map::Map),
    Top(cmd::top::Top),
    Metrics(cmd::metrics::Metrics),
    Doctor(cmd::doctor::Doctor),
    Tour(tour::Tour),
    Completions(cmd::completions::Completions),
    Man(cmd::man::Man),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::new(cli.json);
    let result = match &cli.command {
        Command::List(command) => command.run(&mut out),
        Command::Attach(command) => command.run(&mut out),
        Command::Detach(command) => command.run(&mut out),
        Command::Migrate(command) => command.run(&mut out),
        Command::Evict(command) => command.run(&mut out),
        Command::Quota(command) => command.run(&mut out),
        Command::Run(command) => command.run(&mut out),
        Command::Explain(command) => command.run(&mut out),
        Command::Map(command) => command.run(&mut out),
        Command::Top(command) => command.run(&mut out),
        Command::Metrics(command) => command.run(&mut out),
        Command::Doctor(command) => command.run(&mut out),
        Command::Tour(command) => command.run(&mut out),
        Command::Completions(command) => command.run(Cli::command()),
        Command::Man(command) => command.run(Cli::command()),
    };
    report(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_are_read() {
        for line in [
            "list",
            "list --json",
            "--json list",
            "attach",
            "attach dax0.0",
            "attach hmem.1 --altmap",
            "attach 0x100000000+256M",
            "attach 0x100000000-0x110000000 --json",
            "attach --all",
            "attach --file /etc/cohmem/attach.conf",
            "detach cohmem0",
            "detach --all",
            "detach 3 --timeout 500ms",
            "migrate --pid 1 --to device:0",
            "migrate --pid 1 --to cohmem3 --range 0x1000+64K --fill --shared --exec",
            "migrate --pid 1 --to system --dry-run",
            "evict cohmem0 --timeout 2m",
            "explain 1 0x7f0000000000 --json",
            "quota list",
            "quota list cohmem0 --json",
            "quota set cohmem0 4G --user root",
            "quota set 0 0 --default",
            "quota set 0 unlimited --user 1000",
            "quota set 0 2G --job /sys/fs/cgroup/batch",
            "quota clear 0 --user 1000",
            "quota clear 0 --job 41",
            "quota clear cohmem1 --default",
            "run -- true",
            "run --device 1 --interval 50ms -- program --json -x",
            "top",
            "metrics",
            "metrics --format text --sysfs /host/sys",
            "metrics --listen 127.0.0.1:9817",
            "top --interval 200ms --once",
            "map 1",
            "map 1 --all --json --svg a.svg --png a.png",
            "map 1 --record 30s --interval 50ms",
            "map --self-test",
            "run --policy heap,size>=64M,name=*model*;limit=2G;devices=1,0;full=evict -- program",
            "doctor --json",
            "tour --backend driver --size 64M",
            "completions zsh",
            "man /tmp",
            "tour --backend engine:1G,level=3 --granule 2M",
        ] {
            let words = ["cohmem"].into_iter().chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_command_lines_are_refused_with_the_value() {
        for (line, says) in [
            ("", "Usage"),
            ("lost", "lost"),
            ("attach ram", "daxX.Y"),
            ("attach dax0.0 --all", "--all"),
            ("attach --file x --altmap", "--altmap"),
            ("detach", "DEVICE"),
            ("detach 0 --all", "--all"),
            ("detach cohmem16", "N below 16"),
            ("detach 0 --timeout 5x", "\"5x\""),
            ("migrate --to system", "--pid"),
            ("migrate --pid 1", "--to"),
            ("migrate --pid 0 --to system", "0"),
            ("migrate --pid 1 --to moon", "device:N"),
            ("migrate --pid 1 --to system --range 4096", "START-END"),
            (
                "migrate --pid 1 --to system --range 0x2000-0x1000",
                "ends below its start",
            ),
            ("metrics --listen 9817", "9817"),
            ("metrics --format xml", "xml"),
            ("map", "PID"),
            ("map 0", "0"),
            ("map 1 --self-test", "--self-test"),
            ("map 1 --interval 1s", "--record"),
            ("map 1 --record 0", "at least 1ms"),
            ("explain 1", "ADDRESS"),
            ("explain 1 0xyz", "hexadecimal digits"),
            ("quota", "Usage"),
            ("quota set 0 4G", "--user"),
            ("quota set 0 4G --user root --default", "--default"),
            ("quota set 0 lots --default", "\"lots\""),
            ("quota clear 0 --user no-such-user", "\"no-such-user\""),
            ("quota set 0 4G --user root --job /x", "--job"),
            ("quota clear --default", "DEVICE"),
            ("run", "PROGRAM"),
            ("run --interval 0 -- true", "at least 1ms"),
            (
                "run --policy hepa -- true",
                "\"hepa\" is no word of a policy",
            ),
            ("completions csh", "csh"),
            ("man", "DIRECTORY"),
            ("tour --granule 3K", "power of two"),
            ("tour --backend moon", "engine["),
        ] {
            let words = ["cohmem"]
                .into_iter()
                .chain(line.split(' ').filter(|word| !word.is_empty()));
            let Err(error) = Cli::try_parse_from(words) else {
                panic!("{line:?} was taken")
            };
            assert!(error.to_string().contains(says), "{line:?}: {error}");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
