//! The contract, as tests that every backend runs.
//!
//! `cargo test -p cohmem --test conformance -- [--backend BACKEND] [FILTER]`, or the backend in
//! `COHMEM_BACKEND`; the engine with 96 MiB of emulated memory by default. What a backend cannot give is a
//! declared capability, printed at the start, and a test asserts that it is refused or safe.
//!
//! The driver's backend expects an attached device with nothing on it, of 64 MiB or more.

use std::{any::Any, panic, process::ExitCode};

use cohmem::{Backend, EngineBackend, EngineSource, Pool};
use libtest_mimic::{Arguments, Failed, Trial};

mod background;
mod bad_input;
mod concurrency;
mod heap;
mod kinds;
mod ordinary;
mod pins;
mod placement;
mod subject;
mod sys;
mod told;

use self::subject::Subject;

/// A test: its name and what it runs.
type Test = (&'static str, fn(&Subject));

const GROUPS: [(&str, &[Test]); 9] = [
    ("placement", placement::TESTS),
    ("concurrency", concurrency::TESTS),
    ("told", told::TESTS),
    ("pins", pins::TESTS),
    ("background", background::TESTS),
    ("heap", heap::TESTS),
    ("kinds", kinds::TESTS),
    ("ordinary", ordinary::TESTS),
    ("bad_input", bad_input::TESTS),
];

fn main() -> ExitCode {
    let (backend, words) = backend(std::env::args().collect());
    let mut arguments = Arguments::from_iter(words);
    // Tests count free frames, and fork.
    arguments.test_threads = Some(1);
    if !arguments.list {
        match Pool::open(&backend) {
            Ok(pool) => println!("{}\n{:?}", pool.selection(), pool.capabilities()),
            Err(error) => {
                eprintln!("the backend {backend} cannot be had: {error}");
                return ExitCode::from(3);
            }
        }
    }
    let trials = GROUPS
        .into_iter()
        .flat_map(|(group, tests)| tests.iter().map(move |test| (group, test)))
        .map(|(group, (name, run))| trial(format!("{group}::{name}"), *run, backend.clone()))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Takes `--backend X` out of the arguments.
fn backend(mut words: Vec<String>) -> (Backend, Vec<String>) {
    let mut text = std::env::var("COHMEM_BACKEND").ok();
    if let Some(at) = words.iter().position(|word| word == "--backend") {
        words.remove(at);
        assert!(at < words.len(), "--backend takes a value");
        text = Some(words.remove(at));
    }
    let backend = match text {
        Some(text) => text.parse().unwrap_or_else(|error| panic!("{error}")),
        None => Backend::Engine(EngineBackend {
            source: EngineSource::Emulated(cohmem::ByteCount::new(96 << 20)),
            ..EngineBackend::default()
        }),
    };
    (backend, words)
}

fn trial(name: String, run: fn(&Subject), backend: Backend) -> Trial {
    Trial::test(name, move || {
        panic::catch_unwind(|| run(&Subject::open(&backend))).map_err(|payload| text(&*payload))
    })
}

fn text(payload: &(dyn Any + Send)) -> Failed {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    Failed::from(text.unwrap_or("panicked"))
}
