//! The Rust half of the module: `core`, our crates, one relocatable object.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    Toolchain, Tree, Variant,
    kernel::Kernel,
    step::{self, Key, output_of},
};

const EDITION: &str = "--edition=2024";

/// The crates of the tree that modules are made of, each before those that use it. The bindings are
/// generated, the module's own crate is the last.
pub(super) const CRATES: [(&str, &str); 4] = [
    ("cohmem_frames", "crates/frames/src"),
    ("cohmem_uapi", "crates/uapi/src"),
    ("cohmem_kcore", "kernel/core/src"),
    ("cohmem_ksys", "kernel/sys/src"),
];

/// Functions that C code calls: everything else that nothing refers to is left
/// out of the object.
const ROOTS: [&str; 5] = [
    "cohmem_module_init",
    "cohmem_module_exit",
    "cohmem_frame_freed",
    "cohmem_memory_failed",
    "cohmem_page_touched",
];

/// What the compiler of the kernel's side refuses; clippy does not see these crates.
const LINTS: [&str; 4] = [
    "-Dwarnings",
    "-Wmissing_docs",
    "-Wunreachable_pub",
    "-Dunsafe_op_in_unsafe_fn",
];

const BUILTINS: &str = "\
#![allow(internal_features)]
#![feature(compiler_builtins)]
#![compiler_builtins]
#![no_builtins]
#![no_std]
";

/// rustc with the kernel's flags, and a `core` compiled by it.
pub(super) struct Compiler {
    toolchain: Toolchain,
    flags: Vec<String>,
    core: PathBuf,
}

impl Compiler {
    /// Compiles `core`, unless it is cached.
    pub(super) fn new(kernel: &Kernel, tree: &Tree, toolchain: &Toolchain) -> Result<Self> {
        let library = &toolchain.library;
        let source = library.join("core/src/lib.rs");
        let mut flags = flags(kernel);
        // Panic locations don't depend on where sources lie.
        flags.push(format!("--remap-path-prefix={}=/rust", library.display()));
        let key = Key::new("core")
            .text(&toolchain.version)
            .texts(&flags)
            .metadata(&source)?;
        let core = tree.out.join(format!("core-{}", key.finish()));
        let mut compiler = Self {
            toolchain: toolchain.clone(),
            flags,
            core,
        };
        let output = compiler.core.join("libcore.rlib");
        step::run(&output, &key, || {
            eprintln!("compiling core for the kernel (once, about 30 s)");
            let mut command = compiler.rustc();
            command.args([
                "--crate-type",
                "rlib",
                "--crate-name",
                "core",
                "--cfg",
                "no_fp_fmt_parse",
            ]);
            command.args(["--cap-lints", "allow"]);
            output_of(command.arg("-o").arg(&output).arg(&source)).map(drop)
        })?;
        compiler.compile_builtins()?;
        // Not a flag of `core`, which any source tree can use.
        let remap = format!("--remap-path-prefix={}/=", tree.root.display());
        compiler.flags.push(remap);
        Ok(compiler)
    }

    /// rustc wants a crate of this name beside `core`. Ours is empty: what the compiler calls must be
    /// a function of the kernel's, else modpost refuses the module.
    fn compile_builtins(&self) -> Result<()> {
        let output = self.core.join("libcompiler_builtins.rlib");
        step::run(
            &output,
            &self.key("compiler_builtins").text(BUILTINS),
            || {
                let source = self.core.join("compiler_builtins.rs");
                fs::write(&source, BUILTINS).context("cannot write the compiler_builtins crate")?;
                let mut command = self.rustc_over_core("compiler_builtins", &self.core, &[]);
                command.args(["--crate-type", "rlib"]);
                output_of(command.arg("-o").arg(&output).arg(source)).map(drop)
            },
        )
    }

    fn rustc(&self) -> Command {
        let mut command = Command::new(&self.toolchain.rustc);
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .args(&self.flags)
            .arg(EDITION);
        command
    }

    /// rustc for a crate over `core`, and over the crates `uses` in `directory`.
    fn rustc_over_core(&self, name: &str, directory: &Path, uses: &[&str]) -> Command {
        let mut command = self.rustc();
        command.args(["--sysroot=/dev/null", "--crate-name", name]);
        command.arg("-L").arg(&self.core).arg("-L").arg(directory);
        for used in uses {
            command.args(["--extern", used]);
        }
        command
    }

    fn key(&self, name: &str) -> Key {
        Key::new(name)
            .text(&self.toolchain.version)
            .texts(&self.flags)
    }
}

/// Builds the crates and links them into one object.
pub(super) fn build(
    compiler: &Compiler,
    tree: &Tree,
    bindings: &Path,
    out: &Path,
    variant: Variant,
) -> Result<PathBuf> {
    // A crate depends on all those before it: their digests go into its own.
    let mut key = compiler.key("crates").text(variant.name());
    let mut libraries = Vec::new();
    let output = out.join("libbindings.rlib");
    key = key.file(bindings)?;
    step::run(&output, &key, || {
        let mut command = compiler.rustc_over_core("bindings", out, &[]);
        command.args(["--crate-type", "rlib", "--cap-lints", "allow"]);
        output_of(command.arg("-o").arg(&output).arg(bindings)).map(drop)
    })?;
    libraries.push(output);

    let mut names = vec!["bindings"];
    for (name, directory) in CRATES {
        let source = tree.root.join(directory);
        let output = out.join(format!("lib{name}.rlib"));
        key = key.text(name).directory(&source)?;
        step::run(&output, &key, || {
            let mut command = compiler.rustc_over_core(name, out, &names);
            command.args(["--crate-type", "rlib"]).args(variant.cfg());
            command.args(LINTS);
            output_of(command.arg("-o").arg(&output).arg(source.join("lib.rs"))).map(drop)
        })?;
        libraries.push(output);
        names.push(name);
    }

    let source = tree.root.join(variant.directory()).join("src");
    let crate_object = out.join("module.o");
    let key = key.text("module").directory(&source)?;
    step::run(&crate_object, &key, || {
        let mut command = compiler.rustc_over_core(variant.module(), out, &names);
        command
            .args(["--crate-type", "lib", "--emit", "obj"])
            .args(variant.cfg());
        command.args(LINTS);
        output_of(
            command
                .arg("-o")
                .arg(&crate_object)
                .arg(source.join("lib.rs")),
        )
        .map(drop)
    })?;
    libraries.push(compiler.core.join("libcore.rlib"));
    link(tree, &crate_object, &libraries, &out.join("rust.o"), &key)
}

fn link(
    tree: &Tree,
    object: &Path,
    libraries: &[PathBuf],
    output: &Path,
    key: &Key,
) -> Result<PathBuf> {
    let script = tree.shared().join("merge.lds");
    let key = key
        .clone()
        .text("link")
        .text(ROOTS.join(" "))
        .file(&script)?;
    step::run(output, &key, || {
        let mut command = Command::new("ld");
        command
            .arg("-r")
            .arg("-T")
            .arg(&script)
            .arg("--gc-sections");
        for root in ROOTS {
            command.args(["-u", root]);
        }
        command
            .arg("-o")
            .arg(output)
            .arg(object)
            .arg("--start-group")
            .args(libraries);
        output_of(command.arg("--end-group")).map(drop)
    })?;
    fs::metadata(output).context("ld made nothing")?;
    Ok(output.to_path_buf())
}

/// The flags that make rustc's code fit the kernel's: the ABI of its C code, its mitigations, and
/// its sanitizer when it has one.
fn flags(kernel: &Kernel) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--target=x86_64-unknown-none",
        "-Cpanic=abort",
        "-Copt-level=2",
        "-Ccodegen-units=1",
        "-Cembed-bitcode=no",
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        "-Cno-redzone=y",
        "-Csymbol-mangling-version=v0",
        "-Cjump-tables=no",
        "-Cforce-frame-pointers=n",
        "-Cforce-unwind-tables=n",
        "-Coverflow-checks=n",
        "-Cdebug-assertions=n",
        "-Zplt=yes",
        "-Zdirect-access-external-data=yes",
        // The kernel keeps the stack aligned to 8 bytes, LLVM assumes 16: this makes functions that
        // need 16 align it themselves.
        "-Zllvm_module_flag=override-stack-alignment:u32:8:max",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |option: &str, words: &[&str]| {
        if kernel.has(option) {
            flags.extend(words.iter().map(|&word| word.to_owned()));
        }
    };
    add("X86_KERNEL_IBT", &["-Zcf-protection=branch"]);
    add("MITIGATION_RETPOLINE", &["-Zretpoline-external-thunk"]);
    add("MITIGATION_RETHUNK", &["-Zfunction-return=thunk-extern"]);
    add(
        "KASAN_GENERIC",
        &[
            "-Zsanitizer=kernel-address",
            "-Zsanitizer-recover=kernel-address",
            "-Cllvm-args=-asan-mapping-offset=0xdffffc0000000000",
            "-Cllvm-args=-asan-instrumentation-with-call-threshold=10000",
            "-Cllvm-args=-asan-stack=1",
            "-Cllvm-args=-asan-globals=0",
            // Without globals they have nothing to do, and lack what other functions have.
            "-Cllvm-args=-asan-constructor-kind=none",
            "-Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1",
        ],
    );
    if let Some(bytes) = padding_bytes(kernel) {
        flags.push(format!("-Zpatchable-function-entry={bytes},{bytes}"));
        flags.push(format!("-Zmin-function-alignment={bytes}"));
    }
    flags
}

/// Bytes before each function that the kernel patches call thunks into.
pub(super) fn padding_bytes(kernel: &Kernel) -> Option<u32> {
    if kernel.has("CALL_PADDING") {
        kernel.number("FUNCTION_PADDING_BYTES")
    } else {
        None
    }
}
