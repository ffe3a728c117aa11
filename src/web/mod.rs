//! `flowctl web`: all of it in a browser.
//!
//! **Expected flow.** The command line calls [`serve`] with a client of the daemon and an address.
//! The daemon has no door of its own for browsers: this is a proxy in front of its socket, for
//! whoever may open that.
//!
//! **Guarantees.** Nobody is answered who was not let in (`doors`). Nothing can be changed unless
//! that was asked for. The page needs no other host and runs no script but its own. However many
//! pages are open, the daemon is asked for its snapshots once. What a browser costs is bounded:
//! connections, pages, the size and time of a request, and one that stops reading.
//!
//! **What it does not do.** It keeps nothing: sessions end with it.

mod doors;
mod hub;
mod page;
mod routes;
mod server;

pub use doors::{LEAST_TOKEN, NoRandomness, Security};
pub use routes::Control;
pub use server::{Options, Ready, WebError, serve};
