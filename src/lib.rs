//! flowctl: a declarative reconciliation controller for data pipelines.
//!
//! A pipeline is a YAML file of sources, processors and sinks. `flowctl apply` hands it to a daemon
//! that compares, for ever, what is wanted with what runs, and takes the smallest set of start,
//! stop and restart actions that makes them equal. What users rely on is told in the README and
//! in the help topics (`src/cli/topics`); this page is the tour for those who read or change the code.
//!
//! # The house
//!
//! The crate is a house of rooms. A room imports only rooms of lower levels, and a heavy dependency
//! is at home in one room, so that it can be replaced there. `tests/architecture` keeps both rules.
//!
//! | level | room | what it is |
//! |---|---|---|
//! | 0 | [`model`] | the vocabulary: every concept as one type, from YAML to status |
//! | 1 | [`manifest`] | YAML text to pipelines, or to every problem with its place |
//! | 1 | [`planner`] | what to do, given what is wanted, what is seen, and the time |
//! | 1 | [`conditions`] | what is wrong, since when, and whom it holds up |
//! | 1 | [`clock`] | wall time that tests can move |
//! | 1 | [`failpoint`] | places at which tests make this program fail |
//! | 1 | [`files`] | the files that users name: read with a limit, a deadline and a way to give up |
//! | 1 | [`graph`] | what reads from what, and what waits for what |
//! | 1 | [`http`] | one exchange with another host that may do anything, by TLS where it is asked for |
//! | 1 | [`ownership`] | who else could change what a path names |
//! | 1 | [`text`] | text as a terminal shows it, and what there is in words |
//! | 2 | [`store`] | what is remembered, in an embedded database |
//! | 2 | [`probe`] | asks components whether they are well |
//! | 2 | [`watch`] | a file, to the last good pipelines in it |
//! | 3 | [`images`] | which images may run: policy, registries, signatures; the one gate from a name to an image |
//! | 4 | [`driver`] | where components run |
//! | 5 | [`preflight`] | what will not work on this host, found before anything is started |
//! | 5 | [`reconciler`] | the only writer: commands in, snapshots out |
//! | 5 | [`usage`] | what replicas use of their host, measured while somebody asks |
//! | 6 | [`control_plane`] | what components call: both gRPC services, tokens, TLS |
//! | 6 | [`api`] | what the command line and scripts call, and its client |
//! | 6 | [`metrics`] | what scrapers read: a snapshot and the daemon itself, as metrics |
//! | 6 | [`notify`] | tells people and programs what is wrong, without being asked |
//! | 6 | [`telemetry`] | the daemon's log |
//! | 7 | [`daemon`] | wires all of the above |
//! | 7 | [`dashboard`] | all of it at a glance, in a terminal |
//! | 7 | [`web`] | the same in a browser |
//! | 8 | [`cli`] | what people type, and what they read |
//!
//! # Five ideas
//!
//! 1. **Decide in pure code, act in thin code.** [`planner`] is total and deterministic, without IO,
//!    clock or async. Its [`Plan`](model::Plan) is so specific that execution has no choice left.
//!    Why nothing happened is data too: whatever is unsettled has a step with a
//!    [`Reason`](model::Reason), or a [`Hold`](model::Hold).
//! 2. **Level-triggered.** File events, exits, probe results and commands only say "look again".
//!    Boot, edit, crash and tick take one path, and a full look every 10 s heals whatever an event
//!    lost. A driver that does not answer is blind: absence of evidence is not evidence of absence.
//! 3. **One owner.** One task owns the state. Everybody else holds a
//!    [`ReconcilerHandle`](reconciler::ReconcilerHandle): it sends a
//!    [`Command`](reconciler::Command) and reads the latest [`Snapshot`](model::Snapshot).
//! 4. **Adoption is not a code path.** Record the intent, act, record the result. Instances carry
//!    their identity, so a new daemon finds them by looking, and what runs as it should is an empty
//!    plan.
//! 5. **One type per concept.** The driver is a variant of [`Workload`](model::Workload), a
//!    [`Phase`](model::Phase) carries its data, no state is a string.
//!
//! # Where to start reading
//!
//! [`model::Plan`] for the words, [`planner`] for the decisions, [`driver`] for the contract that a
//! backend keeps, [`reconciler`] for the loop that joins them.
//!
//! # Conventions
//!
//! The words are those of the glossary in [`model`], and each thing has one of them.
//!
//! * **Names.** The field's own term, else a plain noun or verb. A type is what it holds
//!   ([`ReplicaKey`](model::ReplicaKey)), a function what it answers or does (`due`, `start`), a truth
//!   begins with `is` or `has`. Two states are an enum with two names, not a `bool` parameter:
//!   `OnProblem::Wait` tells a reader what `true` does not.
//! * **Comments.** A sentence with a subject, a verb and the noun of the domain, in the present tense.
//!   A public item says what it does, its units, its errors, and where a number comes from. Inside a
//!   function a comment says why, never what: "One user's broken file stops nobody else's edits".
//! * **Errors.** What failed, on what, why, and what to do. An error is handled, returned, or becomes
//!   state that `status` shows; never two of these, and never nothing.
//!   `cannot read /etc/secrets/key: permission denied; give the file to the daemon's user`.
//!   `unwrap` stands in tests only, and `expect` states what always holds.
//! * **Tests.** A test's name is a sentence of a user, `edit_restarts_only_the_changed_component`. It
//!   waits for a condition, until a deadline. That something does *not* happen is proved by the next
//!   thing that does, not by sleeping. It has free ports and folders of its own, and asserts no speed.
//!   A journey is run on the real program, engine or cluster; only the reconciler has a driver that
//!   is scripted, so that thousands of faults can be tried in a second.
//!
//! # Adding to it
//!
//! **To add a driver:** a variant of `Workload` and `DriverKind` in `model/spec/workload.rs`; its fields in
//! `manifest/workload.rs` and how it is reached in `manifest/exposure.rs`, with a good and a broken file in
//! `tests/data/manifests`; a folder in `driver/` that implements the contract of `driver/mod.rs` and passes the conformance
//! suite (its handle is its own: nobody else reads it); one line in `daemon`; its crates in the table of `tests/architecture`,
//! which also counts the places outside that still name a driver and lets them only become fewer; its rows in the help topics and in
//! the changelog.
//!
//! **To add a command:** its arguments in `cli/args.rs`, a file of the verb's name in `cli/`, a route in `api` if the daemon
//! has to answer something new; its exit codes from the help topic `exit-codes`; `-o json` if it prints results; a journey in
//! `tests/journeys` named for what a person wants; the table of commands in the README, its task in `cli/help.rs`, and the changelog.

pub mod api;
pub mod cli;
pub mod clock;
pub mod conditions;
pub mod control_plane;
pub mod daemon;
pub mod dashboard;
pub mod driver;
pub mod failpoint;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod graph;
pub mod http;
pub mod images;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod ownership;
pub mod planner;
pub mod preflight;
pub mod probe;
pub mod reconciler;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod usage;
pub mod watch;
pub mod web;
