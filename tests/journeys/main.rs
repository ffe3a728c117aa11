//! What users do, with the real binary and real processes. One file per journey.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod adopt;
mod alone;
mod apply;
mod assault;
mod churn;
mod clients;
mod clock;
mod components;
mod containers;
mod control;
mod crash;
mod damage;
mod disk;
mod doors;
mod down;
mod endpoints;
mod engine;
mod faults;
mod folder;
mod health;
mod hung;
mod images;
mod limits;
mod lives;
mod logs;
mod names;
mod outages;
mod podman;
mod proxy;
mod readme;
mod run;
mod servers;
mod signals;
mod soak;
mod support;
