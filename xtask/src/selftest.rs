//! `cargo xtask selftest`: the kernel's own suite for device memory (`hmm-tests`), on our test device
//! and on the kernel's.
//!
//! Nothing of the kernel is in this tree: the suite, its device and its headers come from the
//! distribution's source package. The suite runs as it is; the kernel's device, which a stock kernel lacks
//! two things for, is adapted by edits that are printed ([`suite`]); the debug kernel has its own as a module.
//! Both devices run in the same guest, one after the other, and the verdicts stand side by side
//! ([`verdicts`]).

mod suite;
mod verdicts;

use std::{fs, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

pub(crate) use suite::{Suite, test_device};

use crate::{
    kernel::{self, Kernel},
    kmod::{self, Variant},
    lab::{self, Guest, Output},
    place::repository,
    setup::{self, Group},
};
use verdicts::{Cannot, Verdicts};

/// Arguments of `cargo xtask selftest`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print what the suite printed as well
    #[arg(long, short)]
    verbose: bool,
    /// Kernel to boot: `stock` or `debug`
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    kernel: kernel::Name,
}

/// Our device, and the kernel's, as the tables call them.
pub(crate) const OURS: &str = "cohmem_dmirror";
pub(crate) const THEIRS: &str = "test_hmm";

/// A test that a kernel without the named symbol cannot run.
struct NeedsSymbol {
    test: &'static str,
    symbol: &'static str,
}

/// All tests that may fail, with the cause. A kernel that exports the symbol has to pass them.
const MAY_FAIL: [NeedsSymbol; 3] = [
    NeedsSymbol {
        test: "exclusive",
        symbol: "make_device_exclusive_range",
    },
    NeedsSymbol {
        test: "exclusive_mprotect",
        symbol: "make_device_exclusive_range",
    },
    NeedsSymbol {
        test: "exclusive_cow",
        symbol: "make_device_exclusive_range",
    },
];

/// The test devices' parameters for the soft-reserved ranges of a guest.
pub(crate) fn parameters(guest: &Guest) -> Vec<String> {
    let ranges = guest.spm.iter().enumerate();
    ranges
        .map(|(number, range)| format!("spm_addr_dev{number}={:#x}", range.start))
        .collect()
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    suite_passes(args.verbose, args.kernel)?;
    Ok(ExitCode::SUCCESS)
}

/// The suite, as one of the tests.
///
/// # Errors
///
/// When a test failed or was skipped on our device for no listed cause, or the lab complained.
pub(crate) fn check(kernel: kernel::Name) -> Result<()> {
    suite_passes(false, kernel)
}

fn suite_passes(is_verbose: bool, name: kernel::Name) -> Result<()> {
    setup::ensure(Group::Build)?;
    setup::ensure(Group::Guest)?;
    setup::ensure(Group::Source)?;
    let suite = Suite::unpack()?;
    let program = suite.build()?;
    let kernel = name.find()?;
    let ours = kmod::build_on(Variant::Dmirror, name)?;
    let theirs = match name {
        kernel::Name::Stock => test_device(&suite)?,
        kernel::Name::Debug => kernel.modules.join("kernel/lib/test_hmm.ko"),
        kernel::Name::Newest => bail!("the suite is that of the stock kernel's source"),
    };
    let script = repository()?.join("lab/selftest.sh");
    let mut command = vec![script.display().to_string(), program.display().to_string()];
    // The kernel's first: without ours it has no gup_test.
    for (name, module) in [(THEIRS, &theirs), (OURS, &ours)] {
        command.push(format!("{name}={}", module.display()));
    }
    let guest = Guest {
        command,
        timeout: Duration::from_secs(900),
        output: Output::Capture,
        kernel: name,
        ..Guest::default()
    };
    let outcome = guest.run()?;
    let text = String::from_utf8_lossy(&outcome.stdout);
    if is_verbose || !outcome.is_success() {
        print!("{text}");
        eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
    }
    lab::tell(&outcome);
    let verdicts = Verdicts::parse(&text)?;
    let cannot = cannot(&kernel)?;
    print!("{}", verdicts.table(&cannot));
    if !outcome.is_success() {
        bail!("the suite's guest: exit status {}", outcome.exit_code());
    }
    if cannot.is_empty() && !verdicts.has_private() {
        bail!("the kernel has private memory, and no test of it ran");
    }
    let unexpected = verdicts.unexpected(OURS, &cannot);
    if !unexpected.is_empty() {
        bail!("on {OURS}: {}", unexpected.join("; "));
    }
    Ok(())
}

/// Those of [`MAY_FAIL`] whose symbol the kernel does not export.
fn cannot(kernel: &Kernel) -> Result<Vec<Cannot>> {
    let path = kernel.build.join("Module.symvers");
    let symbols =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(MAY_FAIL
        .iter()
        .filter(|entry| !is_exported(&symbols, entry.symbol))
        .map(|entry| Cannot {
            test: entry.test,
            cause: format!("this kernel does not export {}", entry.symbol),
        })
        .collect())
}

/// Reads lines of "CRC SYMBOL MODULE EXPORT", separated by tabs.
fn is_exported(symvers: &str, symbol: &str) -> bool {
    symvers
        .lines()
        .any(|line| line.split('\t').nth(1) == Some(symbol))
}

#[cfg(test)]
mod tests {
    use super::is_exported;

    #[test]
    fn a_symbol_is_found_by_its_whole_name() {
        let symvers = "0x1\tmake_device_exclusive_range_x\tvmlinux\tEXPORT_SYMBOL_GPL\t\n\
                       0x2\txa_load\tvmlinux\tEXPORT_SYMBOL\t\n";
        assert!(is_exported(symvers, "xa_load"));
        assert!(!is_exported(symvers, "make_device_exclusive_range"));
    }
}
