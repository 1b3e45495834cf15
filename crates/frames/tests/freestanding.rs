//! The driver compiles the crate with plain rustc and has no panic machinery. So: one compiler call,
//! no cargo, and no way to a panic in the machine code, not even with overflow checks.
#![cfg(not(any(loom, miri)))]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn compile(out_dir: &Path, flags: &[&str], source: &Path) {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "rlib",
            "--emit",
            "link,asm",
        ])
        .args([
            "-D",
            "warnings",
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "embed-bitcode=no",
        ])
        .args(flags)
        .arg("--out-dir")
        .arg(out_dir)
        .arg(source)
        .output()
        .expect("rustc is on the path");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn compiles_alone_and_cannot_panic() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("freestanding");
    fs::create_dir_all(&out_dir).unwrap();
    let library = ["--crate-name", "cohmem_frames"];
    let checked = ["-C", "overflow-checks=on", "-C", "codegen-units=1"];
    compile(
        &out_dir,
        &[&library[..], &checked].concat(),
        &crate_dir.join("src/lib.rs"),
    );

    let extern_flag = format!(
        "cohmem_frames={}",
        out_dir.join("libcohmem_frames.rlib").display()
    );
    let user = ["--crate-name", "user", "--extern", &extern_flag];
    compile(
        &out_dir,
        &[&user[..], &checked].concat(),
        &crate_dir.join("tests/freestanding/user.rs"),
    );

    let assembly = |name| fs::read_to_string(out_dir.join(name)).unwrap();
    let user = assembly("user.s");
    assert!(
        user.contains("allocate_and_free"),
        "the wrapper was compiled"
    );
    for text in [assembly("cohmem_frames.s"), user] {
        let panics: Vec<_> = text.lines().filter(|line| line.contains("panic")).collect();
        assert!(panics.is_empty(), "{panics:#?}");
    }
}
