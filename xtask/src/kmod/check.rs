//! What the kernel's own build rules do not check of the module, read from it with binutils.
//!
//! | complaint | why |
//! |---|---|
//! | vector or x87 register | the kernel does not save them for itself |
//! | indirect branch, bare return | speculation is steered through the kernel's thunks |
//! | callback without landing pad | the processor faults on an indirect call there (IBT) |
//! | function without padding | call depth tracking patches the bytes before each function |
//! | panic entry | a panic stops the kernel; the crates promise to have none |
//! | test hook | lets tests break the driver; never to be shipped |

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

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
            complaints.extend(callbacks(module)?);
        }
        if padding_bytes(kernel).is_some() {
            complaints.extend(padding(object)?);
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

/// Instructions by the function that they are in.
fn instructions(disassembly: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut function = "";
    disassembly.lines().filter_map(move |line| {
        if let Some((_, name)) = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once(" <"))
        {
            function = name;
            return None;
        }
        let (_, instruction) = line.strip_prefix(' ')?.split_once(":\t")?;
        Some((function, instruction.trim()))
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

/// A place in the code: section and offset.
type Place = (String, u64);

/// Functions whose address is taken must start with a landing pad that is not sealed.
fn callbacks(module: &Path) -> Result<Vec<String>> {
    let symbols = symbols(&run("readelf", &["-SsW"], module)?);
    let relocations = run("readelf", &["-rW"], module)?;
    let (taken, sealed) = taken_addresses(&relocations, &symbols);
    let pads = landing_pads(&run("objdump", &["-d", "--no-show-raw-insn"], module)?);
    if taken.is_empty() {
        bail!(
            "found no callback in {}: readelf's output was not understood",
            module.display()
        );
    }
    Ok(taken
        .iter()
        .filter(|place| !pads.contains(*place) || sealed.contains(*place))
        .map(|(section, offset)| format!("callback without landing pad at {section}+{offset:#x}"))
        .collect())
}

/// Function symbols by name and value, which is how relocations name them.
fn symbols(readelf: &str) -> BTreeMap<(String, u64), Place> {
    let sections: BTreeMap<&str, &str> = readelf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix('[')?.split_once(']'))
        .filter_map(|(index, rest)| Some((index.trim(), rest.split_whitespace().next()?)))
        .collect();
    readelf
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let &[number, value, _, "FUNC", _, _, index, name] = words.as_slice() else {
                return None;
            };
            number.strip_suffix(':')?;
            let value = u64::from_str_radix(value, 16).ok()?;
            Some((
                (name.to_owned(), value),
                ((*sections.get(index)?).to_owned(), value),
            ))
        })
        .collect()
}

/// The places in code that data or code hold the address of, and those that the kernel seals.
fn taken_addresses(
    readelf: &str,
    symbols: &BTreeMap<(String, u64), Place>,
) -> (BTreeSet<Place>, BTreeSet<Place>) {
    let (mut taken, mut sealed) = (BTreeSet::new(), BTreeSet::new());
    let mut section = "";
    for line in readelf.lines() {
        if let Some((_, rest)) = line.split_once("Relocation section '.rela") {
            section = rest.split('\'').next().unwrap_or("");
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        let &[_, _, kind, value, name, sign, addend] = words.as_slice() else {
            continue;
        };
        let (Ok(value), Ok(addend)) = (
            u64::from_str_radix(value, 16),
            u64::from_str_radix(addend, 16),
        ) else {
            continue;
        };
        let place = if is_code(name) {
            (name.to_owned(), addend)
        } else if let Some(place) = symbols.get(&(name.to_owned(), value)) {
            place.clone()
        } else {
            continue;
        };
        if section == ".ibt_endbr_seal" {
            sealed.insert(place);
        } else if sign == "+"
            && (holds_pointers(section) || is_code(section))
            && matches!(kind, "R_X86_64_64" | "R_X86_64_32S" | "R_X86_64_32")
        {
            taken.insert(place);
        }
    }
    (taken, sealed)
}

fn is_code(section: &str) -> bool {
    matches!(section, ".text" | ".init.text" | ".exit.text")
}

/// Other sections with addresses of code tell the kernel where to patch, and are not called through.
fn holds_pointers(section: &str) -> bool {
    [
        ".data",
        ".rodata",
        ".init.data",
        ".exit.data",
        ".gnu.linkonce.this_module",
    ]
    .contains(&section)
}

fn landing_pads(disassembly: &str) -> BTreeSet<Place> {
    let mut section = "";
    let mut pads = BTreeSet::new();
    for line in disassembly.lines() {
        if let Some(name) = line.strip_prefix("Disassembly of section ") {
            section = name.trim_end_matches(':');
        } else if let Some((offset, "endbr64")) = line.trim().split_once(":\t")
            && let Ok(offset) = u64::from_str_radix(offset, 16)
        {
            pads.insert((section.to_owned(), offset));
        }
    }
    pads
}

/// rustc notes each function's padding in a section; objtool does not miss it.
fn padding(object: &Path) -> Result<Vec<String>> {
    let text = run("readelf", &["-SsW"], object)?;
    let nr_functions = symbols(&text).len();
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
    fn a_sealed_or_padless_callback_is_found() {
        let symbols = symbols(
            "  [ 1] .text PROGBITS 0 40 b 0 AX 0 0 16\n\
             \x20    3: 0000000000000040    25 FUNC    LOCAL  DEFAULT    1 show\n",
        );
        let relocations = "Relocation section '.rela.data' at offset 0x1 contains 2 entries:\n\
             0000000000000008  0000000300000001 R_X86_64_64  0000000000000040 show + 0\n\
             0000000000000010  0000000100000001 R_X86_64_64  0000000000000000 .text + 80\n\
             Relocation section '.rela.ibt_endbr_seal' at offset 0x1 contains 1 entry:\n\
             0000000000000000  0000000100000002 R_X86_64_PC32  0000000000000000 .text + 90\n\
             Relocation section '.rela.text' at offset 0x1 contains 1 entry:\n\
             0000000000000004  0000000300000004 R_X86_64_PLT32  0000000000000090 call - 4\n";
        let (taken, sealed) = taken_addresses(relocations, &symbols);
        assert_eq!(
            taken,
            BTreeSet::from([(".text".to_owned(), 0x40), (".text".to_owned(), 0x80)])
        );
        assert_eq!(sealed, BTreeSet::from([(".text".to_owned(), 0x90)]));
        let pads = landing_pads("Disassembly of section .text:\n\n  40:\tendbr64\n  44:\tret\n");
        assert_eq!(pads, BTreeSet::from([(".text".to_owned(), 0x40)]));
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
    fn a_hook_symbol_is_found() {
        assert_eq!(
            hooks("0000 t _RNvC6cohmem5hooks\n0000 T init_module\n").len(),
            1
        );
    }
}
