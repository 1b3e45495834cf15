//! What the kernel's own build rules do not check of the module, read from it with binutils.
//!
//! | complaint | why |
//! |---|---|
//! | vector or x87 register | the kernel does not save them for itself |
//! | indirect branch, bare return | speculation is steered through the kernel's thunks |
//! | callback without landing pad | the processor faults on an indirect call there (IBT) |
//! | code without sanitizer | a kernel that looks for wrong accesses would miss those of the module |
//! | function without padding | call depth tracking patches the bytes before each function |
//! | panic entry | a panic stops the kernel; the crates promise to have none |
//! | test hook | lets tests break the driver; never to be shipped |

mod callbacks;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{
    Variant,
    kernel::Kernel,
    rust::padding_bytes,
    step::{self, Key, output_of},
};

/// Checks a module that was just built, and the Rust object in it.
///
/// # Errors
///
/// All complaints.
pub(super) fn module(
    kernel: &Kernel,
    module: &Path,
    object: &Path,
    out: &Path,
    variant: Variant,
) -> Result<()> {
    let report = out.join("checked");
    let key = Key::new("check")
        .text(include_str!("check.rs"))
        .file(module)?
        .text(variant.name());
    step::run(&report, &key, || {
        let mut complaints = code(&disassembly(module)?, kernel);
        if kernel.has("X86_KERNEL_IBT") {
            complaints.extend(callbacks::check(module)?);
        }
        if padding_bytes(kernel).is_some() {
            complaints.extend(padding(object)?);
        }
        if kernel.has("KASAN_GENERIC") {
            complaints.extend(sanitizer(&run("nm", &["-u"], object)?));
        }
        complaints.extend(panics(&disassembly(object)?));
        if variant == Variant::Shipped {
            complaints.extend(hooks(&run("nm", &[], module)?));
        }
        if complaints.is_empty() {
            return fs::write(&report, "fit\n").context("cannot write the report");
        }
        bail!(
            "{} is not fit to be loaded:\n  {}",
            module.display(),
            complaints.join("\n  ")
        )
    })
}

fn run(program: &str, args: &[&str], file: &Path) -> Result<String> {
    output_of(Command::new(program).args(args).arg(file))
}

fn disassembly(file: &Path) -> Result<String> {
    run("objdump", &["-d", "-r", "--no-show-raw-insn"], file)
}

/// Instructions by the function that they are in, without those that the kernel replaces when it loads a
/// module: calls of its table of paravirtual operations.
fn instructions(disassembly: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut function = "";
    let next_lines = disassembly.lines().skip(1).chain([""]);
    disassembly
        .lines()
        .zip(next_lines)
        .filter_map(move |(line, next)| {
            if let Some((_, name)) = line
                .strip_suffix(">:")
                .and_then(|line| line.split_once(" <"))
            {
                function = name;
                return None;
            }
            let (_, instruction) = line.strip_prefix(' ')?.split_once(":\t")?;
            let is_replaced = next.contains("R_X86_64_") && next.contains("\tpv_ops");
            (!is_replaced).then_some((function, instruction.trim()))
        })
}

fn code(disassembly: &str, kernel: &Kernel) -> Vec<String> {
    let (retpoline, rethunk) = (
        kernel.has("MITIGATION_RETPOLINE"),
        kernel.has("MITIGATION_RETHUNK"),
    );
    instructions(disassembly)
        .filter_map(|(function, instruction)| {
            let what = fault(instruction, retpoline, rethunk)?;
            Some(format!("{what} in {function}: {instruction}"))
        })
        .collect()
}

fn fault(instruction: &str, retpoline: bool, rethunk: bool) -> Option<&'static str> {
    // A prefix such as notrack or cs stands before the mnemonic.
    let mut words = instruction.split_whitespace().skip_while(|word| {
        matches!(
            *word,
            "notrack" | "bnd" | "cs" | "ds" | "rep" | "repz" | "lock" | "data16"
        )
    });
    let mnemonic = words.next().unwrap_or("");
    let operands = words.next().unwrap_or("");
    let is_vector = ["%xmm", "%ymm", "%zmm", "%mm", "%st"]
        .iter()
        .any(|name| operands.contains(name));
    if is_vector || mnemonic.starts_with("fld") || mnemonic.starts_with("fst") {
        Some("vector or x87 register")
    } else if retpoline && operands.starts_with('*') && matches!(mnemonic, "call" | "jmp") {
        Some("indirect branch")
    } else if rethunk && matches!(mnemonic, "ret" | "retq") {
        Some("bare return")
    } else {
        None
    }
}

/// rustc notes each function's padding in a section; objtool does not miss it.
fn padding(object: &Path) -> Result<Vec<String>> {
    let text = run("readelf", &["-SsW"], object)?;
    // Functions that are alike are one, with several names.
    let places: BTreeSet<_> = callbacks::symbols(&text).into_values().collect();
    let nr_functions = places.len();
    let nr_padded = text
        .lines()
        .find_map(|line| {
            line.split_once(" __patchable_function_entries ")?
                .1
                .split_whitespace()
                .nth(3)
        })
        .and_then(|bytes| usize::from_str_radix(bytes, 16).ok())
        .map_or(0, |bytes| bytes / 8);
    if nr_functions > 0 && nr_padded >= nr_functions {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "functions without padding: {nr_padded} of {nr_functions} have it"
    )])
}

/// Code that checks its accesses refers to the functions that report the wrong ones.
fn sanitizer(undefined: &str) -> Option<String> {
    let is_checked = undefined
        .lines()
        .any(|line| line.trim_start().starts_with("U __asan_report_"));
    (!is_checked).then(|| "code without sanitizer, for a kernel that has one".to_owned())
}

/// Functions that call an entry of `core::panicking`.
fn panics(disassembly: &str) -> BTreeSet<String> {
    let mut function = "";
    let mut callers = BTreeSet::new();
    for line in disassembly.lines() {
        if let Some((_, name)) = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once(" <"))
        {
            function = name;
        } else if line.contains("R_X86_64_") && is_panic_entry(line) && !is_panic_entry(function) {
            callers.insert(format!("panic entry called in {function}"));
        }
    }
    callers
}

/// By the mangled name of the crate and module `core::panicking`.
fn is_panic_entry(text: &str) -> bool {
    text.contains("4core9panicking") || text.contains("core6option13unwrap_failed")
}

fn hooks(nm: &str) -> Vec<String> {
    nm.lines()
        .filter(|line| line.to_ascii_lowercase().contains("hook"))
        .map(|line| format!("test hook: {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_instructions_are_told_apart() {
        let faults = [
            ("movaps %xmm0,(%rax)", Some("vector or x87 register")),
            ("fldl   (%rax)", Some("vector or x87 register")),
            ("call   *%rax", Some("indirect branch")),
            ("notrack jmp *0x0(,%rax,8)", Some("indirect branch")),
            ("cs jmp *%r11", Some("indirect branch")),
            ("ret", Some("bare return")),
            ("jmp    123 <f+0x3>", None),
            ("mov    %rax,%rbx", None),
        ];
        for (instruction, expected) in faults {
            assert_eq!(fault(instruction, true, true), expected, "{instruction}");
        }
        assert_eq!(fault("ret", true, false), None);
    }

    #[test]
    fn calls_that_the_kernel_replaces_are_none_of_the_module() {
        let call = " 250:\tcall   *0x0(%rip)        # 256 <f+0x26>\n";
        let of = |table: &str| {
            let text = format!("0000000000000010 <f>:\n{call}\t\t\t252: R_X86_64_PC32\t{table}\n");
            instructions(&text)
                .filter(|(_, instruction)| fault(instruction, true, true).is_some())
                .count()
        };
        assert_eq!((of("pv_ops+0xec"), of("ops+0xec")), (0, 1));
    }

    #[test]
    fn a_panic_is_told_by_its_caller() {
        let text = "0000000000000010 <_RNvC6cohmem1f>:\n  10:\tcall   15\n\
             \t\t\t11: R_X86_64_PLT32\t_RNvNtCs1_4core9panicking18panic_bounds_check-0x4\n";
        assert_eq!(
            panics(text),
            BTreeSet::from(["panic entry called in _RNvC6cohmem1f".to_owned()])
        );
        assert!(panics("0000000000000010 <f>:\n  10:\tcall   15\n").is_empty());
    }

    #[test]
    fn code_without_sanitizer_is_told_by_what_it_does_not_call() {
        let checked = "                 U __asan_report_load8_noabort\n";
        assert_eq!(sanitizer(checked), None);
        let plain = "                 U __asan_memcpy\n                 U kfree\n";
        assert!(sanitizer(plain).is_some(), "memcpy is C's as well");
    }

    #[test]
    fn a_hook_symbol_is_found() {
        assert_eq!(
            hooks("0000 t _RNvC6cohmem5hooks\n0000 T init_module\n").len(),
            1
        );
    }
}
