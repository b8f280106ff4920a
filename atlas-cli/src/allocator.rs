//! What the memory allocator is told before anything runs.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// How long memory that is free stays with the process, in milliseconds: ten minutes, and not one second.
/// A replica takes hundreds of megabytes between two checkpoints, gives them back at once, and takes them
/// again; for memory that went back to the system in between, each page of 4 KiB costs a microsecond, and
/// ten on many virtual machines (docs/adr/0007-memory-stays.md).
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "600000");

/// Sees to it that the allocator keeps memory, for a process that runs for long. The allocator reads its
/// settings before `main`, so the program begins anew, with the same number and files; nothing may have
/// been done before. What the operator has set stays.
pub(crate) fn keep_memory() {
    let (name, value) = PURGE_DELAY;
    if env::var_os(name).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut again = Command::new(program);
    let mut arguments = env::args_os();
    if let Some(called) = arguments.next() {
        again.arg0(called);
    }
    // It returns only where it fails: then the allocator keeps its own settings, and replicas are slower.
    let _why_not = again.args(arguments).env(name, value).exec();
}
