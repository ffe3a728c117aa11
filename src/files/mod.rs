//! The files that users name: read with a limit, a deadline and a way to give up, and the dialect
//! of env files.
//!
//! A manifest may name a named pipe that nobody writes to, a file on a network mount that is dead,
//! a device, something huge. None of them may hold anything but the start that needs it.
//!
//! **Guarantees.** [`read()`] ends when its [`Patience`] does, or is given up; whoever drops it has
//! given it up. What hangs in the kernel keeps one thread for each path, however often it is asked
//! for, and no thread of anybody else's. Nothing is read beyond a limit. [`look`] never opens a
//! pipe: what somebody wrote there is for the start.
//!
//! **What it does not do.** It keeps nothing that it read, and logs nothing: contents are secrets.

mod env;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod read;

pub use env::{EnvFile, EnvMistake, EnvProblem, Literal, parse_env};
pub use read::{Judge, Looked, Patience, ReadError, Wait, Wanted, look, read};

/// The largest env file, and the largest secret (Kubernetes' limit).
pub const LARGEST: u64 = 1 << 20;
