//! Tells people and programs what is wrong, without being asked.
//!
//! **Expected flow.** The daemon makes a [`Notifier`] from what an earlier one kept and runs it
//! beside the owner of the state. It reads the notification file ([`Source`]), compares the
//! conditions of each snapshot with what each target was told, and delivers what is missing.
//!
//! **Guarantees.** A condition that was due is told at least once, whatever is killed in between:
//! it is recorded as soon as it is due, and its message until it was taken. A message that comes
//! twice bears the same id. What a target does, or does not do, delays nobody else: each has a queue
//! of its own, one delivery under way, and deadlines. Nothing secret is shown, logged or recorded.
//!
//! **What it does not do.** It decides nothing about components, and finds nothing wrong by itself:
//! that is [`crate::conditions`].

mod deliver;
mod exec;
mod http;
mod kept;
mod message;
mod queue;
mod run;
mod sign;
mod source;
mod tracker;

pub use deliver::look;
pub use run::{Notifier, NotifyError, NotifyHandle, OwnTargets};
pub use source::{FILE, Source};
