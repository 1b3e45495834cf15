//! The crate says what the C header says.
//!
//! A C program that includes `include/uapi/linux/cohmem.h` is compiled with `cc`; it prints every
//! constant, size and field offset, which are compared with the crate. The C side names each field
//! in the header's words, so a renamed, resized or moved field fails to compile or to compare.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    mem::offset_of,
    path::{Path, PathBuf},
    process::Command,
};

use cohmem_uapi::{
    ABI_VERSION, ATTACH_ALTMAP, Cause, Direction, Event, FRAME_BYTES, HISTORY_ALL, HISTORY_STAYED,
    Holder, MAX_ACCOUNTS, MAX_DEVICES, MAX_MOVES, MAX_NESTED_JOBS, MAX_OBJECTS, MAX_STUCK,
    MAX_USER_RUNS, MIGRATE_EXEC, MIGRATE_FILL, MIGRATE_SHARED, NO_DEVICE, NO_FRAME, NR_REASONS,
    ObjectKind, PROC_SELF, PageEntry, QUERY_REASONS, QUOTA_DEFAULT, QUOTA_INHERITED,
    QUOTA_UNLIMITED, RANGE_ALIGN, Reason, State, Tier, args, ioctl,
};

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include/uapi");

/// Name in C, value in the crate.
type Values = BTreeMap<String, i128>;

macro_rules! structure {
    ($values:ident, $c_name:literal, $rust:ty, [$($field:ident: $type:ty),+ $(,)?]) => {{
        let mut end = 0;
        $(
            let c_field = concat!($c_name, ".", stringify!($field));
            $values.insert(format!("offset {c_field}"), offset_of!($rust, $field) as i128);
            $values.insert(format!("size {c_field}"), size_of::<$type>() as i128);
            // The type written here is the field's own, or this does not compile.
            let _: fn(&$rust) -> &$type = |value| &value.$field;
            assert_eq!(offset_of!($rust, $field), end, "padding in front of {c_field}");
            end += size_of::<$type>();
        )+
        assert_eq!(end, size_of::<$rust>(), "padding at the end of {}", $c_name);
        $values.insert(concat!("sizeof ", $c_name).to_owned(), size_of::<$rust>() as i128);
    }};
}

#[expect(
    clippy::large_stack_frames,
    reason = "a test's list, with one temporary a field"
)]
fn crate_structures(values: &mut Values) {
    type Counts32 = [u32; NR_REASONS];
    type Counts64 = [u64; NR_REASONS];
    structure!(values, "version", args::Version, [abi: u32, features: u32, reserved: [u64; 3]]);
    structure!(values, "attach", args::Attach, [
        start: u64, length: u64, flags: u32, device: u32, nr_frames: u64, reserved: [u64; 3],
    ]);
    structure!(values, "stuck", args::Stuck, [
        phys: u64, refs: u32, maps: u32, reason: u32, reserved: u32,
    ]);
    structure!(values, "detach", args::Detach, [
        device: u32, flags: u32, timeout_ms: u32, nr_stuck_max: u32, stuck_ptr: u64,
        nr_evicted: u64, nr_stuck: u64, nr_kept: u64, stayed: Counts32, reserved: [u64; 2],
    ]);
    structure!(values, "list", args::List, [devices: u64, reserved: [u64; 3]]);
    structure!(values, "info", args::Info, [
        device: u32, state: u32, start: u64, length: u64, nr_frames: u64, nr_free: u64,
        nr_allocated: u64, nr_poisoned: u64, nr_metadata: u64, moved_in: u64, moved_out: u64,
        filled: u64, freed: u64, node: u32, nr_chunks: u32, reserved: [u64; 3],
    ]);
    structure!(values, "migrate", args::Migrate, [
        start: u64, length: u64, direction: u32, flags: u32, proc_fd: i32, pad: u32,
        reasons_ptr: u64, next: u64, nr_moved: u64, nr_filled: u64, stayed: Counts64,
        reserved: [u64; 2],
    ]);
    structure!(values, "query", args::Query, [
        start: u64, length: u64, proc_fd: i32, flags: u32, map_ptr: u64, next: u64,
        nr_by_tier: [u64; 4], nr_here: u64, reserved: [u64; 2],
    ]);
    structure!(values, "quota", args::Quota, [
        user: u32, flags: u32, limit: u64, reserved: [u64; 2],
    ]);
    structure!(values, "account", args::Account, [
        user: u32, flags: u32, limit: u64, charged: u64,
    ]);
    structure!(values, "range", args::Range, [
        from: u64, start: u64, length: u64, holder: u32, device: u32, reserved: [u64; 2],
    ]);
    structure!(values, "accounts", args::Accounts, [
        flags: u32, nr_max: u32, accounts_ptr: u64, nr_accounts: u32, default_flags: u32,
        default_limit: u64, reserved: [u64; 2],
    ]);
    structure!(values, "move", args::Move, [
        sequence: u64, time_ns: u64, start: u64, frame: u64, nr_pages: u32, process: u32, by: u32,
        event: u8, cause: u8, reason: u8, other: u8,
    ]);
    structure!(values, "history", args::History, [
        start: u64, length: u64, proc_fd: i32, flags: u32, since: u64, moves_ptr: u64, nr_max: u32,
        nr_moves: u32, next: u64, nr_lost: u64, now_ns: u64, reserved: [u64; 2],
    ]);
    structure!(values, "job", args::Job, [
        job: u64, limit: u64, flags: u32, pad: u32, reserved: [u64; 2],
    ]);
    structure!(values, "run", args::Run, [
        run: u64, limit: u64, flags: u32, pad: u32, reserved: [u64; 2],
    ]);
    structure!(values, "object", args::Object, [
        kind: u32, flags: u32, number: u64, limit: u64, charged: u64, user: u32, process: u32,
    ]);
    structure!(values, "objects", args::Objects, [
        flags: u32, nr_max: u32, objects_ptr: u64, nr_objects: u32, pad: u32, reserved: [u64; 2],
    ]);
}

fn crate_constants(values: &mut Values) {
    let mut set = |name: &str, value: i128| {
        assert!(
            values.insert(format!("const {name}"), value).is_none(),
            "{name} twice"
        );
    };
    set("COHMEM_ABI_VERSION", ABI_VERSION.into());
    set("COHMEM_IOC_MAGIC", ioctl::MAGIC.into());
    set("COHMEM_FRAME_BYTES", FRAME_BYTES.into());
    set("COHMEM_RANGE_ALIGN", RANGE_ALIGN.into());
    set("COHMEM_MAX_DEVICES", MAX_DEVICES.into());
    set("COHMEM_MAX_STUCK", MAX_STUCK.into());
    set("COHMEM_MAX_ACCOUNTS", MAX_ACCOUNTS.into());
    set("COHMEM_MAX_MOVES", MAX_MOVES.into());
    set("COHMEM_NR_REASONS", NR_REASONS as i128);
    set("COHMEM_MAX_OBJECTS", MAX_OBJECTS.into());
    set("COHMEM_MAX_NESTED_JOBS", MAX_NESTED_JOBS.into());
    set("COHMEM_MAX_USER_RUNS", MAX_USER_RUNS.into());
    set("COHMEM_OBJECT_JOB", ObjectKind::Job as i128);
    set("COHMEM_OBJECT_RUN", ObjectKind::Run as i128);
    set("COHMEM_ATTACH_ALTMAP", ATTACH_ALTMAP.into());
    set("COHMEM_MIGRATE_FILL", MIGRATE_FILL.into());
    set("COHMEM_MIGRATE_SHARED", MIGRATE_SHARED.into());
    set("COHMEM_MIGRATE_EXEC", MIGRATE_EXEC.into());
    set("COHMEM_QUERY_REASONS", QUERY_REASONS.into());
    set("COHMEM_QUOTA_DEFAULT", QUOTA_DEFAULT.into());
    set("COHMEM_QUOTA_UNLIMITED", QUOTA_UNLIMITED.into());
    set("COHMEM_QUOTA_INHERITED", QUOTA_INHERITED.into());
    set("COHMEM_HISTORY_ALL", HISTORY_ALL.into());
    set("COHMEM_HISTORY_STAYED", HISTORY_STAYED.into());
    // Printed as a signed number of 64 bits, as all are.
    set("COHMEM_NO_FRAME", i128::from(NO_FRAME.cast_signed()));
    set("COHMEM_NO_DEVICE", NO_DEVICE.into());
    set("COHMEM_PROC_SELF", PROC_SELF.into());
    for (name, value) in [
        ("VERSION", ioctl::VERSION),
        ("ATTACH", ioctl::ATTACH),
        ("DETACH", ioctl::DETACH),
        ("LIST", ioctl::LIST),
        ("RANGE", ioctl::RANGE),
        ("INFO", ioctl::INFO),
        ("MIGRATE", ioctl::MIGRATE),
        ("QUERY", ioctl::QUERY),
        ("EVICT", ioctl::EVICT),
        ("HISTORY", ioctl::HISTORY),
        ("SET_QUOTA", ioctl::SET_QUOTA),
        ("ACCOUNTS", ioctl::ACCOUNTS),
        ("SET_JOB", ioctl::SET_JOB),
        ("SET_RUN", ioctl::SET_RUN),
        ("OBJECTS", ioctl::OBJECTS),
    ] {
        set(&format!("COHMEM_IOC_{name}"), value.into());
    }
    set("COHMEM_STATE_ONLINE", State::Online as i128);
    set("COHMEM_STATE_DRAINING", State::Draining as i128);
    set("COHMEM_STATE_KEPT", State::Kept as i128);
    set("COHMEM_HOLDER_NOBODY", Holder::Nobody as i128);
    set("COHMEM_HOLDER_DEVICE", Holder::Device as i128);
    set("COHMEM_HOLDER_SYSTEM_RAM", Holder::SystemRam as i128);
    set("COHMEM_HOLDER_OTHER", Holder::Other as i128);
    set("COHMEM_TO_DEVICE", Direction::ToDevice as i128);
    set("COHMEM_TO_SYSTEM", Direction::ToSystem as i128);
    set("COHMEM_TIER_NONE", Tier::None as i128);
    set("COHMEM_TIER_SYSTEM", Tier::System as i128);
    set("COHMEM_TIER_DEVICE", Tier::Device as i128);
    set("COHMEM_TIER_FOREIGN", Tier::Foreign as i128);
    for &reason in Reason::ALL {
        set(&format!("COHMEM_REASON_{}", c_name(reason)), reason as i128);
    }
    for &event in Event::ALL {
        set(&format!("COHMEM_EVENT_{}", c_name(event)), event as i128);
    }
    for &cause in Cause::ALL {
        set(&format!("COHMEM_CAUSE_{}", c_name(cause)), cause as i128);
    }
}

/// `LargeFolio` is `LARGE_FOLIO` in C.
fn c_name(value: impl Debug) -> String {
    let mut name = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Every name that the header defines as a value: object-like macros and enum members.
fn header_names(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in header.lines() {
        let line = line.trim_start();
        let name = match line.strip_prefix("#define ") {
            Some(rest) => rest.split_whitespace().next(),
            None if line.starts_with("COHMEM_") => line.split([' ', '\t', '=', ',']).next(),
            None => None,
        };
        if let Some(name) = name
            && name.starts_with("COHMEM_")
            && !name.contains('(')
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// Compiles and runs a program that prints the value of each key of `expected` as the header has it.
fn values_in_c(include: &Path, expected: &Values) -> Result<Values, String> {
    let mut program = String::from(
        "#include <linux/cohmem.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{\n",
    );
    for key in expected.keys() {
        let (what, name) = key.split_once(' ').unwrap();
        let value = match what {
            "const" => name.to_owned(),
            "sizeof" => format!("sizeof(struct cohmem_{name})"),
            _ => {
                let (structure, field) = name.split_once('.').unwrap();
                match what {
                    "offset" => format!("offsetof(struct cohmem_{structure}, {field})"),
                    _ => format!("sizeof(((struct cohmem_{structure} *)0)->{field})"),
                }
            }
        };
        program.push_str(&format!(
            "\tprintf(\"%s\\t%lld\\n\", \"{key}\", (long long)({value}));\n"
        ));
    }
    program.push_str("\treturn 0;\n}\n");

    let directory = scratch();
    let source = directory.join("values.c");
    let binary = directory.join("values");
    fs::write(&source, program).unwrap();
    let compiled = Command::new("cc")
        .args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Wpadded",
            "-Werror",
            "-I",
        ])
        .arg(include)
        .arg("-o")
        .args([&binary, &source])
        .output()
        .expect("cc is part of the tool chain");
    let result = if compiled.status.success() {
        let printed = Command::new(&binary).output().unwrap();
        Ok(String::from_utf8(printed.stdout)
            .unwrap()
            .lines()
            .map(|line| {
                let (key, value) = line.split_once('\t').unwrap();
                (key.to_owned(), value.parse().unwrap())
            })
            .collect())
    } else {
        Err(String::from_utf8_lossy(&compiled.stderr).into_owned())
    };
    fs::remove_dir_all(directory).unwrap();
    result
}

/// A new directory in the one that Cargo gives to integration tests.
fn scratch() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "header-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn crate_values() -> Values {
    let mut values = Values::new();
    crate_structures(&mut values);
    crate_constants(&mut values);
    values
}

/// As the crate and the C compiler see the header: the differing values.
fn differences(expected: &Values, found: &Values) -> Vec<String> {
    expected
        .iter()
        .filter(|&(key, value)| found.get(key) != Some(value))
        .map(|(key, value)| format!("{key}: {value} in the crate, {:?} in C", found.get(key)))
        .collect()
}

fn header_text() -> String {
    fs::read_to_string(Path::new(HEADER).join("linux/cohmem.h")).unwrap()
}

#[test]
fn crate_and_header_agree() {
    let expected = crate_values();
    let found = values_in_c(Path::new(HEADER), &expected).unwrap_or_else(|text| panic!("{text}"));
    let differing = differences(&expected, &found);
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn every_name_of_the_header_is_in_the_crate() {
    let expected = crate_values();
    let names = header_names(&header_text());
    assert!(
        names.len() > 50,
        "only {} names were found in the header",
        names.len()
    );
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !expected.contains_key(&format!("const {name}")))
        .collect();
    assert!(
        missing.is_empty(),
        "in the header, not in the crate: {missing:?}"
    );
}

#[test]
fn page_entries_are_packed_as_the_macros_unpack_them() {
    let header = header_text();
    for (name, text) in [
        ("COHMEM_PAGE_REASON(entry)", "((entry) & 0xff)"),
        ("COHMEM_PAGE_TIER(entry)", "(((entry) >> 8) & 0x3)"),
        ("COHMEM_PAGE_DEVICE(entry)", "(((entry) >> 10) & 0x3f)"),
    ] {
        assert!(
            header
                .lines()
                .any(|line| line.contains(name) && line.ends_with(text)),
            "{name} is no longer {text}"
        );
    }
    let entry = PageEntry::new(Tier::Device, 13, Some(Reason::Ksm));
    let raw = entry.raw();
    assert_eq!(raw & 0xff, u16::from(Reason::Ksm as u8));
    assert_eq!((raw >> 8) & 0x3, Tier::Device as u16);
    assert_eq!((raw >> 10) & 0x3f, 13);
    assert_eq!(PageEntry::from_raw(raw).device(), Some(13));
    assert_eq!(PageEntry::from_raw(raw).reason(), Some(Reason::Ksm));
}

/// The check itself: each of these changes to the header must be noticed.
#[test]
fn a_changed_header_is_noticed() {
    let header = header_text();
    let expected = crate_values();
    for (from, to) in [
        ("COHMEM_REASON_KSM\t\t= 10", "COHMEM_REASON_KSM\t\t= 27"),
        (
            "#define COHMEM_MAX_STUCK\t4096",
            "#define COHMEM_MAX_STUCK\t4095",
        ),
        (
            "COHMEM_IOC_MAGIC, 0x12, struct cohmem_query",
            "COHMEM_IOC_MAGIC, 0x14, struct cohmem_query",
        ),
        ("__u32 refs;\n\t__u32 maps;", "__u32 maps;\n\t__u32 refs;"),
        ("__s32 proc_fd;\n\t__u32 pad;", "__s32 proc_fd;"),
        ("__u64 nr_here;", "__u32 nr_here;"),
    ] {
        assert!(header.contains(from), "the header no longer says {from:?}");
        let include = scratch();
        fs::create_dir_all(include.join("linux")).unwrap();
        fs::write(include.join("linux/cohmem.h"), header.replacen(from, to, 1)).unwrap();
        let noticed = match values_in_c(&include, &expected) {
            Ok(found) => !differences(&expected, &found).is_empty(),
            Err(_) => true,
        };
        fs::remove_dir_all(include).unwrap();
        assert!(noticed, "{from:?} changed to {to:?} went unnoticed");
    }
    let added = header.replacen(
        "COHMEM_REASON_KSM\t",
        "COHMEM_REASON_INVENTED\t= 30,\n\tCOHMEM_REASON_KSM\t",
        1,
    );
    assert!(
        header_names(&added)
            .iter()
            .any(|name| !expected.contains_key(&format!("const {name}"))),
        "an added reason went unnoticed"
    );
}
