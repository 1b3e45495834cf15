//! Functions whose address is taken start with the landing pad of an indirect call.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Result, bail};

use super::run;

/// A place in the code: section and offset.
type Place = (String, u64);

/// Functions whose address is taken must start with a landing pad that is not sealed.
pub(super) fn check(module: &Path) -> Result<Vec<String>> {
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
pub(super) fn symbols(readelf: &str) -> BTreeMap<(String, u64), Place> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
